"""Where Polars computes: on the processor, or with cuDF on an NVIDIA GPU (extra `gpu`).

The same lazy frames go to either. What cuDF has no way to do, Polars does on the processor; what it gives is the same.
"""

from importlib.util import find_spec
from typing import Literal

import polars as pl

from recsys.errors import ConfigError

Device = Literal["cpu", "gpu"]


def require_device(device: str) -> Device:
    """The device of that name; ConfigError where it is none, or cuDF is not there."""
    if device == "gpu":
        if find_spec("cudf_polars") is None:
            fix = "on a machine with an NVIDIA GPU: pip install 'recsys[gpu]'; anywhere: engine 'cpu'"
            raise ConfigError(f"engine 'gpu' needs cuDF (package cudf_polars), which is not installed; {fix}")
        return "gpu"
    if device == "cpu":
        return "cpu"
    raise ConfigError(f"engine '{device}' is none of cpu, gpu")


def collect(lazy: pl.LazyFrame, device: Device) -> pl.DataFrame:
    """The result of a lazy frame."""
    return lazy.collect(engine=pl.GPUEngine(raise_on_fail=False)) if device == "gpu" else lazy.collect()

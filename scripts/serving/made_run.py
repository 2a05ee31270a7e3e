"""A run of the size that the benchmark of serving names, trained for a few steps on generated sessions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.config import RunConfig
from recsys.etl import preprocess
from recsys.schema import FIRST_ID
from recsys.training import train

TEXT_WIDTH = 384
STREAMS = ["item_id", "classification", "target", "timestamp_interval", "merge_count", "text"]
"""Five streams: the two columns of numbers are one."""
START = 1_600_000_000_000_000


@dataclass(frozen=True)
class Size:
    """What decides how long an answer takes."""

    items: int = 4000
    length: int = 110
    width: int = 256
    layers: int = 2


def make_run(folder: Path, size: Size) -> Path:
    """Write sessions, a dataset and a run below `folder`; returns the run's folder."""
    classes = np.arange(size.items)
    names = [name_of(n) for n in range(size.items)]
    commands = pl.DataFrame(
        {
            "item_id": names,
            "classification": [f"class {n % 20}" for n in classes],
            "target": [f"target {n % 90}" for n in classes],
        }
    )
    rng = np.random.default_rng(0)
    table = rng.standard_normal((size.items + FIRST_ID, TEXT_WIDTH)).astype(np.float32)
    table[:FIRST_ID] = 0
    np.save(folder / "text.npy", table)
    config = config_of(size, folder / "text.npy")
    preprocess(make_events(size), config, folder / "dataset", commands=commands)
    return train(folder / "dataset", config, folder / "run").path


def name_of(item: int) -> str:
    """A name as long as those of commands in logs are."""
    return f"Tool: Generated command ({item})"


def make_events(size: Size) -> pl.DataFrame:
    """Sessions of up to twice the length that the model reads, in which every item occurs."""
    rng = np.random.default_rng(1)
    rows = max(12 * size.length * 10, 2 * size.items)
    share = 1.0 / np.arange(1, size.items + 1)
    drawn = np.concatenate(
        [rng.permutation(size.items), rng.choice(size.items, rows - size.items, p=share / share.sum())]
    )
    lengths: list[int] = []
    while sum(lengths) < rows:
        lengths.append(int(rng.integers(size.length // 2 + 1, 2 * size.length)))
    session = np.repeat(np.arange(len(lengths)), lengths)[:rows]
    return pl.DataFrame(
        {
            "session_id": [f"session {n:05d}" for n in session],
            "item_id": [name_of(n) for n in drawn.tolist()],
            "timestamp": START + np.cumsum(rng.integers(1, 60_000_000, rows)),
            "merge_count": rng.integers(1, 5, rows),
        }
    )


def config_of(size: Size, table: Path) -> RunConfig:
    """LLaMA over fused streams."""
    width = size.width
    inputs: dict[str, Any] = {"streams": STREAMS, "text_table": str(table), "embedding_size": width}
    inputs |= {"fusion": "self_attention", "fusion_size": width, "fusion_heads": 4}
    backbone = {"name": "llama", "hidden_size": width, "num_layers": size.layers, "num_heads": 4}
    return RunConfig.model_validate(
        {
            "split": {"rule": "share", "by": "session_id", "test_share": 0.0, "validation_share": 0.0},
            "etl": {"min_length": 2},
            "model": {
                "max_length": size.length,
                "inputs": inputs,
                "backbone": {**backbone, "intermediate_size": 4 * width},
            },
            "training": {"max_steps": 3, "batch_size": 8, "threads": 1},
        }
    )

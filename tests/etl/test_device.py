"""The GPU engine: the same lazy frames go to cuDF (here: are caught on the way), and without cuDF one line says so."""

import polars as pl
import pytest

from recsys.config import RunConfig
from recsys.errors import ConfigError
from recsys.etl import device as module
from recsys.etl.polars_engine import preprocess
from tests.etl.test_workers import contents, many_buckets, table  # noqa: F401  (a fixture)

CONFIG = {
    "split": {"rule": "leave_last"},
    "etl": {
        "time": {"features": ["hour", "weekday", "log_gap"]},
        "bucketise": {"timestamp_interval": {"quantiles": 3}},
        "optional": ["cat", "classification", "target", "merge_count"],
    },
}


def test_without_cudf_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"engine 'gpu' needs cuDF .*pip install 'recsys\[gpu\]'") as error:
        preprocess(table(), None, tmp_path / "out", engine="gpu")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="engine 'tpu' is none of cpu, gpu"):
        preprocess(table(), None, tmp_path / "out", engine="tpu")


@pytest.mark.parametrize("split", [{"rule": "leave_last"}, {"test_share": 0.2}])
def test_the_dataset_is_the_same(tmp_path, monkeypatch, split):
    on_gpu = []
    plain = pl.LazyFrame.collect

    def caught(lazy, *, engine="auto", **given):
        if isinstance(engine, pl.GPUEngine):
            on_gpu.append(lazy.explain(optimized=False))
            return plain(lazy, **given)
        return plain(lazy, engine=engine, **given)

    config = RunConfig.model_validate(CONFIG | {"split": split})
    preprocess(table(), config, tmp_path / "cpu")
    monkeypatch.setattr(pl.LazyFrame, "collect", caught)
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    preprocess(table(), config, tmp_path / "gpu", engine="gpu")
    assert contents(tmp_path / "cpu") == contents(tmp_path / "gpu")
    sorts = [plan for plan in on_gpu if plan.lstrip().startswith("SELECT") and "SORT BY" in plan]
    logs = [plan for plan in on_gpu if "log1p" in plan]
    assert len(sorts) > 2 and len(logs) > 2 and len(on_gpu) > len(sorts) + len(logs)

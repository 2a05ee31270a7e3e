"""Whoever works on the buckets, the dataset is the same to the byte, also where a worker is killed in mid-run."""

import os
import random
import signal
from pathlib import Path

import polars as pl
import pytest

from recsys.buckets import Workers
from recsys.config import RunConfig
from recsys.errors import ConfigError, InputError
from recsys.etl import bucket_tasks, polars_engine
from recsys.etl import events as events_module
from recsys.etl.bucket_tasks import Shared, Written
from recsys.etl.polars_engine import preprocess
from tests.local_ray import ray  # noqa: F401  (a fixture)

CONFIGS = [
    {"split": {"test_share": 0.2}, "etl": {"chunk": {"min_items": 3, "max_items": 6}, "min_length": 2}},
    {"split": {"rule": "leave_last"}},
    {"split": {"rule": "none", "into": "train"}, "etl": {"time": {"features": ["hour", "log_gap"]}}},
]


def table(seed=0):
    rng = random.Random(seed)
    rows = []
    for session in range(60):
        time = rng.randrange(10**12)
        for _ in range(rng.randrange(1, 20)):
            time += rng.randrange(10**7)
            item = rng.choice(["a", "b", "c", "ä,😀", "", None])
            rows.append((f"s{session}", item, time, f"u{session // 3}", rng.choice(["M", None])))
    rng.shuffle(rows)
    schema = ["session_id", "item_id", "timestamp", "user_id", "cat"]
    return pl.DataFrame(rows, schema=schema, orient="row")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(autouse=True)
def many_buckets(monkeypatch):
    monkeypatch.setattr(events_module, "BUCKET_ROWS", 80)
    monkeypatch.setattr(events_module, "BATCH_ROWS", 50)


@pytest.mark.parametrize(
    ("engine", "cases"),
    [("threads", CONFIGS), ("processes", CONFIGS[:1]), pytest.param("ray", CONFIGS, marks=pytest.mark.slow)],
)
def test_the_same_bytes(engine, cases, tmp_path, request):
    if engine == "ray":
        request.getfixturevalue("ray")
    for number, values in enumerate(cases):
        config = RunConfig.model_validate(values)
        preprocess(table(number), config, tmp_path / f"loop-{number}", workers=Workers("loop"))
        preprocess(table(number), config, tmp_path / f"{engine}-{number}", workers=Workers(engine, 2))
        one = contents(tmp_path / f"loop-{number}")
        assert one == contents(tmp_path / f"{engine}-{number}")
        assert sum(name.startswith("train/") for name in one) > 2, "several buckets"


# Tasks that other processes find by name.


def write_but_die_once(shared: Shared, path: Path) -> Written:
    """Killed from outside after half of its work, the first time that bucket 1 is written."""
    mark = shared.folder.parent.parent / "died"
    if "00001" in path.name and not mark.exists():
        bucket_tasks.bucket_file(shared.folder, "train", path).write_bytes(b"PAR1 half")
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return bucket_tasks.write_sequences(shared, path)


def write_nothing(shared: Shared, path: Path) -> Written:
    raise InputError(f"{path.name}: cannot be written")


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_worker_killed_in_mid_run_changes_nothing(tmp_path, monkeypatch):
    config = RunConfig.model_validate(CONFIGS[0])
    preprocess(table(), config, tmp_path / "whole", workers=Workers("loop"))
    (tmp_path / "ray").mkdir()
    monkeypatch.setattr(polars_engine, "write_sequences", write_but_die_once)
    preprocess(table(), config, tmp_path / "ray" / "out", workers=Workers("ray", 2))
    assert (tmp_path / "died").exists()
    assert contents(tmp_path / "ray" / "out") == contents(tmp_path / "whole")


def test_an_error_in_a_worker_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(polars_engine, "write_sequences", write_nothing)
    for engine in ("threads", "processes"):
        with pytest.raises(InputError, match=r"^bucket-0000\d.arrow: cannot be written$"):
            preprocess(table(), None, tmp_path / engine, workers=Workers(engine, 2))
    assert list(tmp_path.iterdir()) == []


def test_processes_that_are_killed_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    monkeypatch.setattr(polars_engine, "write_sequences", write_but_die_once)
    with pytest.raises(ConfigError, match="a worker was killed from outside"):
        preprocess(table(), None, tmp_path / "p" / "out", workers=Workers("processes", 2))
    assert list((tmp_path / "p").iterdir()) == []

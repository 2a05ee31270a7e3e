"""What of a run the report reads, and which of it is shown."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recsys.errors import RunError
from recsys.report.contents import read_contents


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    return make_run("mine", positions=200, samples=5)


def test_files_are_read_as_they_are(run: Path) -> None:
    found = read_contents(run)
    assert found.name == "mine" and found.config.profile == "vectorworks"
    for name in ("metrics", "history", "environment", "dataset"):
        assert getattr(found, name) == json.loads((run / f"{name}.json").read_text())
    assert found.parameters == 3 * 5 + 7  # of the two tensors
    assert found.protocol["max_length"] == 110
    table = pl.read_parquet(run / "workflow" / "items.parquet")
    assert found.items is not None and found.items.counts.tolist() == table["count"].to_list()
    assert [found.items.name(i) for i in (3, 0, 10**6)] == [
        table["item_id"][3],
        "(id 0, no name)",
        "(id 1000000, no name)",
    ]


def test_groups_become_numbers_that_go_together(run: Path) -> None:
    found, table = read_contents(run).predictions, pl.read_parquet(run / "predictions.parquet")
    assert found is not None and found["group"].dtype == pl.Int64
    pairs = set(zip(table["group"], found["group"], strict=True))
    assert len(pairs) == table["group"].n_unique() == found["group"].n_unique()


def test_model_stands_first_and_the_test_split_is_shown(run: Path) -> None:
    assert list(read_contents(run).systems()) == ["model", "popularity", "markov1", "markov2", "last_item"]
    path = run / "metrics.json"
    values = json.loads(path.read_text())
    test = values["splits"]["test"]
    other = {"positions": {"all": {"markov1": {"mrr": 0.1}, "model": {"mrr": 0.2}}}}
    path.write_text(json.dumps({"splits": {"events": other}}))
    found = read_contents(run)
    assert found.split() == "events" and list(found.systems()) == ["model", "markov1"]
    assert found.systems("last") == {} and found.protocol == {}
    path.write_text(json.dumps({"splits": {"events": other, "test": test}}))
    assert read_contents(run).split() == "test"


def test_what_is_missing_is_none_and_what_is_damaged_is_named(run: Path) -> None:
    (run / "history.json").write_text('{"validation": [{"loss": 1.0}]}')
    with pytest.raises(RunError, match=r"history\.json: validation\.0\.step: "):
        read_contents(run)
    for name in ("history.json", "metrics.json", "environment.json", "dataset.json", "predictions.parquet"):
        (run / name).unlink()
    found = read_contents(run)
    assert [found.history, found.metrics, found.environment, found.dataset, found.predictions] == [None] * 5
    assert found.systems() == {} and found.split() is None
    (run / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(RunError, match=r"model\.safetensors: not a safetensors file"):
        read_contents(run)

"""New days for a run that exists, by the commands: apply its workflow, extend it, train on from its weights."""

# ruff: noqa: F401, F811  (fixtures are imported and named again as arguments)
import json
from pathlib import Path

import polars as pl
import pytest

from recsys.cli import main
from recsys.config import save_config
from recsys.etl import Workflow
from tests.refusal import Check, refused, tiny, work
from tests.tiny_run import make_config, make_events


@pytest.fixture
def new_days(work: Path) -> Path:
    """Events of 16 items, two of which the run does not know."""
    events = make_events(sessions=30, items=16, seed=9)
    events.with_columns(pl.col("session_id") + "new").write_csv(work / "new.csv")
    return work / "new.csv"


def run_plain(work: Path) -> None:
    """Replace work/run by one without attributes of the items, which a bare table of events can extend."""
    save_config(make_config(), work / "config.yaml")
    for arguments in (
        ["preprocess", "--events", "events.csv", "--out", "plain"],
        ["train", "--data", "plain", "--out", "first", "--set", "training.max_steps=1", "--set", "training.threads=1"],
    ):
        paths = [str(work / a) if a in ("events.csv", "plain", "first") else a for a in arguments]
        assert main([*paths, "--config", str(work / "config.yaml")]) == 0


def test_all_events_into_one_split_with_the_runs_workflow(
    work: Path, new_days: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["preprocess", "--events", str(new_days), "--into", "test"]
    assert main([*common, "--workflow", str(work / "run"), "--out", str(work / "new")]) == 0
    said = capsys.readouterr()
    assert "warning" not in said.out and "leakage" not in said.out
    assert "drift: 2 items have no id, with " in said.out
    events = pl.read_csv(new_days)
    report = json.loads((work / "new" / "report.json").read_text())
    sizes = {name: split["events_in"] for name, split in report["splits"].items()}
    assert sizes == {"train": 0, "val": 0, "test": events.height}
    expected = Workflow.load(work / "run" / "workflow").transform(events)
    made = pl.read_parquet(work / "new" / "test").sort("session_id")
    assert made.select(expected.columns).equals(expected.sort("session_id"))
    # Figures on it: the baselines that need no train split.
    flags = ["--run", str(work / "run"), "--data", str(work / "new"), "--out", str(work / "figures")]
    assert main(["evaluate", *flags]) == 0
    metrics = json.loads((work / "figures" / "metrics.json").read_text())
    assert set(metrics["splits"]["test"]["positions"]["all"]) == {"model", "popularity", "last_item"}


def test_extend_train_on_and_evaluate(work: Path, new_days: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_plain(work)
    before = Workflow.load(work / "plain").vocabulary("item_id").values.to_list()
    flags = ["--config", str(work / "first" / "config.yaml"), "--extend", str(work / "first")]
    capsys.readouterr()
    assert main(["preprocess", "--events", str(new_days), "--out", str(work / "more"), *flags]) == 0
    said = capsys.readouterr().out
    assert "extended: column 'item_id': 17 old ids, 2 new\n" in said and "drift: 2 items have no id" in said
    after = Workflow.load(work / "more").vocabulary("item_id").values.to_list()
    assert after[:14] == before and sorted(after[14:]) == ["command 14", "command 15"]
    flags = ["--config", str(work / "first" / "config.yaml"), "--init-from", str(work / "first")]
    assert main(["train", "--data", str(work / "more"), "--out", str(work / "second"), *flags]) == 0
    assert main(["evaluate", "--run", str(work / "second"), "--data", str(work / "more"), "--no-baselines"]) == 0


def test_mistakes_are_one_line(work: Path, new_days: Path, refused: Check) -> None:
    common = ("preprocess", "--events", new_days, "--out", work / "out")
    missing = "workflow.json: no such file; give a dataset, a run or its workflow/ folder"
    for flag in ("--extend", "--workflow"):
        assert refused(*common, flag, work / "nowhere") == f"error: {work / 'nowhere' / missing}\n"
    line = refused(*common, "--extend", work / "run", "--set", "etl.continuous.price.transforms=[zscore]")
    assert "etl.continuous.timestamp_interval is in the workflow to extend and not here; an extension keeps" in line
    assert "--refit-statistics goes with --extend" in refused(*common, "--refit-statistics")
    assert "no attribute 'classification' of the items, which the workflow has" in (
        refused(*common, "--extend", work / "run")
    )
    assert "the training split is empty, so nothing can be fitted" in refused(*common, "--into", "test")
    train = ("train", "--data", work / "dataset", "--out", work / "out", "--config", work / "config.yaml")
    assert "is a sequence dataset, not a run" in refused(*train, "--init-from", work / "dataset")
    assert "no such run directory" in refused(*train, "--init-from", work / "nowhere")
    line = refused(*train, "--init-from", work / "run", "--set", "model.inputs.embedding_size=12")
    assert "tensor 'inputs.embeddings.item_id.weight' is [17, 8] there, [17, 12] here; give the run's own" in line

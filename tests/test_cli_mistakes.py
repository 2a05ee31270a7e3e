"""What people get wrong with the commands: the wrong path, swapped arguments, files that were damaged since."""

# ruff: noqa: F401, F811  (fixtures are imported and named again as arguments)
import json
from pathlib import Path

import pytest

from recsys.cli import main
from tests.refusal import Check, refused, tiny, work
from tests.tiny_run import make_events

IS_DATASET = "is a sequence dataset, not a run; `recsys train` makes one of it"
IS_FILE = "is a file; name the run directory that `recsys train` wrote"
NO_DATASET = "is no sequence dataset (no schema.json); `recsys preprocess` writes one"


def test_run_and_data_swapped(work: Path, refused: Check) -> None:
    run, dataset, events = work / "run", work / "dataset", work / "events.csv"
    assert refused("evaluate", "--run", dataset, "--data", run) == f"error: {dataset}: {IS_DATASET}\n"
    assert refused("report", "--run", dataset) == f"error: {dataset}: {IS_DATASET}\n"
    assert refused("recommend", "--run", events, "--input", run) == f"error: {events}: {IS_FILE}\n"
    assert refused("recommend", "--run", run / "config.yaml", "--input", events).endswith(f"{IS_FILE}\n")
    assert refused("evaluate", "--run", run, "--data", events) == f"error: {events}: {NO_DATASET}\n"
    line = refused("evaluate", "--run", run, "--data", dataset / "test")
    assert line == f"error: {dataset / 'test'}: {NO_DATASET}\n"
    assert f"{run}: no split 'train'" in refused("train", "--data", run, "--out", work / "out")


def test_sequences_given_as_events(work: Path, refused: Check) -> None:
    for path in (work / "dataset", work / "run"):
        assert f"{path}: is a sequence dataset" in refused("recommend", "--run", work / "run", "--input", path)
    for command in (["recommend", "--run", work / "run", "--input"], ["preprocess", "--out", work / "out", "--events"]):
        line = refused(*command, work / "dataset" / "test")
        assert "column 'timestamp' is List(Int64); one plain value a row is needed" in line


def test_folder_where_a_file_is_needed(work: Path, refused: Check) -> None:
    line = refused("train", "--data", work / "dataset", "--config", work / "run", "--out", work / "out")
    assert line == f"error: {work / 'run'}: is a folder; name a YAML file\n"
    (work / "lists.csv").mkdir()
    common = ("recommend", "--run", work / "run", "--input", work / "events.csv")
    line = refused(*common, "--out", work / "lists.csv")
    assert line == f"error: {work / 'lists.csv'}: is a folder; name a file\n"
    assert "is a folder; name a file" in refused("report", "--run", work / "run", "--out", work / "dataset")


def test_bytes_that_are_no_table_do_not_reach_the_terminal(work: Path, refused: Check) -> None:
    (work / "photo.csv").write_bytes(bytes(range(1, 256)).replace(b"\n", b"").replace(b"\r", b"") * 40)
    line = refused("recommend", "--run", work / "run", "--input", work / "photo.csv")
    assert "column 'session_id' is missing" in line
    assert line.rstrip("\n").isprintable() and len(line) < 2000


def test_middle_of_a_parquet_file_damaged(work: Path, refused: Check) -> None:
    events = work / "events.parquet"
    make_events().write_parquet(events)
    whole = events.read_bytes()
    events.write_bytes(whole[:200] + bytes(255 - b for b in whole[200:900]) + whole[900:])
    expected = f"{events}: not a readable Parquet file"
    assert expected in refused("preprocess", "--events", events, "--out", work / "out")
    assert expected in refused("recommend", "--run", work / "run", "--input", events)


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("schema.json", "schema.json: Invalid JSON"),
        ("train/part-00000.parquet", "train/part-00000.parquet: not readable as Parquet"),
        ("workflow/items.parquet", "workflow/items.parquet: not readable as Parquet"),
    ],
)
def test_dataset_damaged(file: str, shown: str, work: Path, refused: Check) -> None:
    for content in (b"\xff\xfe\x00", (work / "dataset" / file).read_bytes()[:40]):
        (work / "dataset" / file).write_bytes(content)
        assert shown in refused("train", "--data", work / "dataset", "--out", work / "out")
        assert shown in refused("evaluate", "--run", work / "run", "--data", work / "dataset")
    (work / "dataset" / file).unlink()
    assert file.split("/")[0] in refused("train", "--data", work / "dataset", "--out", work / "out")


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff\xfe", b'{"split": 3}'])
def test_report_of_the_dataset_damaged(text: bytes, work: Path, refused: Check) -> None:
    report = work / "dataset" / "report.json"
    report.write_bytes(text)
    line = refused("evaluate", "--run", work / "run", "--data", work / "dataset")
    assert line.startswith(f"error: {report}: ") and line.endswith("; preprocess again\n")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"dataset": 3}', '{"dataset": {"sha256": null}}'])
def test_environment_of_the_run_damaged(text: str, work: Path, refused: Check) -> None:
    file = work / "run" / "environment.json"
    config = ("--config", work / "run" / "config.yaml")
    file.write_text(text)
    assert f"{file}: " in refused("evaluate", "--run", work / "run", "--data", work / "dataset")
    (work / "run" / "model.safetensors").unlink()
    common = ("train", "--data", work / "dataset", *config, "--out", work / "run", "--resume")
    assert f"{file}: " in refused(*common)
    file.unlink()
    expected = f"error: {work / 'run'}: environment.json is missing, so this is no finished run; train it again\n"
    assert refused(*common) == expected


METRIC = {"splits": {"test": {"positions": {"all": {"model": {"recall@10": "high"}}}}}}


@pytest.mark.parametrize(
    ("file", "values", "where"),
    [
        ("metrics.json", {"splits": 3}, "splits"),
        ("metrics.json", {"splits": {"test": 5}}, "splits.test"),
        ("metrics.json", METRIC, "splits.test.positions.all.model.recall@10"),
        ("history.json", {"train": 5}, "train"),
        ("history.json", {"train": [1]}, "train.0"),
        ("history.json", {"validation": [{"loss": 1.0}]}, "validation.0.step"),
        ("dataset.json", {"splits": {"train": {"dropped_events": {"short": "few"}}}}, "splits.train.dropped_events"),
        ("cleaning/report.json", {"stages": [{"stage": "read", "rows_in": 3}]}, "stages.0.rows_out"),
    ],
)
def test_json_of_another_form_names_file_and_key(
    file: str, values: object, where: str, work: Path, refused: Check
) -> None:
    path = work / "run" / file
    path.parent.mkdir(exist_ok=True)
    for text in ("{", "[]", "null"):
        path.write_text(text)
        assert refused("report", "--run", work / "run").startswith(f"error: {path}: ")
    path.write_text(json.dumps(values))
    assert refused("report", "--run", work / "run").startswith(f"error: {path}: {where}")
    path.write_text("{}")
    assert main(["report", "--run", str(work / "run")]) == 0  # what is not there is left out

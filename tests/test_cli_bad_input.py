"""Input that a command cannot use: one line, exit status 2, and nothing left behind."""

# ruff: noqa: F401, F811  (fixtures are imported and named again as arguments)
import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from data_processing import filter as filter_stage
from data_processing import reconstruct, simulate
from recsys.cli import main
from tests.refusal import Check, refused, tiny, work
from tests.tiny_run import make_events, make_log_run, make_run, write_log

# Input that cannot be used.


def test_missing_files(work: Path, refused: Check) -> None:
    gone, out = work / "gone", work / "out"
    assert f"{gone}: no such file" in refused("preprocess", "--events", gone, "--out", out)
    assert str(gone) in refused("train", "--data", gone, "--out", out)
    assert str(gone) in refused("evaluate", "--run", gone, "--data", work / "dataset")
    assert str(gone) in refused("evaluate", "--run", work / "run", "--data", gone)
    assert str(gone) in refused("evaluate", "--run", work / "run", "--input", gone)
    assert str(gone) in refused("recommend", "--run", gone, "--input", work / "events.csv")
    assert f"{gone}: no such file" in refused("recommend", "--run", work / "run", "--input", gone)
    assert str(gone) in refused("report", "--run", gone)
    assert str(gone) in refused("report", "--run", gone, "--out", out)
    assert str(gone) in refused("train", "--data", work / "dataset", "--config", gone, "--out", out)
    assert str(gone) in refused("preprocess", "--events", work / "events.csv", "--config", gone, "--out", out)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_missing_column_lists_those_that_are_there(suffix: str, work: Path, refused: Check) -> None:
    events = work / f"renamed.{suffix}"
    frame = make_events().rename({"item_id": "item"})
    frame.write_csv(events) if suffix == "csv" else frame.write_parquet(events)
    expected = (
        f"error: {events}: column 'item_id' is missing (did you mean 'item'?); columns: {', '.join(frame.columns)}\n"
    )
    assert refused("preprocess", "--events", events, "--out", work / "out") == expected
    assert refused("recommend", "--run", work / "run", "--input", events, "--out", work / "lists.csv") == expected
    assert refused("evaluate", "--run", work / "run", "--input", events) == expected


def test_empty_file(work: Path, refused: Check) -> None:
    for name in ("empty.csv", "empty.parquet", "empty.csv.gz"):
        (work / name).touch()
        assert f"{name}: empty file" in refused("preprocess", "--events", work / name, "--out", work / "out")
        assert str(work / name) in refused("recommend", "--run", work / "run", "--input", work / name)


def test_header_and_no_rows(work: Path, refused: Check) -> None:
    events = work / "header.csv"
    events.write_text("session_id,user_id,item_id,timestamp,merge_count\n")
    expected = f"error: {events}: a header and no rows\n"
    assert refused("preprocess", "--events", events, "--out", work / "out") == expected
    assert refused("recommend", "--run", work / "run", "--input", events) == expected


def test_empty_folder(work: Path, refused: Check) -> None:
    (work / "nothing").mkdir()
    assert f"{work / 'nothing'}: " in refused("preprocess", "--events", work / "nothing", "--out", work / "out")
    assert f"{work / 'nothing'}: " in refused("recommend", "--run", work / "run", "--input", work / "nothing")


def test_unparsable_time_names_file_column_row_and_value(work: Path, refused: Check) -> None:
    frame = make_events().with_columns(pl.col("timestamp").cast(pl.String))
    events = work / "times.csv"
    rows = frame["timestamp"].to_list()
    rows[6] = "last tuesday"
    frame.with_columns(pl.Series("timestamp", rows)).write_csv(events)
    line = refused("preprocess", "--events", events, "--out", work / "out")
    assert f"{events}: column 'timestamp', row 7: cannot read 'last tuesday'; expected " in line
    assert "row 7" in refused("recommend", "--run", work / "run", "--input", events)


def test_wrong_encoding(work: Path, refused: Check) -> None:
    events = work / "latin.csv"
    events.write_bytes("session_id,item_id,timestamp,merge_count\ns,Größe,1,1\n".encode("latin-1"))
    assert f"{events}: not UTF-8" in refused("preprocess", "--events", events, "--out", work / "out")
    assert f"{events}: not UTF-8" in refused("recommend", "--run", work / "run", "--input", events)


def test_truncated_gzip(work: Path, refused: Check) -> None:
    events = work / "cut.csv.gz"
    whole = gzip.compress((work / "events.csv").read_bytes())
    events.write_bytes(whole[: len(whole) // 2])
    assert f"{events}: " in refused("preprocess", "--events", events, "--out", work / "out")
    assert f"{events}: " in refused("recommend", "--run", work / "run", "--input", events)


def test_truncated_parquet(work: Path, refused: Check) -> None:
    events = work / "cut.parquet"
    make_events().write_parquet(events)
    events.write_bytes(events.read_bytes()[:500])
    assert f"{events}: " in refused("preprocess", "--events", events, "--out", work / "out")
    assert f"{events}: " in refused("recommend", "--run", work / "run", "--input", events)


# Configuration.


@pytest.mark.parametrize("command", ["preprocess", "train"])
def test_unknown_configuration_key_names_the_nearest(command: str, work: Path, refused: Check) -> None:
    source = ["--events", work / "events.csv"] if command == "preprocess" else ["--data", work / "dataset"]
    config = work / "typo.yaml"
    config.write_text("training: {epoch: 3}\n")
    line = refused(command, *source, "--config", config, "--out", work / "out")
    assert line == f"error: {config}: unknown key 'training.epoch' (did you mean 'epochs'?)\n"
    line = refused(command, *source, "--set", "modle.max_length=3", "--out", work / "out")
    assert line == "error: --set: unknown key 'modle' (did you mean 'model'?)\n"
    line = refused(command, *source, "--set", "training.epochs", "--out", work / "out")
    assert line == "error: --set training.epochs: expected key=value, for instance training.epochs=3\n"
    line = refused(command, *source, "--set", "training.epochs=many", "--out", work / "out")
    assert "training.epochs: 'many'" in line


def test_unreadable_configuration(work: Path, refused: Check) -> None:
    for text, expected in (("training: [\n", "not valid YAML"), ("- 1\n", "expected 'key: value'")):
        config = work / "broken.yaml"
        config.write_text(text)
        line = refused("train", "--data", work / "dataset", "--config", config, "--out", work / "out")
        assert line.startswith(f"error: {config}: {expected}")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("model.backbone.num_heads=5", "num_heads (5) must divide hidden_size (16); try 4"),
        ("model.backbone.num_kv_heads=3", "num_kv_heads (3) must divide num_heads (2)"),
        ("model.inputs.fusion_heads=3", "fusion_heads (3) must divide fusion_size (16)"),
    ],
)
def test_heads_that_do_not_divide(setting: str, expected: str, work: Path, refused: Check) -> None:
    config = work / "config.yaml"
    line = refused("train", "--data", work / "dataset", "--config", config, "--set", setting, "--out", work / "out")
    assert expected in line


def test_stream_and_head_that_the_data_do_not_have(work: Path, refused: Check) -> None:
    common = ["train", "--data", work / "dataset", "--config", work / "config.yaml", "--out", work / "out", "--set"]
    assert "'cats'" in refused(*common, "model.inputs.streams=[item_id, cats]")
    assert "'clasification' (did you mean 'classification'?)" in refused(
        *common, "model.auxiliary=[{column: clasification}]"
    )


def test_evaluate_needs_something_to_score(work: Path, refused: Check) -> None:
    assert "give --data DATASET (the run's test split) or --input EVENTS" in refused("evaluate", "--run", work / "run")


def test_recommend_checks_its_flags_first(work: Path, refused: Check) -> None:
    common = ["recommend", "--run", work / "run", "--input", work / "events.csv"]
    assert "lists.txt: expected a name that ends in" in refused(*common, "--out", work / "lists.txt")
    assert "k (0) must be at least 1" in refused(*common, "--k", 0)


# Parts that do not belong together.


@pytest.fixture
def other(work: Path) -> Path:
    """Another dataset and run, of a catalogue with fewer items."""
    folder = work / "other"
    folder.mkdir()
    make_run(folder, make_events(items=9, seed=1))
    return folder


def test_dataset_of_another_schema(work: Path, other: Path, refused: Check) -> None:
    line = refused("evaluate", "--run", work / "run", "--data", other / "dataset")
    assert f"{other / 'dataset'}: column 'item_id' has 12 classes, the run was trained with 17" in line


def test_checkpoint_of_another_schema(work: Path, other: Path, refused: Check) -> None:
    shutil.copy(other / "run" / "model.safetensors", work / "run" / "model.safetensors")
    for command in (["evaluate", "--data", work / "dataset"], ["recommend", "--input", work / "events.csv"]):
        line = refused(command[0], "--run", work / "run", *command[1:])
        assert "model.safetensors" in line and "another schema" in line


def test_workflow_of_another_schema(work: Path, other: Path, refused: Check) -> None:
    shutil.rmtree(work / "run" / "workflow")
    shutil.copytree(other / "run" / "workflow", work / "run" / "workflow")
    assert "schema.json" in refused("recommend", "--run", work / "run", "--input", work / "events.csv")


def test_truncated_checkpoint(work: Path, refused: Check) -> None:
    weights = work / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{weights}: not a readable safetensors file" in refused(
        "recommend", "--run", work / "run", "--input", work / "events.csv"
    )


def test_unfinished_run(work: Path, refused: Check) -> None:
    (work / "run" / "model.safetensors").unlink()
    for command in (["evaluate", "--data", work / "dataset"], ["recommend", "--input", work / "events.csv"]):
        assert "model.safetensors is missing" in refused(command[0], "--run", work / "run", *command[1:])


def test_outputs_are_never_overwritten_unasked(work: Path, refused: Check) -> None:
    line = refused("preprocess", "--events", work / "events.csv", "--out", work / "dataset")
    assert f"{work / 'dataset'}: " in line and "--overwrite" in line
    line = refused("train", "--data", work / "dataset", "--config", work / "config.yaml", "--out", work / "run")
    assert f"{work / 'run'}: " in line and "--overwrite" in line
    mine = work / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    assert f"{mine}: " in refused("preprocess", "--events", work / "events.csv", "--out", mine)
    assert f"{mine}: " in refused("train", "--data", work / "dataset", "--out", mine)
    assert f"{mine}: " in refused("train", "--data", work / "dataset", "--out", mine, "--resume")


def test_overwrite_never_removes_what_the_command_did_not_write(work: Path, refused: Check) -> None:
    mine = work / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    (mine / "config.yaml").write_text("seed: 1\n")
    common = ("--out", mine, "--overwrite")
    assert f"{mine}: " in refused("train", "--data", work / "dataset", *common)
    assert f"{mine}: " in refused("preprocess", "--events", work / "events.csv", *common)


def test_raw_log_that_inflates_beyond_the_cap(work: Path, refused: Check) -> None:
    run, log = make_log_run(work / "run", work / "cleaned"), work / "log.csv"
    write_log(log, {"a": ["command 03", "command 04"] * 100})
    packed = work / "log.csv.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    expected = f"error: {packed}: decompresses to more than 1e-06 GB; raise --max-gigabytes if that is meant\n"
    for command in ("recommend", "evaluate"):
        common = (command, "--run", run, "--input", packed)
        assert refused(*common, "--max-gigabytes", "1e-6") == expected
        assert main([str(a) for a in (*common, "--max-gigabytes", "1e-3")]) == 0


def test_a_raw_log_for_a_run_without_cleaning(work: Path, refused: Check) -> None:
    log = work / "new.jsonl"
    log.write_text(json.dumps({"ts": "2025-02-05 14:05:59.743954", "message": "x", "cat": "Menu"}) + "\n")
    assert f"{log}: not a table of events" in refused("recommend", "--run", work / "run", "--input", log)


# What is unusual and not bad.


NAMES = ['Größe, "neu"', "line\nbreak", "🧱 wall", "a,b", " spaced ", "=1+1"]


@pytest.fixture
def odd_events() -> pl.DataFrame:
    """Items and sessions whose names hold commas, quotes, newlines and emoji."""
    names = pl.DataFrame(
        {"item_id": [f"command {n:02d}" for n in range(14)], "name": NAMES + [f"c{n}" for n in range(8)]}
    )
    frame = make_events().join(names, on="item_id", maintain_order="left")
    return frame.with_columns(item_id=pl.col("name"), session_id=pl.col("session_id") + ', "é"\n🙂').drop("name")


def test_odd_names_stay_intact(odd_events: pl.DataFrame, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd_events.write_csv(work / "odd.csv")
    dataset, lists = work / "odd", work / "lists.csv"
    assert main(["preprocess", "--events", str(work / "odd.csv"), "--out", str(dataset)]) == 0
    found = pl.read_parquet(dataset / "*" / "part-*.parquet")
    assert set(found["session_id"]) == set(odd_events["session_id"])
    items = pl.read_parquet(dataset / "workflow" / "items.parquet")["item_id"].drop_nulls()
    assert set(items) == set(odd_events["item_id"])

    (work / "fresh").mkdir()
    _, run = make_run(work / "fresh", odd_events)
    assert main(["recommend", "--run", str(run), "--input", str(work / "odd.csv"), "--out", str(lists)]) == 0
    read = pl.read_csv(lists)
    assert set(read["session_id"]) == set(odd_events["session_id"])
    assert set(read["item_id"]) <= set(odd_events["item_id"])
    assert set(read["item_id"]) & set(NAMES)


def test_debug_shows_the_traceback(work: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        main(["preprocess", "--debug", "--events", str(work / "gone.csv"), "--out", str(work / "out")])


# The stages before the recsys command.


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A simulated raw log."""
    out = tmp_path_factory.mktemp("logs") / "simulated"
    simulate.simulate(out, users=3, sessions_per_user=2, events_per_session=15)
    yield out / "logs" / "part-00000.csv"


def test_bad_raw_logs(logs: Path, work: Path, refused: Check) -> None:
    header, first, *rest = logs.read_text().splitlines()
    cells = first.split(",")
    at = header.split(",").index("ts")
    broken = ",".join([*cells[:at], "soon", *cells[at + 1 :]])
    texts = {
        "empty.csv": ("", "empty"),
        "header.csv": (header + "\n", "header.csv"),
        "column.csv": ("\n".join([header.replace("message", "text"), first]), "column 'message' is missing"),
        "time.csv": ("\n".join([header, *rest[:3], broken]), "'soon'"),
        "kept.csv": ("\n".join([header, *(r.replace("Menu", "CTS").replace("Tool", "CTS") for r in rest[:1])]), ""),
    }
    for name, (text, expected) in texts.items():
        (work / name).write_text(text)
        line = refused("--logs", work / name, "--out", work / "out", entry=reconstruct.main)
        assert expected in line and name in line
    whole = gzip.compress(logs.read_bytes())
    (work / "cut.csv.gz").write_bytes(whole[:-200])
    assert "cut.csv.gz" in refused("--logs", work / "cut.csv.gz", "--out", work / "out", entry=reconstruct.main)
    assert "gone" in refused("--logs", work / "gone", "--out", work / "out", entry=reconstruct.main)
    line = refused("--logs", logs, "--profile", "vectorwork", "--out", work / "out", entry=reconstruct.main)
    assert "'vectorwork' (did you mean 'vectorworks'?)" in line
    assert "gone" in refused("--events", work / "gone", "--out", work / "out", entry=filter_stage.main)
    line = refused("--events", work / "x", "--set", "splt.by=x", "--out", work / "out", entry=filter_stage.main)
    assert "'splt' (did you mean 'split'?)" in line

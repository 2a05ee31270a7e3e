"""What `recsys preprocess` says of events that it cannot use, or that a person should look at."""

# ruff: noqa: F401, F811  (fixtures are imported and named again as arguments)
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.cli import main
from recsys.runtime import atomic_folder
from tests.refusal import Check, contents, refused, tiny, work
from tests.tiny_run import make_config, make_events

INFINITE = float("inf")


def preprocess(work: Path, frame: pl.DataFrame, *settings: str) -> tuple[Path, dict[str, Any]]:
    """A dataset that the command makes of `frame`, and its report."""
    frame.write_parquet(work / "e.parquet")
    given = [part for setting in settings for part in ("--set", setting)]
    assert main(["preprocess", "--events", str(work / "e.parquet"), "--out", str(work / "out"), *given]) == 0
    return work / "out", json.loads((work / "out" / "report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_that_differ_in_case_only(suffix: str, work: Path, refused: Check) -> None:
    frame, events = make_events().with_columns(Item_Id=pl.lit("x")), work / f"case.{suffix}"
    frame.write_csv(events) if suffix == "csv" else frame.write_parquet(events)
    line = refused("preprocess", "--events", events, "--out", work / "out")
    assert line == f"error: {events}: columns 'item_id' and 'Item_Id' differ in case only; rename or drop one\n"


def test_a_list_where_one_value_is_expected(work: Path, refused: Check) -> None:
    events = work / "lists.parquet"
    for column in ("item_id", "merge_count"):
        make_events().with_columns(pl.concat_list(column)).write_parquet(events)
        line = refused("preprocess", "--events", events, "--out", work / "out")
        assert line.startswith(f"error: {events}: column '{column}' is List(")
        assert line.endswith("; one plain value a row is needed\n")


def test_a_column_that_is_text_in_one_file_and_a_number_in_the_next(work: Path, refused: Check) -> None:
    folder = work / "tables"
    folder.mkdir()
    frame = make_events().with_columns(cat=pl.lit(3))
    frame[:100].write_parquet(folder / "a.parquet")
    frame[100:].with_columns(pl.col("cat").cast(pl.String)).write_parquet(folder / "b.parquet")
    line = refused("preprocess", "--events", folder, "--out", work / "out")
    assert line.startswith(f"error: {folder / 'b.parquet'}: column 'cat' is ") and " in a.parquet; write one" in line


def test_a_session_with_two_users_and_rows_without_a_session(work: Path, refused: Check) -> None:
    frame, events = make_events(), work / "e.csv"
    session = frame["session_id"][0]
    first = pl.int_range(pl.len()) == 0
    other = pl.when(first).then(pl.lit("somebody")).otherwise("user_id")
    frame.with_columns(user_id=other).write_csv(events)
    line = refused("preprocess", "--events", events, "--out", work / "out")
    assert f"session '{session}' has more than one user_id" in line
    frame.with_columns(session_id=pl.when(~first).then("session_id")).write_csv(events)
    line = refused("preprocess", "--events", events, "--out", work / "out")
    assert line == f"error: {events}: column 'session_id', row 1: no value; drop the row or fill it in\n"


def test_infinite_numbers_are_missing_and_counted(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = make_events()
    strange = pl.int_range(pl.len()) % 7 == 0
    number = pl.when(strange).then(pl.lit(INFINITE)).otherwise(pl.col("merge_count").cast(pl.Float64) + 2.0)
    number = pl.when(strange & (pl.int_range(pl.len()) % 2 == 0)).then(-number).otherwise(number)
    out, report = preprocess(work, frame.with_columns(merge_count=number))
    noted = [split["noted_events"].get("infinite:merge_count", 0) for split in report["splits"].values()]
    assert sum(noted) == len(range(0, frame.height, 7)) and all(noted)
    warning = f"warning: column 'merge_count' has {noted[0]} infinite values in train; they are taken as missing\n"
    assert warning in capsys.readouterr().out
    values = pl.read_parquet(out / "train" / "*.parquet")["merge_count"].explode()
    assert values.is_finite().all() and (values == 0).sum() >= noted[0]


def test_a_column_of_one_value_is_zero_and_said(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = preprocess(work, make_events().with_columns(merge_count=pl.lit(3)))
    (warning,) = [text for text in report["warnings"] if "merge_count" in text]
    assert warning == "column 'merge_count' has one value in train; its z-score is 0 everywhere"
    assert f"warning: {warning}\n" in capsys.readouterr().out
    for split in ("train", "val", "test"):
        assert (pl.read_parquet(out / split / "*.parquet")["merge_count"].explode() == 0).all()


def test_events_at_one_time_stay_in_their_order_and_are_counted(work: Path) -> None:
    frame = make_events().with_columns(timestamp=pl.col("timestamp") // 10**8 * 10**8)
    out, report = preprocess(work, frame)
    expected = frame.height - frame.select("session_id", "timestamp").unique().height
    noted = [split["noted_events"].get("same_session_and_time", 0) for split in report["splits"].values()]
    assert sum(noted) == expected > 0 and report["events_out"] == frame.height
    names = pl.read_parquet(out / "workflow" / "items.parquet")["item_id"]
    made = pl.read_parquet(out / "train" / "*.parquet", columns=["session_id", "item_id"])
    given = dict(frame.group_by("session_id", maintain_order=True).agg("item_id").iter_rows())
    assert {s: names.gather(ids).to_list() for s, ids in made.iter_rows()}.items() <= given.items()


def test_the_second_run_on_a_folder_is_refused(work: Path, refused: Check) -> None:
    out = work / "out"
    with atomic_folder(out) as first:
        (first / "half").write_text("of it")
        line = refused("preprocess", "--events", work / "events.csv", "--out", out)
        assert line == f"error: {out}: another run is writing it; wait for it or choose another --out\n"
        assert (first / "half").is_file()
    assert main(["preprocess", "--events", str(work / "events.csv"), "--out", str(out), "--overwrite"]) == 2
    assert [path.name for path in out.iterdir()] == ["half"]


def test_no_room_is_one_line_and_nothing_is_left(work: Path) -> None:
    """A limit on the size of files is the nearest to a full disk that a test can have."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, {resource.RLIM_INFINITY}));"
        "import sys; from recsys.cli import main; sys.exit(main())"
    )
    make_events(sessions=900).write_parquet(work / "big.parquet")
    before = contents(work)
    command = [sys.executable, "-c", code, "preprocess", "--events", work / "big.parquet", "--out", work / "out"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith(f"error: {work / 'out'}: cannot be written: the file is too large; nothing of it")
    assert ended.stderr.count("\n") == 1 and contents(work) == before


def test_leave_last_scores_k_events_a_user(work: Path) -> None:
    from recsys.config import save_config

    config = make_config()
    save_config(config.model_copy(update={"split": type(config.split)(rule="leave_last", k=2)}), work / "config.yaml")
    common = ["--config", str(work / "config.yaml"), "--out"]
    assert main(["preprocess", "--events", str(work / "events.csv"), *common, str(work / "last")]) == 0
    assert main(["train", "--data", str(work / "last"), *common, str(work / "run2")]) == 0
    assert main(["evaluate", "--run", str(work / "run2"), "--data", str(work / "last")]) == 0
    metrics = json.loads((work / "run2" / "metrics.json").read_text(encoding="utf-8"))
    events = make_events().group_by("user_id").len()
    users = events.filter(pl.col("len") >= 5).height  # 2 k + 1 events, else all of them train
    assert users > 0 and metrics["protocol"]["counts"]["test"]["positions"] == {"all": 2 * users, "last": users}

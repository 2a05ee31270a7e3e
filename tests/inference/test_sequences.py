"""What may be given as events, and what is said of anything else."""

import gzip
import shutil
from pathlib import Path

import polars as pl
import pytest

from recsys.errors import InputError
from recsys.inference import LoadedRun, load, recommend
from recsys.inference.sequences import read_sequences
from tests.tiny_run import PROFILE, START, make_events, make_log_run, write_log

BY_GAP = PROFILE.replace("session: session", "user: session") + "gap_minutes: 30\n"


def test_file_folder_and_frame_give_the_same(run: LoadedRun, tmp_path: Path) -> None:
    events = make_events(sessions=8)
    expected = recommend(run, events)
    events.write_parquet(tmp_path / "e.parquet")
    events.write_csv(tmp_path / "e.csv")
    with gzip.open(tmp_path / "e.csv.gz", "wb") as stream:
        stream.write((tmp_path / "e.csv").read_bytes())
    (tmp_path / "folder" / "events").mkdir(parents=True)
    shutil.copy(tmp_path / "e.parquet", tmp_path / "folder" / "events" / "part-00000.parquet")
    (tmp_path / "tables").mkdir()
    events.head(10).write_csv(tmp_path / "tables" / "1.csv")
    events.slice(10).write_csv(tmp_path / "tables" / "2.csv")
    for name in ("e.parquet", "e.csv", "e.csv.gz", "folder", "tables"):
        found = recommend(run, tmp_path / name)
        assert found.sort("session_id", "rank").equals(expected.sort("session_id", "rank")), name


def test_missing_column_that_the_run_reads_is_named(run: LoadedRun, tmp_path: Path) -> None:
    events = make_events(sessions=3)
    events.drop("merge_count").write_csv(tmp_path / "e.csv")
    with pytest.raises(InputError, match=r"e\.csv: column 'merge_count' is missing.*columns: session_id"):
        read_sequences(run, tmp_path / "e.csv")
    with pytest.raises(InputError, match="events: column 'item_id' is missing"):
        read_sequences(run, events.rename({"item_id": "command"}))


def test_what_is_no_table_of_events_needs_a_cleaning_profile(run: LoadedRun, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("nothing of use\n")
    with pytest.raises(InputError, match=r"log\.txt: not a table of events .* holds no cleaning/"):
        read_sequences(run, tmp_path / "log.txt")
    (tmp_path / "log.csv").write_text("when,what\n1,a\n")
    with pytest.raises(InputError, match=r"log\.csv: column 'session_id' is missing.*columns: when, what"):
        read_sequences(run, tmp_path / "log.csv")
    with pytest.raises(InputError, match="no such file"):
        read_sequences(run, tmp_path / "none.csv")


def test_table_without_rows_is_refused(run: LoadedRun, tmp_path: Path) -> None:
    make_events(sessions=3).clear().write_csv(tmp_path / "e.csv")
    with pytest.raises(InputError, match=r"e\.csv: a header and no rows"):
        read_sequences(run, tmp_path / "e.csv")
    with pytest.raises(InputError, match="events: "):
        read_sequences(run, make_events(sessions=3).clear())


def test_raw_log_goes_through_the_cleaning_of_the_run(folders: tuple[Path, Path], tmp_path: Path) -> None:
    copy = make_log_run(folders[1], tmp_path / "run", dropped=["command 13"])
    write_log(tmp_path / "log.csv", {"a": ["command 03", "command 03", "command 13", "command 05", "command 07"]})
    # By hand: equal rows in a row are one event that counts two; the rare command leaves.
    cleaned = pl.DataFrame(
        {
            "session_id": ["a"] * 3,
            "item_id": ["command 03", "command 05", "command 07"],
            "timestamp": [(START + t) * 10**6 for t in (0, 30, 40)],
            "merge_count": [2, 1, 1],
        }
    )
    loaded = load(copy, device="cpu")
    assert recommend(loaded, tmp_path / "log.csv").equals(recommend(loaded, cleaned))


def test_sessions_that_cleaning_empties_are_counted_and_said(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load(make_log_run(folders[1], tmp_path / "run", dropped=["command 13"]), device="cpu")
    log = tmp_path / "log.csv"
    write_log(log, {"a": ["command 03"], "b": ["command 13"], "c": ["command 13", "command 05"], "d": ["command 13"]})
    found = read_sequences(loaded, log)
    assert sorted(found.dataset.keys) == ["a", "c"] and found.emptied == {"session": 2}
    expected = f"note: {log}: cleaning left no event of 2 sessions, which have no sequence\n"
    assert capsys.readouterr().err == expected
    assert set(recommend(loaded, log)["session_id"]) == {"a", "c"}
    assert capsys.readouterr().err == expected
    write_log(log, {"a": ["command 03"]})
    assert read_sequences(loaded, log).emptied == {} and capsys.readouterr().err == ""


def test_users_and_sessions_by_gap_that_cleaning_empties_are_counted(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    loaded = load(make_log_run(folders[1], tmp_path / "run", dropped=["command 13"], profile=BY_GAP), device="cpu")
    rows = [("u", 0, "03"), ("u", 60, "13"), ("u", 120, "05"), ("v", 0, "13"), ("w", 0, "04"), ("w", 90, "13")]
    lines = [f"{user},{START + 60 * minute},command {name}" for user, minute, name in rows]
    (tmp_path / "log.csv").write_text("\n".join(["session,when,what", *lines]) + "\n")
    found = read_sequences(loaded, tmp_path / "log.csv")
    assert sorted(found.dataset.keys) == ["u-1", "u-3", "w-1"]
    # the second session of u, the only one of v, the last of w
    assert found.emptied == {"user": 1, "session": 3}


def test_log_of_which_nothing_is_left_and_log_beyond_the_cap_are_named(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    loaded = load(make_log_run(folders[1], tmp_path / "run", dropped=["command 13"]), device="cpu")
    log = tmp_path / "log.csv"
    write_log(log, {"a": ["command 13"]})
    with pytest.raises(InputError, match=rf"^{log}: no event is left after stage 'rare'"):
        read_sequences(loaded, log)
    write_log(log, {"a": ["command 03"] * 100})
    packed, size = tmp_path / "log.csv.gz", log.stat().st_size
    packed.write_bytes(gzip.compress(log.read_bytes()))
    assert len(read_sequences(loaded, packed, max_bytes=size).dataset) == 1
    with pytest.raises(InputError, match=r"log\.csv\.gz: decompresses to more than .*--max-gigabytes"):
        read_sequences(loaded, packed, max_bytes=size - 1)

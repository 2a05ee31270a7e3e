"""What may be given as events, and what is said of anything else."""

import gzip
import shutil
from pathlib import Path

import polars as pl
import pytest

from recsys.cleaning.pipeline import Rules
from recsys.errors import InputError
from recsys.inference import LoadedRun, load, recommend
from recsys.inference.sequences import read_sequences
from tests.tiny_run import make_events

PROFILE = """
name: plain
grammar: plain
columns: {time: when, message: what, session: session}
times: [{format: epoch_s, example: '1600000000'}]
undo: {mode: keep}
"""


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
    copy = Path(shutil.copytree(folders[1], tmp_path / "run"))
    (copy / "cleaning").mkdir()
    (copy / "cleaning" / "profile.yaml").write_text(PROFILE)
    Rules(dropped_commands=["command 13"]).save(copy / "cleaning")
    start = 1_600_000_000
    raw = ["command 03", "command 03", "command 13", "command 05", "command 07"]
    lines = [f"a,{start + 10 * i},{name}" for i, name in enumerate(raw)]
    (tmp_path / "log.csv").write_text("session,when,what\n" + "\n".join(lines) + "\n")
    # By hand: equal rows in a row are one event that counts two; the rare command leaves.
    cleaned = pl.DataFrame(
        {
            "session_id": ["a"] * 3,
            "item_id": ["command 03", "command 05", "command 07"],
            "timestamp": [(start + t) * 10**6 for t in (0, 30, 40)],
            "merge_count": [2, 1, 1],
        }
    )
    loaded = load(copy, device="cpu")
    assert recommend(loaded, tmp_path / "log.csv").equals(recommend(loaded, cleaned))

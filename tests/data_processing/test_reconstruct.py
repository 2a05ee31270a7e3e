"""Reconstruction against the generator's truth, in bounded parts, and real logs as a person would read them."""

import json
import shutil

import polars as pl
import pytest

from data_processing.reconstruct import main, reconstruct
from data_processing.simulate import NoiseConfig, simulate
from recsys.cleaning import spill
from recsys.cleaning.pipeline import clean_logs
from recsys.cleaning.profile import load_profile
from recsys.errors import InputError

VECTORWORKS = load_profile("vectorworks")
COLUMNS = ["session_id", "item_id", "cat", "merge_count"]
NOISY = {"undo_rate": 0.4, "stray_undo_rate": 0.3, "abort_rate": 0.05, "view_rate": 0.6, "cts_share": 0.3}


@pytest.fixture(scope="module", params=["batch", "batch quoted parquet", "batch jsonl", "live", "live out of phase"])
def generated(request, tmp_path_factory):
    """A generated log with far more undo than people do, and its truth."""
    folder = tmp_path_factory.mktemp("generated") / "logs"
    log_format, *how = request.param.split()
    file_format = next((f for f in how if f in ("parquet", "jsonl")), None)
    noise = NoiseConfig(**NOISY, quoted_batch="quoted" in how, clock_phase="out" in how)
    simulate(folder, users=6, seed=3, log_format=log_format, file_format=file_format, noise=noise, rows_per_file=2000)
    return folder, log_format


@pytest.fixture(scope="module")
def rebuilt(generated, tmp_path_factory):
    """What reconstruction makes of it at its usual sizes, and its report; not to be written to."""
    out = tmp_path_factory.mktemp("rebuilt") / "out"
    return out, reconstruct(generated[0] / "logs", VECTORWORKS, out)


def in_order(events, columns=COLUMNS):
    """Sessions sorted, events of each in the order of the table."""
    return events.with_row_index("at").sort("session_id", "at").select(columns)


def read(out):
    return pl.read_parquet(out / "events" / "*.parquet")


def test_events_are_the_truth(generated, rebuilt):
    (folder, _), (out, report) = generated, rebuilt
    events, truth = in_order(read(out)), in_order(pl.read_parquet(folder / "truth" / "clean.parquet"))
    assert events.rows() == truth.rows()
    removed = next(s["removed"] for s in report["stages"] if s["stage"] == "undo")
    assert removed["undone event"] > 50 and removed["redo row"] > 10 and removed["undo row without an event"] > 5
    users = read(out).select("session_id", "user_id").unique().sort("session_id")
    assert (
        users.rows()
        == pl.read_parquet(folder / "truth" / "clean.parquet")[["session_id", "user_id"]]
        .unique()
        .sort("session_id")
        .rows()
    )
    assert users["user_id"].null_count() == 0


def test_times_are_the_truth(generated, rebuilt):
    (folder, log_format), (out, _) = generated, rebuilt
    columns = ["session_id", "timestamp"]
    found = in_order(read(out), columns)["timestamp"]
    true = in_order(pl.read_parquet(folder / "truth" / "clean.parquet"), columns)["timestamp"]
    if log_format == "batch":
        assert found.to_list() == true.to_list()
    else:  # the live log's second is exact, what is within it is known only as well as the clock tells
        assert (found // 1_000_000).to_list() == (true // 1_000_000).to_list()
        assert (found - true).abs().median() < 200_000


def test_the_sum_of_every_stage_is_exact(generated, rebuilt):
    (folder, _), (out, report) = generated, rebuilt
    stages = report["stages"]
    assert [s["stage"] for s in stages] == ["read", "category", "noise", "sessions", "undo", "repeats"]
    for stage, after in zip(stages, [*stages[1:], None], strict=True):
        assert stage["rows_in"] - sum(stage["removed"].values()) == stage["rows_out"]
        assert after is None or after["rows_in"] == stage["rows_out"]
    assert stages[0]["rows_in"] == sum(report["input"]["rows"].values())
    assert stages[0]["rows_in"] == json.loads((folder / "simulation.json").read_text())["raw_rows"]
    events = read(out)
    assert stages[-1]["rows_out"] == events.height
    assert stages[-1]["rows_in"] == events["merge_count"].sum()


def test_the_table_does_not_depend_on_the_size_of_parts(generated, rebuilt, tmp_path, monkeypatch):
    (folder, _), (one, _) = generated, rebuilt
    monkeypatch.setattr(spill, "ROWS_A_FILE", 500)
    reconstruct(folder / "logs", VECTORWORKS, tmp_path / "many", rows_a_part=300)
    assert len(list((tmp_path / "many" / "events").iterdir())) > 5
    assert len(list((one / "events").iterdir())) == 1
    assert read(one).equals(read(tmp_path / "many"))
    sessions = [pl.read_parquet(p)["session_id"].unique() for p in (tmp_path / "many" / "events").iterdir()]
    assert pl.concat(sessions).is_unique().all()


def test_in_memory_is_the_same_path(generated, rebuilt):
    assert clean_logs(generated[0] / "logs", VECTORWORKS).equals(read(rebuilt[0]))


def test_metadata_and_users_are_kept(generated, rebuilt, tmp_path):
    (folder, _), (out, _) = generated, rebuilt
    shutil.copyfile(folder / "commands.parquet", folder / "logs" / "commands.parquet")
    reconstruct(folder / "logs", VECTORWORKS, tmp_path / "inside")
    (folder / "logs" / "commands.parquet").unlink()
    known = pl.read_parquet(out / "metadata.parquet")
    assert known.equals(pl.read_parquet(tmp_path / "inside" / "metadata.parquet"))
    assert set(known.columns) == {"item_id", "classification", "target", "description"}
    assert set(read(out)["item_id"]) <= set(known["item_id"])
    assert pl.read_parquet(out / "users.parquet").height == 6


HEADER = "ts,session_anonymized,cat,message\n"
GOOD = "2025-01-01 10:00:00.5,s1,Tool,Tool: A (1)\n"
BAD = {
    "": "the file is empty",
    HEADER: "no rows below the header",
    HEADER.replace("message", "text") + GOOD: "column 'message' is missing",
    HEADER + GOOD + "noon,s1,Tool,Tool: A (1)\n": "row 2: time 'noon' in column 'ts'; expected '2025-02-05",
    HEADER + GOOD.replace("Tool,", "CTS,"): "no event is left after stage 'category'",
    HEADER + GOOD.replace("(1)", "(242)"): "no event is left after stage 'noise' (1 rows in; id (242): 1)",
}


@pytest.mark.parametrize("text", list(BAD))
def test_bad_logs_are_one_line_and_leave_nothing(tmp_path, capsys, text):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text(text)
    assert main(["--logs", str(tmp_path / "in"), "--out", str(tmp_path / "out" / "x")]) == 2
    error = capsys.readouterr().err
    assert BAD[text] in error and error.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_an_existing_folder_is_kept(tmp_path, capsys):
    (tmp_path / "a.csv").write_text(HEADER + GOOD)
    flags = ["--logs", str(tmp_path / "a.csv"), "--out", str(tmp_path / "out")]
    assert main(flags) == 0
    assert main(flags) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*flags, "--overwrite"]) == 0
    assert main([*flags[:2], "--profile", "vectorwork", "--out", str(tmp_path / "o")]) == 2
    assert "did you mean 'vectorworks'" in capsys.readouterr().err


def test_the_real_live_log(shared_data, tmp_path):
    """What a person reads in it: two drags, a render mode, deletions and lines; zooms, pans and flyovers are views."""
    report = reconstruct(shared_data("vw_log"), VECTORWORKS, tmp_path / "out")
    events = read(tmp_path / "out")
    assert report["stages"][0]["rows_in"] == 1099
    assert events["item_id"].to_list() == [
        "End Event: Drag (75)",
        "End Event: Set Render Mode (455)",
        "End Event: Delete (58)",
        "Tool: Line (-201)",
        "End Event: Create Line (166)",
        "End Event: Delete (58)",
        "Tool: Line (-201)",
        "End Event: Create Line (166)",
        "End Event: Delete (58)",
    ]
    assert events["merge_count"].to_list() == [2, 1, 2, 1, 1, 1, 2, 1, 1]
    assert events["timestamp"].is_sorted()


def test_a_log_cannot_be_both_absent_and_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        reconstruct(tmp_path / "nowhere", VECTORWORKS, tmp_path / "out")
    assert not (tmp_path / "out").exists()

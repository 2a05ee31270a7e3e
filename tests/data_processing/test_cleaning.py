"""`clean` from end to end: a notebook's view, and the figures fixed for the public Visual Studio logs."""

import itertools

import polars as pl
import pytest

from data_processing import CleanResult, clean
from data_processing.simulate import simulate
from recsys.cleaning.profile import load_profile
from recsys.config import SplitConfig
from recsys.errors import InputError


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    simulate(folder / "simulated", users=5, seed=1)
    return clean(folder / "simulated" / "logs", "vectorworks", folder / "out")


def test_sessions_are_together_in_order_and_long_enough(result):
    events = result.events.collect()
    runs = (events["session_id"] != events["session_id"].shift()).fill_null(True).sum()
    assert runs == events["session_id"].n_unique()
    assert events.group_by("session_id").len()["len"].min() >= 5
    assert all(g["timestamp"].is_sorted() for _, g in events.group_by("session_id"))
    pairs = events.select("session_id", "item_id").rows()
    assert all(a != b for a, b in itertools.pairwise(pairs))


def test_every_user_has_one_split(result):
    events = result.events.collect()
    assert set(events["user_id"]) <= set(result.splits["group"])
    assert result.splits["group"].is_unique().all()
    assert set(result.splits["split"]) == {"train", "val", "test"}


def test_it_opens_again_and_shows_itself(result):
    again = CleanResult.load(result.path)
    assert again.report == result.report
    assert f"{result.events.collect().height:,} events" in repr(again)
    assert "<table>" in again._repr_html_()
    with pytest.raises(InputError, match="not an events folder"):
        CleanResult.load(result.path / "events")


def test_an_existing_folder_is_refused_before_any_work(result, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        clean(tmp_path / "nowhere", "vectorworks", result.path)
    with pytest.raises(InputError, match="no such file"):
        clean(tmp_path / "nowhere", "vectorworks", result.path, overwrite=True)
    assert CleanResult.load(result.path).report == result.report, "a failed run leaves the old folder as it was"
    assert [p.name for p in result.path.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
def test_visual_studio_logs(shared_data, tmp_path):
    """The figures of the profile: 4,930 sessions of 440 commands; 797 test sessions with 71,364 positions."""
    logs = shared_data("vs_commands") / "vs_commands.tar.xz"
    split = SplitConfig(rule="every_nth", by="user_id")
    result = clean(logs, "visual_studio", tmp_path / "out", split=split)
    stages = {s["stage"]: s for s in result.report["stages"]}
    assert stages["read"]["rows_in"] == 2_121_763
    assert stages["length"]["rows_in"] == 422_593
    assert stages["length"]["rows_out"] == 418_900
    events = result.events.collect()
    assert (events.height, events["session_id"].n_unique(), events["item_id"].n_unique()) == (418_900, 4_930, 440)
    test = result.splits.filter(pl.col("split") == "test")["group"].to_list()
    users = pl.read_parquet(tmp_path / "out" / "splits.parquet")["group"].to_list()
    assert sorted(test, key=int) == sorted(users, key=int)[::5]
    held = events.filter(pl.col("user_id").is_in(test))
    sessions = held["session_id"].n_unique()
    assert (sessions, held.height - sessions) == (797, 71_364)
    known = {r["item_id"]: (r["classification"], r["target"]) for r in result.commands.to_dicts()}
    assert known["Edit.Paste"] == ("Edit", "Edit")
    assert known["View.Solution Explorer"] == ("Navigation.Unstructured", "View")
    assert known["Edit.Undo"][0] is not None
    assert None in {c for c, _ in known.values()} and "NULL" not in {c for c, _ in known.values()}


def test_undo_as_a_stack_is_the_other_choice(tmp_path):
    rows = ["Edit.Paste", "View.Output", "Edit.Undo", "Debug.Start", "Edit.Cut", "File.Exit", "Build.BuildSolution"]
    lines = [f"2014-01-01 10:00:{i:02},7,{m}" for i, m in enumerate(rows)]
    (tmp_path / "log.csv").write_text("\n".join(["timestamp,developer_id,message", *lines]) + "\n")
    profile = load_profile("visual_studio")
    kept = clean(tmp_path / "log.csv", profile, tmp_path / "keep").events.collect()
    assert kept["item_id"].to_list() == rows
    profile.undo.mode = "stack"
    stacked = clean(tmp_path / "log.csv", profile, tmp_path / "stack").events.collect()
    assert stacked["item_id"].to_list() == ["View.Output", *rows[3:]]

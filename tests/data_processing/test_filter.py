"""Splits before fitting, rare commands counted on training groups only, short sessions, exact sums."""

import itertools
from collections import Counter

import polars as pl
import pytest

from data_processing.cleaning import clean
from data_processing.filter import filter_events, main
from data_processing.reconstruct import reconstruct
from recsys.cleaning.profile import load_profile
from recsys.cleaning.rules import Rules
from recsys.config import SplitConfig
from recsys.errors import InputError

USERS = [str(n) for n in range(1, 11)]
TEST_AND_VALIDATION = SplitConfig(rule="list", test_groups=["1", "2"], validation_groups=["3"], by="user_id")


def profile(**change):
    values = load_profile("visual_studio").model_dump(mode="json")
    values["rare"] = {"min_count": 3, "action": "drop"}
    return type(load_profile("visual_studio")).model_validate(values | change)


def write_log(path, commands_of_user):
    lines = ["timestamp,developer_id,message"]
    for user, commands in commands_of_user.items():
        lines += [f"2014-01-01 10:{i // 60:02}:{i % 60:02},{user},{c}" for i, c in enumerate(commands)]
    path.write_text("\n".join(lines) + "\n")
    return path


BASE = ["A", "B", "C", "D", "E"]


@pytest.fixture
def log(tmp_path):
    """Ten users of one session; `rare` stands twice in training, `testonly` never there."""
    commands = {user: list(BASE) for user in USERS}
    commands["1"] += ["rare", "testonly", "E"]
    commands["2"] += ["testonly"] * 4
    commands["5"] += ["rare", "E", "rare"]
    commands["6"] = ["A", "B", "C", "D"]  # short
    commands["7"] = ["A", "B", "C", "D", "rare2"]  # short once the rare command has left
    commands["8"] += ["F", "G", "F", "G", "F", "G"]
    return write_log(tmp_path / "log.csv", commands)


def sessions(result):
    table = result.events.collect()
    return {k[0]: g["item_id"].to_list() for k, g in table.group_by("user_id", maintain_order=True)}


def test_rare_is_counted_in_training_only(log, tmp_path):
    result = clean(log, profile(), tmp_path / "out", split=TEST_AND_VALIDATION)
    found = sessions(result)
    assert found["1"] == [*BASE, "testonly", "E"], "dropped in test too, and unknown is not rare"
    assert found["2"] == [*BASE, "testonly"]
    assert found["5"] == BASE, "E rare E rare becomes E"
    assert "6" not in found and "7" not in found
    merged = result.events.collect().filter(pl.col("user_id") == "5")["merge_count"].to_list()
    assert merged == [1, 1, 1, 1, 2]
    assert Rules.load(result.path / "cleaning").dropped_commands == ["rare", "rare2"]
    rows = {r["item_id"]: (r["count"], r["kept"]) for r in result.commands.to_dicts()}
    assert rows["rare"] == (2, False) and rows["rare2"] == (1, False)
    assert rows["testonly"] == (0, True)
    assert rows["F"] == (3, True)
    train = result.splits.filter(pl.col("split") == "train")["group"].to_list()
    events = result.events.collect()
    counted = Counter(events.filter(pl.col("user_id").is_in(train))["item_id"].to_list())
    assert {item: count for item, (count, kept) in rows.items() if kept and count} == dict(counted)


def test_rare_commands_can_stay_marked(log, tmp_path):
    marked = profile(rare={"min_count": 3, "action": "out_of_vocabulary"})
    result = clean(log, marked, tmp_path / "out", split=TEST_AND_VALIDATION)
    assert sessions(result)["5"] == [*BASE, "rare", "E", "rare"]
    assert sessions(result)["7"] == ["A", "B", "C", "D", "rare2"]
    assert set(result.commands.filter(~pl.col("kept"))["item_id"]) == {"rare", "rare2"}
    assert Rules.load(result.path / "cleaning").dropped_commands == []


def test_the_funnel_is_exact(log, tmp_path):
    result = clean(log, profile(), tmp_path / "out", split=TEST_AND_VALIDATION)
    stages = result.report["stages"]
    for stage, after in itertools.pairwise(stages):
        assert stage["rows_in"] - sum(stage["removed"].values()) == stage["rows_out"] == after["rows_in"]
    by_name = {s["stage"]: s["removed"] for s in stages}
    assert by_name["length"] == {"session of under 5 events": 4}
    assert by_name["rare"] == {"rare command": 4}
    assert by_name["repeats after rare"] == {"merged into the event before": 1}
    assert by_name["length after rare"] == {"session of under 5 events": 4}
    assert stages[-1]["rows_out"] == result.events.collect().height == result.report["result"]["events"]
    html = result._repr_html_()
    assert "length after rare" in html and f"{stages[0]['rows_in']:,}" in html


def test_users_without_a_session_left_count_in_a_rule(tmp_path):
    commands = {user: list(BASE) for user in USERS}
    commands["1"] = ["View.File"]  # noise only, yet the first of the numerically sorted users
    result = clean(
        write_log(tmp_path / "log.csv", commands),
        "visual_studio",
        tmp_path / "out",
        split=SplitConfig(rule="every_nth", every=5, by="user_id", coverage=False),
    )
    assert result.splits.filter(pl.col("split") == "test")["group"].to_list() == ["1", "6"]
    assert result.report["result"]["sessions_of_split"]["test"] == 1


def test_parts_change_nothing(log, tmp_path):
    rules = profile()
    reconstruct(log, rules, tmp_path / "one")
    reconstruct(log, rules, tmp_path / "many", rows_a_part=1)
    assert len(list((tmp_path / "many" / "events").iterdir())) == 10
    reports = [filter_events(tmp_path / n, tmp_path / f"{n}-out", split=TEST_AND_VALIDATION) for n in ("one", "many")]
    assert reports[0] == reports[1]
    for name in ("commands.parquet", "splits.parquet", "events/*.parquet"):
        assert pl.read_parquet(tmp_path / "one-out" / name).equals(pl.read_parquet(tmp_path / "many-out" / name))


def test_command_line(log, tmp_path, capsys):
    reconstruct(log, profile(), tmp_path / "raw")
    config = tmp_path / "run.yaml"
    config.write_text("split: {rule: list, by: user_id, test_groups: ['1'], validation_groups: ['2']}\n")
    flags = ["--events", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert main([*flags, "--config", str(config)]) == 0
    assert "A" in pl.read_parquet(tmp_path / "out" / "commands.parquet")["item_id"].to_list()
    splits = pl.read_parquet(tmp_path / "out" / "splits.parquet")
    assert splits.filter(pl.col("split") == "test")["group"].to_list() == ["1"]
    assert main([*flags, "--set", "split.sed=1", "--overwrite"]) == 2
    assert "did you mean 'seed'" in capsys.readouterr().err
    assert main(["--events", str(tmp_path), "--out", str(tmp_path / "no")]) == 2
    assert "not a folder of data_processing.reconstruct" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_nothing_left_names_the_stage(tmp_path):
    log = write_log(tmp_path / "log.csv", {"1": ["A", "B"], "2": ["A", "B", "C"]})
    with pytest.raises(InputError, match=r"stage 'length' \(5 rows in; session of under 5 events: 5\)"):
        clean(log, "visual_studio", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]


def test_a_dictionary_of_another_log_is_noted(log, tmp_path, capsys):
    """Thirty events or so: B alone is a few of them, all but A are most."""
    reconstruct(log, profile(), tmp_path / "raw")
    total = pl.scan_parquet(tmp_path / "raw" / "events" / "*").collect()["item_id"]
    dictionary = tmp_path / "d.csv"
    for without, doubt in ((["testonly"], ""), ([], None), ([n for n in set(total) if n != "A"], "another log")):
        known = sorted(set(total) - set(without))
        dictionary.write_text("message,label\n" + "".join(f"{name},{name}\n" for name in known))
        report = filter_events(tmp_path / "raw", tmp_path / "out", dictionary=dictionary, overwrite=True)
        unknown = sum(name in without for name in total)
        stage = next(stage for stage in report["stages"] if stage["stage"] == "align")
        assert stage["not_in_dictionary"] == unknown
        said = capsys.readouterr().err
        assert said.count("note: ") == (doubt is not None)
        if doubt is not None:
            share = f"{unknown} of {len(total)} events ({unknown / len(total):.1%}) keep their names"
            assert f"note: {dictionary}: {share}" in said
            assert ("was it made of another log?" in said) == (unknown / len(total) >= 0.05)
        assert doubt != "another log" or doubt in said


def test_sections_that_had_no_part_in_it_are_noted(log, tmp_path, capsys):
    with_sections = profile(align={}, redundancy={})
    reconstruct(log, with_sections, tmp_path / "raw")
    flags = ["--events", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--overwrite"]
    (tmp_path / "d.csv").write_text("message,label\n" + "".join(f"{n},{n}\n" for n in [*"ABCDEFG", "rare", "testonly"]))
    (tmp_path / "r.csv").write_text("high,low,decision\n")
    for given, missing in (
        ([], ["--dictionary", "--redundancy"]),
        (["--dictionary", str(tmp_path / "d.csv")], ["--redundancy"]),
        (["--dictionary", str(tmp_path / "d.csv"), "--redundancy", str(tmp_path / "r.csv")], []),
    ):
        assert main([*flags, *given]) == 0
        notes = [line for line in capsys.readouterr().err.splitlines() if "is not given" in line]
        assert [flag for flag in ("--dictionary", "--redundancy") for line in notes if flag in line] == missing


def test_a_filtered_folder_and_a_damaged_part_are_one_line(log, tmp_path, capsys):
    reconstruct(log, profile(), tmp_path / "raw")
    flags = ["--events", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert main(flags) == 0
    assert main(["--events", str(tmp_path / "out"), "--out", str(tmp_path / "again")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {tmp_path / 'out'}: is filtered already; give the folder of data_processing.reconstruct"
    ]
    (part,) = (tmp_path / "raw" / "events").iterdir()
    data = part.read_bytes()
    part.write_bytes(data[:4] + bytes(200) + data[204:])
    assert main([*flags, "--splits", str(tmp_path / "out"), "--overwrite"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {part}: not a readable Parquet file")

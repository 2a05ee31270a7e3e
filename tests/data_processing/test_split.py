"""Groups go to one split each, before anything is fitted, whatever the log's language and however it lies in parts."""

import json
from collections import Counter

import polars as pl
import pytest

from data_processing.reconstruct import reconstruct
from data_processing.simulate import simulate
from data_processing.split import main, split_groups, write_splits
from recsys.cleaning.profile import load_profile
from recsys.config import SplitConfig
from recsys.errors import ConfigError, InputError

VECTORWORKS = load_profile("vectorworks")
COMMON = [f"Tool: Common {n} ({n})" for n in range(1, 6)]  # five commands make a session long enough


def raw(path, commands_of_user, **change):
    """Folder of reconstruct of {user: [message, ...]}, one session a user; no two equal messages in a row."""
    lines = ["ts,session_anonymized,user_anonymized,cat,message"]
    for user, names in commands_of_user.items():
        lines += [f"2025-01-01 10:00:{i:02}.5,s{user},{user},Tool,{name}" for i, name in enumerate(names)]
    path.mkdir(parents=True, exist_ok=True)
    (path / "log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    reconstruct(path / "log.csv", VECTORWORKS.model_copy(update=change), path / "raw")
    return path / "raw"


def assigned(result):
    return dict(result.assignment.select("group", "split").iter_rows())


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """More users than the coverage rule remembers of a command."""
    folder = tmp_path_factory.mktemp("split")
    simulate(folder / "s", users=160, sessions_per_user=2, events_per_session=15, seed=2, file_format="parquet")
    return folder


def test_no_group_is_shared_and_none_is_forgotten(generated):
    out = generated / "raw"
    reconstruct(generated / "s" / "logs", VECTORWORKS, out)
    events = pl.read_parquet(out / "events" / "*.parquet")
    long_enough = events.filter(pl.len().over("session_id") >= VECTORWORKS.min_length)
    for by in ("user_id", "session_id"):
        result = split_groups(out, SplitConfig(by=by))
        table = result.assignment
        assert table["group"].is_unique().all()
        assert set(table["group"]) == set(long_enough[by])
        assert result.report["by"] == by
        shares = {name: number / table.height for name, number in Counter(table["split"]).items()}
        assert shares == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.02)
    # Neither does a session of one user fall on two sides: that is what groups are for.
    marked = long_enough.join(split_groups(out).assignment, left_on="user_id", right_on="group")
    assert marked.group_by("user_id").agg(pl.col("split").n_unique())["split"].max() == 1


def test_parts_change_nothing(generated, tmp_path):
    found = set()
    for size in (1, 700, 10**6):
        reconstruct(generated / "s" / "logs", VECTORWORKS, tmp_path / f"{size}", rows_a_part=size)
        write_splits(tmp_path / f"{size}", tmp_path / f"split{size}")
        files = ("splits.parquet", "splits.json")
        found.add(tuple((tmp_path / f"split{size}" / name).read_bytes() for name in files))
    assert len(list((tmp_path / "1" / "events").iterdir())) > 50
    assert len(found) == 1


def test_coverage_counts_ids_not_the_languages_of_their_names(tmp_path):
    # Command 77 is known to two of four users, each in a language of their own.
    users = {name: list(COMMON) for name in ("a", "b", "c", "d")}
    users["a"].append("Tool: Wall (77)")
    users["b"].append("Tool: Wand (77)")
    folder = raw(tmp_path, users)
    config = {"validation_share": 0.0, "test_share": 0.25}
    tests = set()
    for seed in range(12):
        result = split_groups(folder, SplitConfig(seed=seed, **config))
        assert result.report["items"] == len(COMMON) + 1
        (test,) = (group for group, split in assigned(result).items() if split == "test")
        tests.add(test)
        assert result.report["uncovered"] == {"train": {"count": 0, "items": []}, "test": {"count": 0, "items": []}}
    assert tests <= {"a", "b"}, "command 77 is in training and in the test"

    no_ids = VECTORWORKS.model_copy(update={"align": None})
    results = [split_groups(folder, SplitConfig(seed=seed, **config), no_ids) for seed in range(12)]
    assert {r.report["items"] for r in results} == {len(COMMON) + 2}
    assert {g for r in results for g, split in assigned(r).items() if split == "test"} & {"c", "d"}


def test_an_id_that_is_not_trusted_joins_nothing(tmp_path):
    users = {name: list(COMMON) for name in ("a", "b")}
    users["a"] += ["Tool: One thing (0)", "End Event: Other (0)", "no number"]
    users["b"] += ["Tool: Another thing (0)"]
    folder = raw(tmp_path, users)
    assert split_groups(folder).report["items"] == len(COMMON) + 3  # "no number" is outside the grammar
    trusting = VECTORWORKS.align.model_copy(update={"untrusted_ids": []})
    trusted = VECTORWORKS.model_copy(update={"align": trusting})
    assert split_groups(folder, profile=trusted).report["items"] == len(COMMON) + 2


def test_every_nth_counts_users_whose_rows_all_leave(tmp_path):
    users = {str(n): list(COMMON) for n in range(1, 11)}
    users["1"] = ["Event: noise"]  # noise only
    users["6"] = COMMON[:2]  # a session too short to count
    folder = raw(tmp_path, users)
    result = split_groups(folder, SplitConfig(rule="every_nth", every=5, validation_share=0.0))
    assert {g for g, split in assigned(result).items() if split == "test"} == {"1", "6"}
    # A random share is of users that are left.
    assert set(assigned(split_groups(folder))) == {"2", "3", "4", "5", "7", "8", "9", "10"}


def test_a_list_may_name_users_whose_rows_all_leave(tmp_path):
    users = {str(n): list(COMMON) for n in range(1, 5)} | {"5": ["Event: noise"]}
    config = SplitConfig(rule="list", test_groups=["5", "2"], validation_groups=["3"])
    found = assigned(split_groups(raw(tmp_path, users), config))
    assert found == {"1": "train", "2": "test", "3": "val", "4": "train", "5": "test"}


def test_short_sessions_do_not_count(tmp_path):
    users = {name: list(COMMON) for name in ("a", "b", "c")}
    users["d"] = ["Tool: Only here (90)"]
    folder = raw(tmp_path, users)
    report = split_groups(folder).report
    assert report["items"] == len(COMMON) and sum(report["groups"].values()) == 3
    everything = VECTORWORKS.model_copy(update={"min_length": 1})
    assert sum(split_groups(folder, profile=everything).report["groups"].values()) == 4


def test_rows_without_a_user_are_one_group(tmp_path):
    folder = raw(tmp_path, {"": COMMON, "b": COMMON, "c": COMMON})
    assert set(assigned(split_groups(folder))) == {"", "b", "c"}


def test_what_cannot_be_is_one_line(tmp_path):
    folder = raw(tmp_path, {"a": COMMON, "b": COMMON})
    with pytest.raises(ConfigError, match="'document' splits pieces of sessions, which `recsys preprocess` does"):
        split_groups(folder, SplitConfig(rule="document"))
    for rule in ("leave_last", "time", "position"):
        with pytest.raises(
            ConfigError, match=f"'{rule}' splits sequences, which `recsys preprocess` does: give it the"
        ):
            split_groups(folder, SplitConfig(rule=rule))
    with pytest.raises(ConfigError, match="no group 'z' in the events"):
        split_groups(folder, SplitConfig(rule="list", test_groups=["z"]))
    with pytest.raises(InputError, match="not a folder of data_processing.reconstruct"):
        write_splits(tmp_path, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"log.csv", "raw"}


def test_command_line(tmp_path, capsys):
    folder = raw(tmp_path, {str(n): COMMON for n in range(6)})
    config = tmp_path / "run.yaml"
    config.write_text("split: {rule: list, by: user_id, test_groups: ['1'], validation_groups: ['2']}\n")
    flags = ["--events", str(folder), "--out", str(tmp_path / "out"), "--config", str(config)]
    assert main(flags) == 0
    assert '"train": 4, "val": 1, "test": 1' in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "splits.json").read_text())["rule"] == "list"
    assert main(flags) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*flags, "--overwrite", "--set", "split.test_groups=['3']"]) == 0
    table = pl.read_parquet(tmp_path / "out" / "splits.parquet")
    assert table.filter(pl.col("split") == "test")["group"].to_list() == ["3"]

"""The stage on folders written by hand: training groups only, exact counts, the same bytes however parts are cut."""

import json
from collections import Counter

import polars as pl
import pytest
import yaml

from data_processing.simulate import simulate
from data_processing.workflows import learn_workflows, main
from recsys.buckets import Workers
from recsys.cleaning.fitting import WorkflowConfig
from recsys.cleaning.profile import load_profile
from recsys.cleaning.workflows import Workflows
from recsys.config import save_config
from recsys.errors import ConfigError, InputError

LOW = WorkflowConfig(min_count=3, min_share=0.0)


def write_folder(path, events, splits, *, rare=(), parts=1, by="user_id", description=True, **profile):
    """What data_processing.filter writes. `splits`: group -> split."""
    (path / "cleaning").mkdir(parents=True)
    (path / "events").mkdir()
    sessions = events["session_id"].unique(maintain_order=True).to_list()
    size = -(-len(sessions) // parts)
    for number in range(parts):
        part = events.filter(pl.col("session_id").is_in(sessions[number * size : (number + 1) * size]))
        part.write_parquet(path / "events" / f"part-{number:05}.parquet")
    counts = Counter(item for group, item in events.select(by, "item_id").iter_rows() if splits[group] == "train")
    items = sorted(set(events["item_id"]), key=lambda item: (-counts[item], item))
    rows = {"item_id": items, "count": [counts[i] for i in items], "kept": [i not in rare for i in items]}
    if description:
        rows |= {"classification": [f"class {i}" for i in items], "description": [f"does {i}" for i in items]}
    pl.DataFrame(rows).write_parquet(path / "commands.parquet")
    table = pl.DataFrame({"group": sorted(splits), "split": [splits[group] for group in sorted(splits)]})
    table.write_parquet(path / "splits.parquet")
    (path / "splits.json").write_text(json.dumps({"by": by}))
    values = load_profile("visual_studio").model_dump(mode="json") | {"min_length": 2} | profile
    save_config(type(load_profile("visual_studio")).model_validate(values), path / "cleaning" / "profile.yaml")
    (path / "cleaning" / "rules.json").write_text('{"dropped_commands": []}\n')
    report = {"source": "logs", "stages": [{"stage": "length", "rows_in": events.height, "rows_out": events.height}]}
    report["result"] = {"events": events.height, "commands": len(items), "sessions": len(sessions)}
    (path / "report.json").write_text(json.dumps(report))
    return path


def events_of(texts):
    """`texts`: (user, commands as letters), one a session."""
    rows = [(user, f"{user}-{number}", letter) for number, (user, text) in enumerate(texts) for letter in text]
    return pl.DataFrame(
        {
            "session_id": [session for _, session, _ in rows],
            "item_id": [letter for *_, letter in rows],
            "timestamp": list(range(len(rows))),
            "user_id": [user for user, *_ in rows],
            "merge_count": [1] * len(rows),
        }
    )


SPLITS = {"u": "train", "v": "train", "w": "val", "t": "test"}
TEXTS_OF_USER = {"u": "xabcy abc a rs", "v": "zabcrs rsrsy bc bc", "w": "mnab", "t": "mn" * 9}
EVENTS = events_of([(user, text) for user, texts in TEXTS_OF_USER.items() for text in texts.split()])


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "ev", EVENTS, SPLITS)


def names(path):
    return [merge.name.removeprefix("Workflow: ") for merge in Workflows.load(path / "cleaning").merges]


def read(path):
    return pl.read_parquet(path / "events" / "*.parquet")


def of_session(path, session):
    items = read(path).filter(pl.col("session_id") == session)["item_id"]
    return [item.removeprefix("Workflow: ").replace(" + ", "") for item in items]


def test_learned_from_training_groups_and_applied_to_all(folder, tmp_path):
    learn_workflows(folder, tmp_path / "out", config=LOW)
    found = Workflows.load(tmp_path / "out" / "cleaning")
    assert [(m.name, m.left, m.right, m.count) for m in found.merges] == [
        ("Workflow: b + c", ["b"], ["c"], 5),
        ("Workflow: r + s", ["r"], ["s"], 4),
        ("Workflow: a + b + c", ["a"], ["b", "c"], 3),
    ], "m n is frequent in test only; a and b c of two sessions stand side by side"
    assert found.pairs == 4 + 2 + 5 + 4 + 0 + 1 + 1 + 1
    assert [m.share for m in found.merges] == [round(count / 18, 8) for count in (5, 4, 3)]
    assert of_session(tmp_path / "out", "t-9") == list("mn" * 9)
    assert of_session(tmp_path / "out", "v-5") == ["rs", "y"], "rs rs collapses"
    assert of_session(tmp_path / "out", "v-4") == ["z", "abc", "rs"]


def test_without_collapse(folder, tmp_path):
    learn_workflows(folder, tmp_path / "out", config=LOW.model_copy(update={"collapse": False}))
    assert of_session(tmp_path / "out", "v-5") == ["rs", "rs", "y"]


def test_workflows_that_longer_ones_leave_over_are_steps(folder, tmp_path):
    learn_workflows(folder, tmp_path / "out", config=LOW)
    found = Workflows.load(tmp_path / "out" / "cleaning")
    assert [m.step for m in found.merges] == [True, False, False]
    assert of_session(tmp_path / "out", "v-6") == ["b", "c"]
    assert "Workflow: b + c" not in pl.read_parquet(tmp_path / "out" / "commands.parquet")["item_id"].to_list()


def test_what_stops_learning(folder, tmp_path):
    changes = [{"merges": 1}, {"min_count": 5}, {"min_share": 0.25}, {"max_length": 2, "merges": 1}]
    for number, change in enumerate(changes):
        out = tmp_path / str(number)
        learn_workflows(folder, out, config=WorkflowConfig.model_validate(LOW.model_dump() | change))
        assert names(out) == ["b + c"], change
    learn_workflows(folder, tmp_path / "short", config=LOW.model_copy(update={"max_length": 2}))
    assert names(tmp_path / "short") == ["b + c", "r + s"]


def test_rare_and_excluded_commands_never_merge(tmp_path):
    folder = write_folder(tmp_path / "ev", EVENTS, SPLITS, rare={"b"})
    learn_workflows(folder, tmp_path / "out", config=LOW.model_copy(update={"exclude": ["s"]}))
    assert names(tmp_path / "out") == []
    tokens = read(tmp_path / "out")
    assert tokens.drop("last_timestamp", "constituents").equals(EVENTS)
    assert tokens["constituents"].null_count() == tokens.height


def test_lists_come_first_and_longest_first(folder, tmp_path):
    lists = [["z", "a"], ["a", "b"], ["a", "b", "c"], ["r", "s"]]
    learn_workflows(folder, tmp_path / "out", config=LOW.model_copy(update={"lists": lists, "merges": 0}))
    found = Workflows.load(tmp_path / "out" / "cleaning").merges
    assert [(m.name, m.count, m.left) for m in found] == [
        ("Workflow: a + b + c", 3, None),
        ("Workflow: a + b", 0, None),
        ("Workflow: r + s", 4, None),
        ("Workflow: z + a", 0, None),
    ]
    assert of_session(tmp_path / "out", "v-4") == ["z", "abc", "rs"]
    rows = {r["item_id"]: r for r in pl.read_parquet(tmp_path / "out" / "commands.parquet").to_dicts()}
    assert rows["Workflow: z + a"]["count"] == 0 and rows["Workflow: z + a"]["kept"], "asked for, so it stays"


def test_commands_are_recounted(folder, tmp_path):
    learn_workflows(folder, tmp_path / "out", config=LOW)
    table = pl.read_parquet(tmp_path / "out" / "commands.parquet")
    train = read(tmp_path / "out").filter(pl.col("user_id").is_in(["u", "v"]))["item_id"].to_list()
    assert dict(table.select("item_id", "count").filter(pl.col("count") > 0).iter_rows()) == Counter(train)
    assert table["item_id"].to_list() == table.sort("count", "item_id", descending=[True, False])["item_id"].to_list()
    before = pl.read_parquet(folder / "commands.parquet")
    assert set(before["item_id"]) < set(table["item_id"]) and table.columns == before.columns
    row = table.row(by_predicate=pl.col("item_id") == "Workflow: a + b + c", named=True)
    assert row | {"count": 0} == {
        "item_id": "Workflow: a + b + c",
        "count": 0,
        "kept": True,
        "classification": None,
        "description": "Workflow of a + b + c",
    }


def test_a_rare_command_keeps_the_count_that_made_it_rare(tmp_path):
    folder = write_folder(tmp_path / "ev", EVENTS, SPLITS, rare={"x", "gone"}, description=False)
    table = pl.read_parquet(folder / "commands.parquet")
    pl.concat([table, pl.DataFrame({"item_id": ["gone"], "count": [2], "kept": [False]})]).write_parquet(
        folder / "commands.parquet"
    )
    learn_workflows(folder, tmp_path / "out", config=LOW)
    after = pl.read_parquet(tmp_path / "out" / "commands.parquet")
    assert after.filter(pl.col("item_id").is_in(["gone", "x"])).rows() == [("gone", 2, False), ("x", 1, False)]


def test_the_report_adds_up(folder, tmp_path):
    report = learn_workflows(folder, tmp_path / "out", config=LOW)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert report["source"] == "logs" and [s["stage"] for s in report["stages"]] == ["length", "workflows"]
    stage, tokens = report["stages"][-1], read(tmp_path / "out")
    assert stage["rows_in"] == EVENTS.height and stage["rows_out"] == tokens.height
    assert stage["removed"] == {"merged into a workflow": EVENTS.height - tokens.height}
    assert stage["workflow_events"] == tokens.height - tokens["constituents"].null_count() == 6
    lengths = tokens.group_by("session_id").len()["len"]
    assert report["result"] == {
        "events": tokens.height,
        "commands": EVENTS["item_id"].n_unique(),
        "sessions": 10,
        "events_of_split": {"test": 18, "train": tokens.height - 22, "val": 4},
        "vocabulary": {
            "commands": EVENTS["item_id"].n_unique(),
            "workflows": 2,
            "fixed_lists": 0,
            "steps": 1,
            "events_per_token": round(EVENTS.height / tokens.height, 4),
            "short_sessions": int((lengths < 2).sum()),
            "single_token_sessions": 3,
        },
    }


def test_the_folder_is_complete(folder, tmp_path):
    learn_workflows(folder, tmp_path / "out")
    for name in ("splits.parquet", "splits.json", "cleaning/rules.json", "cleaning/profile.yaml"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    learn_workflows(folder, tmp_path / "out", config=LOW, overwrite=True)
    profile = load_profile(tmp_path / "out" / "cleaning" / "profile.yaml")
    assert profile.workflows == LOW, "the profile of the folder says how it was made"
    with pytest.raises(InputError, match="exists already"):
        learn_workflows(folder, tmp_path / "out")


def test_the_profile_says_how(tmp_path):
    folder = write_folder(tmp_path / "ev", EVENTS, SPLITS, workflows={"merges": 1, "min_count": 3})
    learn_workflows(folder, tmp_path / "out")
    assert names(tmp_path / "out") == ["b + c"]


def test_splits_by_session(tmp_path):
    splits = {session: "test" if session in ("t-9", "v-4") else "train" for session in EVENTS["session_id"].unique()}
    folder = write_folder(tmp_path / "ev", EVENTS, splits, by="session_id")
    learn_workflows(folder, tmp_path / "out", config=LOW)
    assert names(tmp_path / "out") == ["b + c", "r + s"], "sessions of one user on both sides: a b c is too seldom now"


@pytest.mark.parametrize("workers", [Workers(), Workers("processes", 2)])
def test_parts_and_workers_change_nothing(tmp_path, workers):
    one = write_folder(tmp_path / "one", EVENTS, SPLITS)
    many = write_folder(tmp_path / "many", EVENTS, SPLITS, parts=5)
    reports = [
        learn_workflows(one, tmp_path / "one-out", config=LOW),
        learn_workflows(many, tmp_path / "many-out", config=LOW, workers=workers),
    ]
    assert reports[0] == reports[1]
    for name in ("commands.parquet", "cleaning/workflows.json", "cleaning/profile.yaml", "report.json"):
        assert (tmp_path / "one-out" / name).read_bytes() == (tmp_path / "many-out" / name).read_bytes()
    assert read(tmp_path / "one-out").equals(read(tmp_path / "many-out"))


def test_an_edited_file_is_applied(folder, tmp_path, capsys):
    learn_workflows(folder, tmp_path / "out", config=LOW)
    values = json.loads((tmp_path / "out" / "cleaning" / "workflows.json").read_text())
    values["merges"][2]["name"] = "Alphabet"
    values["merges"][1]["step"] = True  # not wanted
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(values))
    flags = ["--events", str(folder), "--out", str(tmp_path / "again"), "--workflows", str(edited)]
    assert main(flags) == 0
    assert of_session(tmp_path / "again", "v-4") == ["z", "Alphabet", "r", "s"]
    assert "1 workflows" in capsys.readouterr().out
    values["merges"][2]["name"] = "m"
    edited.write_text(json.dumps(values))
    assert main([*flags, "--overwrite"]) == 2
    assert "edited.json: merges.2 'm': a command has this name" in capsys.readouterr().err


def test_command_line(folder, tmp_path, capsys):
    config = load_profile(folder / "cleaning" / "profile.yaml").model_copy(update={"workflows": LOW})
    save_config(config, folder / "cleaning" / "profile.yaml")
    flags = ["--events", str(folder), "--out", str(tmp_path / "out")]
    assert main([*flags, "--merges", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["count", "share", "workflow"],
        ["5", "27.778%", "Workflow:", "b", "+", "c", "(step)"],
        ["4", "22.222%", "Workflow:", "r", "+", "s"],
        ["3", "16.667%", "Workflow:", "a", "+", "b", "+", "c"],
    ]
    assert "10 commands and 2 workflows" in lines[4]
    saved = yaml.safe_load((tmp_path / "out" / "cleaning" / "profile.yaml").read_text())["workflows"]
    assert saved["merges"] == 3 and saved["min_count"] == 3
    assert main([*flags, "--merges", "-1", "--overwrite"]) == 2
    assert "--merges -1: give 0 or more" in capsys.readouterr().err


def test_names_never_clash(tmp_path):
    texts = [("u", ["a", "b", "Workflow: a + b", "a", "b"])] * 3
    folder = write_folder(tmp_path / "ev", events_of(texts), {"u": "train"})
    learn_workflows(folder, tmp_path / "out", config=LOW.model_copy(update={"merges": 1, "max_length": 2}))
    first = Workflows.load(tmp_path / "out" / "cleaning").merges[0]
    assert (first.constituents, first.name) == (["a", "b"], "Workflow: a + b (2)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lists": [["a", "bb"]]}, r"workflows\.lists\.0: 'bb' is no command of these events"),
        ({"lists": [["a", "r"]]}, r"workflows\.lists\.0: 'r' is rare in the training groups"),
        ({"lists": [["a", "b"], ["a", "b"]]}, r"workflows\.lists\.1: stands twice"),
        ({"lists": [["a", "b"]], "exclude": ["b"]}, r"workflows\.lists\.0: 'b' is under workflows\.exclude too"),
    ],
)
def test_wrong_lists(tmp_path, change, message):
    folder = write_folder(tmp_path / "ev", EVENTS, SPLITS, rare={"r"})
    with pytest.raises(ConfigError, match=message):
        learn_workflows(folder, tmp_path / "out", config=LOW.model_copy(update=change))
    assert not (tmp_path / "out").exists()


def test_wrong_folders(folder, tmp_path):
    with pytest.raises(InputError, match=r"not a folder of data_processing"):
        learn_workflows(tmp_path / "no", tmp_path / "out")
    learn_workflows(folder, tmp_path / "out")
    with pytest.raises(InputError, match="holds workflows already"):
        learn_workflows(tmp_path / "out", tmp_path / "again")
    pl.DataFrame({"group": ["u"], "split": ["train"]}).write_parquet(folder / "splits.parquet")
    with pytest.raises(InputError, match=r"splits\.parquet: no group '[vwt]'"):
        learn_workflows(folder, tmp_path / "again")
    (folder / "commands.parquet").unlink()
    with pytest.raises(InputError, match=r"no commands\.parquet"):
        learn_workflows(folder, tmp_path / "again")


def test_planted_sub_sequences_are_found(tmp_path):
    """The generator's truth, by command ids, since the names are in five languages."""
    simulate(tmp_path / "sim", users=40, seed=5)
    truth = pl.read_parquet(tmp_path / "sim" / "truth" / "clean.parquet")
    events = truth.drop("item_id", "position").rename({"canonical_id": "item_id"})
    folder = write_folder(tmp_path / "ev", events, dict.fromkeys(events["user_id"].unique(), "train"))
    learn_workflows(folder, tmp_path / "out")
    planted = json.loads((tmp_path / "sim" / "truth" / "subsequences.json").read_text())
    found = [merge.constituents for merge in Workflows.load(tmp_path / "out" / "cleaning").vocabulary()]
    assert len(planted) == 8 and [entry for entry in planted if entry not in found] == []

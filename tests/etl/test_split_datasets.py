"""Datasets that rules inside sequences make: whole path, from a table to files, training and evaluation."""

import json
import random
from itertools import pairwise

import polars as pl
import pytest

from recsys.cli import main
from recsys.config import RunConfig
from recsys.errors import ConfigError
from recsys.etl import events as events_module
from recsys.etl.polars_engine import preprocess
from recsys.etl.split import SplitResult
from recsys.evaluation import evaluate
from recsys.evaluation.protocol import dataset_source
from recsys.training import train

SPLITS = ("train", "val", "test")
SCHEMA = {"session_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "user_id": pl.String}
ETL = {"categorical": {"item_id": {}}, "continuous": {"timestamp_interval": {"transforms": ["zscore"]}}}


def table(users=12, seed=0):
    """Users of one to four sessions that overlap in time, with ties within and between them; one user unknown."""
    rng = random.Random(seed)
    rows = []
    for user in range(users):
        for session in range(rng.randrange(1, 5)):
            time = rng.randrange(50) * 10**6
            for _ in range(rng.randrange(1, 9)):
                time += rng.randrange(4) * 10**6
                rows.append((f"s{user}-{session}", f"i{rng.randrange(7)}", time, None if user == 3 else f"u{user}"))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def read(path):
    return {name: pl.read_parquet(path / name / "*.parquet").sort("session_id", "chunk") for name in SPLITS}


def histories(frame):
    """Each user's events in time order, equal times by session and then as given."""
    found = {}
    for place, (session, item, time, user) in enumerate(frame.iter_rows()):
        found.setdefault(user or f"session {session}", []).append((time, session, place, item))
    return {user: [(time, item) for time, _, _, item in sorted(events)] for user, events in found.items()}


@pytest.mark.parametrize("k", [1, 2])
def test_leave_last_writes_users_with_their_history(tmp_path, k):
    frame = table()
    made = preprocess(frame, RunConfig(split={"rule": "leave_last", "k": k}, etl=ETL), tmp_path / "out")
    names = pl.read_parquet(tmp_path / "out" / "workflow" / "items.parquet")["item_id"].to_list()
    found, whole = read(tmp_path / "out"), histories(frame)
    ends = {
        u: [len(e) - m * k for m in (2, 1, 0)] if len(e) > 2 * k else [len(e), None, None] for u, e in whole.items()
    }
    for at, name in enumerate(SPLITS):
        expected = {user: whole[user][: end[at]] for user, end in ends.items() if end[at] is not None}
        lists = {
            user: list(zip(times, [names[i] for i in items], strict=True))
            for user, times, items in found[name].select("session_id", "timestamp", "item_id").iter_rows()
        }
        if name == "train":  # every item that is held out is known here
            assert lists == expected and "scored_from" not in found[name].columns
            continue
        assert {u: [t for t, _ in e] for u, e in lists.items()} == {u: [t for t, _ in e] for u, e in expected.items()}
        assert lists == expected
        starts = dict(found[name].select("session_id", "scored_from").iter_rows())
        assert starts == {user: len(events) - k for user, events in expected.items()}
        assert found[name].schema["scored_from"] == pl.Int32
        counts = made.report["splits"][name]
        assert counts["events_in"] == counts["events_out"] == k * len(expected)
        assert counts["context_events"] == sum(len(events) - k for events in expected.values())
        assert counts["groups"] == counts["sequences"] == len(expected)
    assert made.report["events_in"] == made.report["events_out"] == frame.height
    # The interval runs over the user's events, sessions or not.
    scale = made.schema["timestamp_interval"].statistics
    for user, values in found["test"].select("session_id", "timestamp_interval").iter_rows():
        times = [t for t, _ in whole[user]]
        gaps = [0.0, *((b - a) / 10**6 for a, b in pairwise(times))]
        assert values == pytest.approx([(gap - scale["mean"]) / scale["std"] for gap in gaps], abs=1e-5)


RULES = [
    {"rule": "leave_last"},
    {"rule": "time", "test_share": 0.2, "validation_share": 0.2},
    {"rule": "time", "test_share": 0.2, "validation_share": 0.2, "by": "session_id"},
    {"rule": "position", "test_share": 0.2, "validation_share": 0.2},
    {"rule": "position", "by": "user_id"},
]


@pytest.mark.parametrize("split", RULES, ids=lambda s: "-".join(map(str, s.values())))
def test_parts_and_the_order_of_sessions_do_not_matter(tmp_path, monkeypatch, split):
    frame = table(users=20)
    config = RunConfig(split=split, etl=ETL | {"min_length": 2, "chunk": {"min_items": 2, "max_items": 4}})
    one = preprocess(frame, config, tmp_path / "one")
    sessions = frame.partition_by("session_id", maintain_order=True)
    random.Random(5).shuffle(sessions)
    folder = tmp_path / "folder"
    (folder / "events").mkdir(parents=True)
    for at in range(4):  # a user's sessions lie in several parts
        pl.concat(sessions[at::4]).write_parquet(folder / "events" / f"part-{at:05d}.parquet")
    monkeypatch.setattr(events_module, "BUCKET_ROWS", 30)
    monkeypatch.setattr(events_module, "BATCH_ROWS", 17)
    first = read(tmp_path / "one")
    for name, source in (("many", pl.concat(sessions)), ("folder", folder)):
        made = preprocess(source, config, tmp_path / name / "out")
        assert len(list((tmp_path / name / "out" / "train").iterdir())) > 1
        assert made.report == one.report
        other = read(tmp_path / name / "out")
        assert all(first[split].equals(other[split]) for split in SPLITS)
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert report["events_in"] - sum(report["dropped"].values()) == report["events_out"]
    assert report["events_in"] == frame.height


@pytest.mark.parametrize("split", RULES, ids=lambda s: "-".join(map(str, s.values())))
def test_what_is_held_out_does_not_reach_the_workflow(tmp_path, split):
    frame = table().with_row_index("row")
    config = RunConfig(split=split, etl=ETL | {"categorical": {"item_id": {}, "note": {}}})
    rows = frame["row"].cast(pl.String).alias("note")  # so that the vocabulary of notes names the rows it saw
    made = preprocess(frame.drop("row").with_columns(rows), config, tmp_path / "one")
    notes = pl.read_parquet(tmp_path / "one" / "workflow" / "unique.note.parquet")["note"].drop_nulls()
    trained = set(notes.cast(pl.Int64, strict=False).drop_nulls())
    assert len(trained) == made.report["split"]["events"]["train"] < frame.height
    outside = ~pl.col("row").is_in(list(trained))
    changed = frame.with_columns(pl.when(outside).then(pl.lit("only here")).otherwise("item_id").alias("item_id"))
    preprocess(changed.drop("row").with_columns(rows), config, tmp_path / "two")
    for file in sorted((tmp_path / "one" / "workflow").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / "workflow" / file.name).read_bytes(), file.name
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert one["train"].equals(two["train"])
    for row in two["test"].iter_rows(named=True):  # and scored are events that training did not see
        start = row["scored_from"]
        assert set(row["item_id"][start:]) == {2} and set(row["note"][start:]) == {2}


def test_time_reports_the_warm_share(tmp_path):
    rows = [(f"a{n}", "x", 10 * n, "old") for n in range(8)] + [("b", "y", 75, "new"), ("b", "x", 76, "new")]
    rows += [("a8", "y", 90, "old"), ("c", "x", 65, "late")]
    config = RunConfig(split={"rule": "time", "validation_from": 60, "test_from": 72}, etl=ETL)
    made = preprocess(pl.DataFrame(rows, schema=SCHEMA, orient="row"), config, tmp_path / "out")
    warm = made.report["split"]["warm"]
    assert warm["test"]["users"] == {"count": 1, "of": 2, "share": 0.5}
    assert warm["test"]["items"] == {"count": 1, "of": 2, "share": 0.5}
    assert warm["val"]["users"] == {"count": 1, "of": 2, "share": 0.5}
    found = read(tmp_path / "out")
    shape = {name: dict(found[name].select("session_id", "scored_from").iter_rows()) for name in ("val", "test")}
    assert shape == {"val": {"late": 1, "old": 6}, "test": {"new": 1, "old": 8}}
    assert found["train"]["timestamp"].to_list() == [[0, 10, 20, 30, 40, 50]]


def test_a_folder_that_is_split_already_is_refused(tmp_path):
    (tmp_path / "clean" / "events").mkdir(parents=True)
    table().write_parquet(tmp_path / "clean" / "events" / "part-00000.parquet")
    users = [f"u{n}" for n in range(12)] + [""]
    assignment = pl.DataFrame({"group": users, "split": ["train"] * 13})
    SplitResult(assignment, {"by": "user_id", "rule": "share", "groups": {}}).save(tmp_path / "clean")
    with pytest.raises(ConfigError, match=r"'leave_last', but .*clean was split before it was cleaned \(rule share\)"):
        preprocess(tmp_path / "clean", RunConfig(split={"rule": "leave_last"}, etl=ETL), tmp_path / "out")
    made = preprocess(tmp_path / "clean" / "events", RunConfig(split={"rule": "leave_last"}, etl=ETL), tmp_path / "out")
    assert made.report["split"]["rule"] == "leave_last"


def test_leave_last_from_table_to_figures(tmp_path):
    model = {
        "max_length": 6,
        "inputs": {"embedding_size": 8, "fusion_size": 8, "fusion_heads": 1},
        "backbone": {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "intermediate_size": 8},
    }
    training = {"epochs": 1, "batch_size": 8, "threads": 1}
    values = {"split": {"rule": "leave_last"}, "etl": ETL, "model": model, "training": training}
    config = RunConfig(**values, evaluation={"bootstrap_samples": 0})
    made = preprocess(table(users=15), config, tmp_path / "data")
    run = train(tmp_path / "data", config, tmp_path / "run")
    result = evaluate(run.path, tmp_path / "data")
    protocol = result.metrics["protocol"]
    rule = dataset_source(tmp_path / "data", "test")["rule"]
    assert protocol["split"] == rule and (rule["rule"], rule["k"], rule["by"]) == ("leave_last", 1, "user_id")
    # One position a user: the last event, after the whole history.
    tests = read(tmp_path / "data")["test"]
    scored = result.predictions.select("session_id", "position", "target").sort("session_id")
    expected = tests.select("session_id", pl.col("scored_from").alias("position"), target=pl.col("item_id").list.last())
    assert scored.equals(expected)
    assert protocol["counts"]["test"]["positions"]["all"] == made.report["splits"]["test"]["groups"]


def test_the_command_prints_the_leakage_and_a_full_disk_in_one_line(tmp_path, monkeypatch, capsys):
    table().write_parquet(tmp_path / "events.parquet")
    settings = ["--set", "split.rule=leave_last", "--set", "etl.categorical={item_id: {}}"]
    arguments = ["preprocess", "--events", str(tmp_path / "events.parquet"), "--out", str(tmp_path / "out"), *settings]

    def full(*_, **__):
        raise pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", full)
        assert main(arguments) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: ") and error.count("\n") == 1 and "out: cannot be written: the disk is full" in error
    )
    assert [p.name for p in tmp_path.iterdir()] == ["events.parquet"]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    users = report["leakage"]["groups"]["train_test"]["users"]
    assert f"leakage: {users} users and " in capsys.readouterr().out

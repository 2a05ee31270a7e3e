"""From an events folder or table to a sequence dataset: exact counts, no leak, bounded parts, clear errors."""

import json
import random

import polars as pl
import pytest

from recsys.config import RunConfig
from recsys.errors import InputError, SchemaError
from recsys.etl import events as events_module
from recsys.etl.polars_engine import preprocess
from recsys.etl.split import SplitResult
from recsys.etl.workflow import Workflow
from recsys.schema import Schema

SPLITS = ("train", "val", "test")


def table(users=20, seed=0, prefix="u"):
    rng = random.Random(seed)
    rows = []
    for user in range(users):
        for session in range(3):
            time = rng.randrange(10**9) * 10**6
            for _ in range(rng.randrange(1, 30)):
                time += rng.randrange(3) * 10**6
                item = rng.choice(["a", "b", "c", "d,😀", "", None])
                rows.append((f"{prefix}{user}-{session}", item, time, f"{prefix}{user}", rng.choice(["M", None])))
    schema = {"session_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64} | {
        "user_id": pl.String,
        "cat": pl.String,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def events_folder(path, frame, parts=3):
    """An events folder as cleaning writes it; every fifth user is test, every fifth but one validation."""
    (path / "events").mkdir(parents=True)
    (path / "cleaning").mkdir()
    (path / "cleaning" / "profile.yaml").write_text("name: x\n")
    users = sorted(frame["user_id"].unique())
    for part in range(parts):
        mine = frame.filter(pl.col("user_id").is_in(users[part::parts]))
        mine.write_parquet(path / "events" / f"part-{part:05d}.parquet")
    commands = {
        "item_id": ["a", "b", "d,😀"],
        "count": [1, 1, 1],
        "kept": [True, False, True],
        "target": ["x", "y", None],
    }
    pl.DataFrame(commands).write_parquet(path / "commands.parquet")
    names = ["test" if n % 5 == 0 else "val" if n % 5 == 1 else "train" for n in range(len(users))]
    assignment = pl.DataFrame({"group": users, "split": names})
    groups = {name: names.count(name) for name in SPLITS}
    SplitResult(assignment, {"by": "user_id", "rule": "every_nth", "groups": groups}).save(path)
    return path


def dataset(path):
    return {name: pl.read_parquet(path / name / "part-*.parquet").sort("session_id", "chunk") for name in SPLITS}


def test_a_folder_becomes_a_dataset_with_exact_counts(tmp_path):
    frame = table()
    folder = events_folder(tmp_path / "events", frame)
    made = preprocess(folder, RunConfig(etl={"min_length": 5, "newest": 10}), tmp_path / "out")
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "cleaning",
        "report.json",
        "schema.json",
        "test",
        "train",
        "val",
        "workflow",
    ]
    assert (out / "cleaning" / "profile.yaml").read_text() == "name: x\n"
    split = dict(pl.read_parquet(folder / "splits.parquet").iter_rows())
    found = dataset(out)
    report = json.loads((out / "report.json").read_text())
    assert report == made.report and Schema.load(out / "schema.json") == made.schema
    for name in SPLITS:
        users = {u for u, s in split.items() if s == name}
        mine = frame.filter(pl.col("user_id").is_in(users))
        counts = report["splits"][name]
        assert set(found[name]["user_id"]) <= users
        assert counts["groups"] == len(users)
        assert counts["events_in"] == mine.height
        assert counts["events_out"] == found[name]["timestamp"].list.len().sum()
        assert counts["events_in"] - sum(counts["dropped_events"].values()) == counts["events_out"]
        sizes = dict(mine.group_by("session_id").len().iter_rows())
        if name == "train":
            kept = {s: min(n, 10) for s, n in sizes.items() if n >= 5}
            assert counts["dropped_events"]["older_than_newest"] == sum(max(0, n - 10) for n in sizes.values())
            assert counts["dropped_events"]["min_length"] == sum(n for n in sizes.values() if n < 5)
        else:
            kept = sizes
        assert dict(zip(found[name]["session_id"], found[name]["item_id"].list.len(), strict=True)) == kept
        assert counts["sequences"] == len(kept)
    assert report["events_in"] == frame.height
    assert report["events_in"] - sum(report["dropped"].values()) == report["events_out"]
    assert made.summary()["sequences"].sum() == sum(f.height for f in found.values())
    # Rare commands have no id.
    items = pl.read_parquet(out / "workflow" / "items.parquet")
    assert "b" not in items["item_id"].to_list() and "c" in items["item_id"].to_list()


def test_test_rows_do_not_reach_the_workflow(tmp_path):
    frame = table()
    users = sorted(frame["user_id"].unique())
    outside = pl.col("user_id").is_in([u for n, u in enumerate(users) if n % 5 < 2])
    changed = frame.with_columns(
        pl.when(outside).then(pl.lit("only here")).otherwise("item_id").alias("item_id"),
        pl.when(outside).then(pl.col("timestamp") * 3).otherwise("timestamp").alias("timestamp"),
        pl.when(outside).then(pl.lit("new")).otherwise("cat").alias("cat"),
    )
    for name, rows in (("one", frame), ("two", changed)):
        preprocess(events_folder(tmp_path / name, rows), RunConfig(), tmp_path / f"out-{name}")
    files = sorted(p.name for p in (tmp_path / "out-one" / "workflow").iterdir())
    assert files == [
        "items.parquet",
        "schema.pbtxt",
        "unique.cat.parquet",
        "unique.item_id.parquet",
        "unique.target.parquet",
        "workflow.json",
    ]
    for file in files:
        one, two = ((tmp_path / f"out-{n}" / "workflow" / file).read_bytes() for n in ("one", "two"))
        assert one == two
    found = dataset(tmp_path / "out-two")
    assert set(found["test"]["item_id"].explode()) == {2}
    assert found["train"].equals(dataset(tmp_path / "out-one")["train"])


@pytest.mark.parametrize("kind", ["frame", "csv", "parquet"])
def test_tables_in_many_buckets_give_what_one_bucket_gives(tmp_path, monkeypatch, kind):
    frame = table(users=30)
    source = frame
    if kind != "frame":
        source = tmp_path / f"events.{kind}"
        frame = frame.with_columns(pl.col("item_id").replace("", "empty"))  # bare CSV cells cannot be empty text
        (frame.write_csv if kind == "csv" else frame.write_parquet)(source)
    config = RunConfig(
        split={"test_share": 0.2, "validation_share": 0.2}, etl={"chunk": {"min_items": 3, "max_items": 6}}
    )
    one = preprocess(frame, config, tmp_path / "one")
    monkeypatch.setattr(events_module, "BUCKET_ROWS", 100)
    monkeypatch.setattr(events_module, "BATCH_ROWS", 64)
    monkeypatch.setattr(events_module, "CSV_BYTES_PER_ROW", 10)
    many = preprocess(source, config, tmp_path / "many")
    assert len(list((tmp_path / "many" / "train").iterdir())) > 1
    assert one.report == many.report and one.schema == many.schema
    first, second = dataset(tmp_path / "one"), dataset(tmp_path / "many")
    for name in SPLITS:
        assert first[name].equals(second[name])
    users = [set(first[name]["user_id"]) for name in SPLITS]
    assert [len(u) for u in users] == [19, 5, 6] and len(set().union(*users)) == 30
    assert first["train"]["chunk"].max() > 0 and first["test"]["chunk"].max() == 0


def test_the_documents_protocol_splits_chunks_and_has_no_test_set(tmp_path):
    config = RunConfig(split={"rule": "document"}, etl={"chunk": {"min_items": 3, "max_items": 5}})
    made = preprocess(table(), config, tmp_path / "out")
    found = dataset(tmp_path / "out")
    assert found["test"].equals(found["val"]) and made.report["test_is_val"]
    both = set(found["train"]["session_id"]) & set(found["val"]["session_id"])
    assert both  # that is its leak
    pieces = [set(found[n].select("session_id", "chunk").iter_rows()) for n in ("train", "val")]
    assert not pieces[0] & pieces[1]
    assert made.report["events_in"] == table().height
    assert made.report["splits"]["train"]["events_in"] + made.report["splits"]["val"]["events_in"] == table().height


def test_a_given_workflow_is_used_and_not_fitted(tmp_path):
    preprocess(events_folder(tmp_path / "events", table()), RunConfig(), tmp_path / "first")
    other = table(seed=9, prefix="v").with_columns(pl.col("item_id").replace("a", "unheard"))
    made = preprocess(other, RunConfig(), tmp_path / "second", workflow=tmp_path / "first" / "workflow")
    assert made.schema == Schema.load(tmp_path / "first" / "schema.json")
    for file in (tmp_path / "first" / "workflow").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / "workflow" / file.name).read_bytes()
    loaded = Workflow.load(tmp_path / "first" / "workflow")
    assert (
        pl.concat(dataset(tmp_path / "second").values())
        .sort("session_id")
        .equals(loaded.transform(other).sort("session_id"))
    )
    with pytest.raises(SchemaError, match=r"events: column 'cat' is missing, which the given workflow was fitted with"):
        preprocess(other.drop("cat"), RunConfig(), tmp_path / "third", workflow=loaded)
    assert not (tmp_path / "third").exists()


def test_commands_beside_a_frame(tmp_path):
    commands = pl.DataFrame({"item_id": ["a"], "classification": ["x"]})
    made = preprocess(table(), None, tmp_path / "out", commands=commands)
    assert made.schema["classification"].cardinality == 4


def test_nothing_is_left_after_an_error_and_nothing_is_overwritten(tmp_path):
    with pytest.raises(InputError, match="'cat' is missing"):
        preprocess(
            table().drop("cat"),
            RunConfig(etl={"optional": ["merge_count", "classification", "target"]}),
            tmp_path / "o",
        )
    with pytest.raises(InputError, match="a header and no rows"):
        preprocess(table().clear(), None, tmp_path / "o")
    assert list(tmp_path.iterdir()) == []
    preprocess(table(), None, tmp_path / "o")
    before = (tmp_path / "o" / "report.json").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        preprocess(table(users=5), None, tmp_path / "o")
    assert (tmp_path / "o" / "report.json").read_bytes() == before
    preprocess(table(users=5), None, tmp_path / "o", overwrite=True)
    assert (tmp_path / "o" / "report.json").read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["o"]


def test_folders_that_contradict_themselves(tmp_path):
    folder = events_folder(tmp_path / "events", table())
    splits = pl.read_parquet(folder / "splits.parquet")
    splits.filter(pl.col("group") != "u7").write_parquet(folder / "splits.parquet")
    with pytest.raises(InputError, match="splits.parquet has no row for user_id 'u7'"):
        preprocess(folder, None, tmp_path / "out")
    splits.write_parquet(folder / "splits.parquet")
    parts = sorted((folder / "events").iterdir())
    whole = [pl.read_parquet(p) for p in parts]
    whole[0].drop("cat").write_parquet(parts[1])
    with pytest.raises(InputError, match=r"part-00001.parquet: column 'cat' is missing"):
        preprocess(folder, None, tmp_path / "out")
    parts[1].write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"part-00001.parquet: not a readable Parquet file"):
        preprocess(folder, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_split_still_has_a_file_and_a_warning(tmp_path):
    made = preprocess(table(users=1), None, tmp_path / "out")
    assert {"the val split is empty", "the test split is empty"} <= set(made.report["warnings"])
    assert {name: f.height for name, f in dataset(tmp_path / "out").items()} == {"train": 3, "val": 0, "test": 0}

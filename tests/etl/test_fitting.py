"""Every operator through a whole workflow, against a plain-Python reference; parts, and what is said of bad columns."""

import math
import random
import statistics
from bisect import bisect_right
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from zlib import crc32
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from recsys.config import RunConfig
from recsys.errors import InputError
from recsys.etl import Etl, Workflow, preprocess
from recsys.etl import events as events_module

COMMANDS = pl.DataFrame(
    {
        "item_id": [f"i{n}" for n in range(6)],
        "family": ["f0", "f1", "f2", "f0", None, "f3"],
        "kept": [True, True, True, True, True, False],
        "help": ["does 0", None, "does 2", "", "does 4", "does 5"],
    }
)
DAY = 1_700_000_000_000_000


def make_rows(sessions, seed):
    rng = random.Random(seed)
    rows = []
    for session in range(sessions):
        time = DAY + rng.randrange(10**7) * 10**6
        for _ in range(rng.randrange(1, 12)):
            time += rng.choice([0, 1, 30, 4000]) * 10**6
            cat = rng.choice([None, "", *"abcdefgh", *"aaabbc"])
            price = rng.choice([None, math.nan, math.inf, *(rng.randrange(400) / 4 for _ in range(9))])
            row = (f"s{session}", f"u{session % 7}", time, f"i{rng.randrange(7)}", cat, rng.choice("rgbx"), price)
            rows.append((*row, f"note {time}"))
    rng.shuffle(rows)
    return rows


def frame_of(rows):
    names = ["session_id", "user_id", "timestamp", "item_id", "cat", "colour", "price", "note"]
    kinds = [pl.String, pl.String, pl.Int64, pl.String, pl.String, pl.String, pl.Float64, pl.String]
    return pl.DataFrame(rows, schema=dict(zip(names, kinds, strict=True)), orient="row")


@pytest.fixture
def config(tmp_path):
    (tmp_path / "colours.txt").write_text("b\nviolet\nr\n")
    return (
        Etl()
        .categorical("item_id", min_count=2)
        .categorical("cat", top_k=3, hash_buckets=5)
        .categorical("colour", vocabulary=str(tmp_path / "colours.txt"))
        .categorical("family", top_k=2, hash_buckets=2)
        .interval()
        .time("hour", "weekday", "log_gap", zone="Asia/Kolkata")
        .continuous("price", zscore=True)
        .bucketise("price", quantiles=4)
        .bucketise("timestamp_interval", boundaries=[1, 60])
        .text("note", "help")
        .config()
    )


def in_order(rows):
    """Sessions by name; events by time, equal times in the order of the input."""
    sessions = {}
    for row in rows:
        sessions.setdefault(row[0], []).append(row)
    return {name: sorted(sessions[name], key=lambda r: r[2]) for name in sorted(sessions)}


def gaps_of(session):
    return [0.0] + [(b[2] - a[2]) / 1e6 for a, b in pairwise(session)]


def encoder(values, top=None, buckets=0):
    counts = Counter(v for v in values if v is not None)
    order = sorted(counts, key=lambda v: (-counts[v], v))[:top]

    def encode(value):
        if value is None:
            return 1
        if value in order:
            return 3 + order.index(value)
        return 3 + len(order) + crc32(value.encode()) % buckets if buckets else 2

    return encode


def usable(value):
    return value is not None and math.isfinite(value)


def reference(train, new):
    """Lists of the sequences of `new`, by column."""
    price = sorted(r[6] for r in train if usable(r[6]))
    mean, std = statistics.fmean(price), statistics.pstdev(price)
    edges = sorted({price[math.ceil(k * len(price) / 4)] for k in (1, 2, 3)} - {price[0]})
    logs = [math.log1p(g) for s in in_order(train).values() for g in gaps_of(s)]
    gap_mean, gap_std = statistics.fmean(logs), statistics.pstdev(logs)
    cat = encoder([r[4] for r in train], top=3, buckets=5)
    colour = {"b": 3, "violet": 4, "r": 5}
    found = {}
    for session in in_order(new).values():
        local = [datetime.fromtimestamp(r[2] // 10**6, UTC).astimezone(ZoneInfo("Asia/Kolkata")) for r in session]
        gaps = gaps_of(session)
        scaled = [(math.log1p(g) - gap_mean) / gap_std for g in gaps]
        columns = {
            "cat": [cat(r[4]) for r in session],
            "colour": [colour.get(r[5], 2) for r in session],
            "hour": [3 + t.hour for t in local],
            "weekday": [3 + t.weekday() for t in local],
            "price_bucket": [3 + bisect_right(edges, r[6]) if usable(r[6]) else 1 for r in session],
            "timestamp_interval_bucket": [3 + (g >= 1) + (g >= 60) for g in gaps],
            "price": [(r[6] - mean) / std if usable(r[6]) else 0.0 for r in session],
            "log_gap": scaled,
            "timestamp_interval": scaled,
            "note": [r[7] for r in session],
        }
        for name, values in columns.items():
            found.setdefault(name, []).append(values)
    return found


def test_every_operator_equals_the_reference(config):
    train, new = make_rows(60, seed=1), make_rows(20, seed=2)
    workflow = Workflow(config).fit(frame_of(train), COMMANDS)
    sequences = workflow.transform(frame_of(new))
    for name, expected in reference(train, new).items():
        for got, want in zip(sequences[name].to_list(), expected, strict=True):
            assert got == (pytest.approx(want, abs=1e-5) if isinstance(want[0], float) else want), name
    # Item attributes go by how many training events their items have; text stays as it is.
    counts = Counter(r[3] for r in train)
    attributes = dict(COMMANDS.select("item_id", "family").iter_rows())
    known = [n for n in counts if counts[n] >= 2 and n != "i5"]
    family = encoder([attributes.get(n) for n in known for _ in range(counts[n])], top=2, buckets=2)
    helps = dict(COMMANDS.select("item_id", "help").iter_rows())
    for item in workflow.items[3:].iter_rows(named=True):
        assert item["family"] == family(attributes.get(item["item_id"]))
        assert item["help"] == helps.get(item["item_id"])
    assert set(workflow.items[3:]["item_id"]) == set(known)
    schema = workflow.schema
    assert (schema["cat"].cardinality, schema["cat"].hash_buckets) == (3 + 3 + 5, 5)
    assert (schema["family"].cardinality, schema["family"].hash_buckets) == (3 + 2 + 2, 2)
    assert schema["timestamp_interval_bucket"].boundaries == [1.0, 60.0]
    assert (schema["hour"].cardinality, schema["weekday"].cardinality, schema["hour"].source) == (27, 10, "timestamp")
    assert all(max(max(ids) for ids in sequences[c.name]) < c.cardinality for c in schema.columns if c.name in ("cat",))


def test_state_is_json_and_parquet_and_gives_the_same_bytes(config, tmp_path):
    train, new = frame_of(make_rows(40, seed=3)), frame_of(make_rows(10, seed=4))
    workflow = Workflow(config).fit(train, COMMANDS)
    workflow.save(tmp_path / "one")
    (tmp_path / "colours.txt").unlink()  # what was fitted needs the file no more
    loaded = Workflow.load(tmp_path / "one")
    loaded.save(tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {name.rpartition(".")[2] for name in names} == {"json", "parquet", "pbtxt"}
    assert {"unique.hour.parquet", "unique.price_bucket.parquet", "unique.colour.parquet"} <= set(names)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    for number, each in enumerate((workflow, loaded)):
        each.transform(new).write_parquet(tmp_path / f"{number}.parquet")
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "1.parquet").read_bytes()
    assert loaded.describe().equals(workflow.describe()) and loaded.warnings == workflow.warnings
    assert loaded.plan == workflow.plan and loaded.schema == workflow.schema


def test_the_dataset_is_the_same_for_any_parts(config, tmp_path, monkeypatch):
    events = frame_of(make_rows(120, seed=5))
    run = RunConfig(etl=config, split={"test_share": 0.2, "validation_share": 0.2})
    one = preprocess(events, run, tmp_path / "one", commands=COMMANDS)
    monkeypatch.setattr(events_module, "BUCKET_ROWS", 60)
    monkeypatch.setattr(events_module, "BATCH_ROWS", 37)
    many = preprocess(events, run, tmp_path / "many", commands=COMMANDS)
    assert len(list((tmp_path / "many" / "train").iterdir())) > 2
    assert one.report == many.report
    for path in (tmp_path / "one" / "workflow").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / "workflow" / path.name).read_bytes()
    for split in ("train", "val", "test"):
        first, second = (
            pl.read_parquet(tmp_path / n / split / "*.parquet").sort("session_id") for n in ("one", "many")
        )
        assert first.equals(second)
    # Rows that a person should know of are counted, split by split.
    splits, noted = one.report["splits"], Counter()
    for split in splits.values():
        noted.update(split["noted_events"])
    times = [(r[0], r[2]) for r in events.iter_rows()]
    assert noted["same_session_and_time"] == len(times) - len(set(times)) > 0
    assert noted["infinite:price"] == int(events["price"].is_infinite().sum()) > 0
    for split in ("train", "val", "test"):
        count = splits[split]["noted_events"]["infinite:price"]
        wanted = f"column 'price' has {count} infinite values in {split}; they are taken as missing"
        assert one.report["warnings"].count(wanted) == 1


def test_what_is_thin_in_train_is_said(tmp_path):
    (tmp_path / "v.txt").write_text("never\n")
    config = (
        Etl()
        .categorical("item_id")
        .categorical("cat", vocabulary=str(tmp_path / "v.txt"))
        .continuous("price")
        .bucketise("price", quantiles=3)
        .config()
    )
    events = frame_of([("s", "u", n, "i", "a", "r", [7.0, math.inf][n % 2], "") for n in range(4)])
    workflow = Workflow(config).fit(events)
    said = " | ".join(workflow.warnings)
    assert "'price' has 2 infinite values in train; they are taken as missing" in said
    assert "'price' has one value in train; its z-score is 0 everywhere" in said
    assert "'cat' has no known value in train; every id is 1 or 2" in said
    assert "'price' has too few values in train for 3 buckets; 1 are made" in said
    row = workflow.transform(events).row(0, named=True)
    assert (row["price"], row["price_bucket"], row["cat"]) == ([0.0] * 4, [3, 1, 3, 1], [2] * 4)
    described = {r["column"]: r for r in workflow.describe().iter_rows(named=True)}
    assert (described["price"]["null"], described["price"]["infinite"]) == (2, 2)
    assert described["price_bucket"]["boundaries"] == [] and described["price_bucket"]["null"] == 2
    assert described["cat"]["out_of_vocabulary"] == 4 and described["cat"]["most_frequent"] is None


def test_infinite_numbers_need_no_logarithm_and_huge_ones_are_refused():
    config = Etl().categorical("item_id").continuous("price", log1p=True).config()
    rows = [("s", "u", n, "i", "a", "r", price, "") for n, price in enumerate([-math.inf, 1.0, 3.0])]
    found = Workflow(config).fit(frame_of(rows)).transform(frame_of(rows))["price"][0].to_list()
    assert found == pytest.approx([0.0, -1.0, 1.0], abs=1e-6)
    huge = frame_of([(*row[:6], price, "") for row, price in zip(rows, [1e308, -1e308, 1e308], strict=True)])
    plain = Etl().categorical("item_id").continuous("price").config()
    with pytest.raises(InputError, match="column 'price': its values are too large to be summed"):
        Workflow(plain).fit(huge)


def test_a_wrong_vocabulary_file_is_named_before_anything_is_counted(tmp_path):
    (tmp_path / "v.txt").write_text("a\n\nb\n")
    config = Etl().categorical("item_id").categorical("cat", vocabulary=str(tmp_path / "v.txt")).config()
    with pytest.raises(InputError, match=r"v.txt: line 2: no value"):
        Workflow(config).begin(["session_id", "item_id", "timestamp", "cat"])


def test_a_given_catalogue_names_items_that_train_never_saw(tmp_path):
    pl.DataFrame({"item_id": ["new", "i1", "i5"]}).write_parquet(tmp_path / "v.parquet")
    config = Etl().categorical("item_id", vocabulary=str(tmp_path / "v.parquet")).config()
    rows = make_rows(5, seed=6)
    workflow = Workflow(config).fit(frame_of(rows), COMMANDS)
    counts = Counter(r[3] for r in rows)
    assert workflow.items["item_id"].to_list() == [None, None, None, "new", "i1", "i5"]
    assert workflow.items["count"].to_list() == [
        0,
        0,
        len(rows) - counts["i1"] - counts["i5"],
        0,
        counts["i1"],
        counts["i5"],
    ]

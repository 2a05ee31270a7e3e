"""Extended workflows against plain counting: old ids stay, new ones follow, nothing else changes its meaning."""

import hashlib
import json
import statistics
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import EtlConfig, RunConfig
from recsys.errors import ConfigError, InputError
from recsys.etl import Etl, Extension, Workflow, preprocess
from recsys.etl.incremental import extend
from recsys.etl.plan import Counts
from recsys.etl.split import SplitResult
from recsys.etl.storage import as_json, load

DAY = 1_700_000_000_000_000
ITEMS = st.lists(st.one_of(st.none(), st.sampled_from("aAbcdefgh")), min_size=1, max_size=25)
PLAIN = Etl().categorical("item_id").config()


def events_of(items: list[str | None], **columns: list) -> pl.DataFrame:
    """Sessions of up to four events, a minute apart."""
    rows = range(len(items))
    base = {"session_id": [f"s{n // 4}" for n in rows], "timestamp": [DAY + n * 60_000_000 for n in rows]}
    kinds = {name: pl.String for name in columns if name not in ("price",)}
    return pl.DataFrame({**base, "item_id": items, **columns}, schema_overrides={"item_id": pl.String, **kinds})


def values(workflow: Workflow, column: str = "item_id") -> list[str]:
    return workflow.vocabulary(column).values.to_list()


@settings(max_examples=80, deadline=None)
@given(ITEMS, ITEMS, st.integers(1, 3), st.one_of(st.none(), st.integers(1, 3)))
def test_old_ids_stay_and_new_ones_follow_by_count_then_value(old, new, min_count, top_k):
    config = Etl().categorical("item_id", min_count=min_count, top_k=top_k).config()
    parent = Workflow(config).fit(events_of(old))
    made = Extension(parent).fit(events_of(new))
    before, counted = Counter(old), Counter(v for v in new if v is not None)
    known = values(parent)
    fresh = [v for v in counted if v not in known and counted[v] >= min_count]
    fresh = sorted(fresh, key=lambda v: (-counted[v], v))[:top_k]
    assert values(made) == known + fresh
    counts = [before[v] + counted[v] for v in known] + [counted[v] for v in fresh]
    vocabulary = made.vocabulary("item_id")
    assert vocabulary.counts.to_list() == counts
    assert vocabulary.null_count == old.count(None) + new.count(None)
    assert vocabulary.null_count + vocabulary.oov_count + sum(counts) == len(old) + len(new) == made.fitted.rows
    items = made.items
    assert items["id"].to_list() == list(range(3 + len(known) + len(fresh)))
    assert items["item_id"].to_list() == [None] * 3 + known + fresh
    assert items["count"].to_list() == [0, vocabulary.null_count, vocabulary.oov_count, *counts]
    # What the parent wrote for old values is what the extension writes, for any events.
    probe = events_of([v for v in "aAbcdefgh" if v in known] + [None])
    assert made.transform(probe).equals(parent.transform(probe))


@settings(max_examples=40, deadline=None)
@given(ITEMS)
def test_extending_by_nothing_changes_no_id_count_or_number(items):
    config = Etl().categorical("item_id").interval().time("hour").bucketise("timestamp_interval", quantiles=3).config()
    parent = Workflow(config).fit(events_of(items)).fitted
    made = extend(parent, Counts(), refit_statistics=False)
    assert made.items.equals(parent.items)
    assert made.scalings == parent.scalings and made.buckets == parent.buckets
    for name, vocabulary in parent.vocabularies.items():
        other = made.vocabularies[name]
        assert other.values.equals(vocabulary.values) and other.counts.equals(vocabulary.counts)
        assert (other.null_count, other.oov_count) == (vocabulary.null_count, vocabulary.oov_count)
        assert made.schema[name].old_cardinality == parent.schema[name].cardinality


@settings(max_examples=60, deadline=None)
@given(ITEMS, ITEMS, ITEMS)
def test_twice_is_once_by_both_up_to_the_order_of_new_ids(old, first, second):
    parent = Workflow(PLAIN).fit(events_of(old))
    twice = Extension(Extension(parent).fit(events_of(first))).fit(events_of(second))
    once = Extension(parent).fit(events_of(first + second))
    assert set(values(twice)) == set(values(once))
    tables = [w.items.select("item_id", "count").sort("item_id", "count").rows() for w in (twice, once)]
    assert tables[0] == tables[1]
    # The documented order: values of the first extension come before those of the second.
    known = len(values(parent))
    assert set(values(twice)[known:]) & set(first) == set(values(twice)[known:][: len(set(first) - {None} - set(old))])


@pytest.fixture
def config(tmp_path: Path) -> EtlConfig:
    (tmp_path / "colours.txt").write_text("red\nblue\n")
    return (
        Etl()
        .categorical("item_id")
        .categorical("colour", vocabulary=str(tmp_path / "colours.txt"))
        .categorical("tail", top_k=1, hash_buckets=4)
        .categorical("family", min_count=2)
        .continuous("price")
        .bucketise("price", quantiles=2)
        .time("weekday")
        .text("help")
        .config()
    )


OLD = events_of(list("aabbb"), colour=["red"] * 5, tail=list("xxxyz"), price=[1.0, 2.0, 3.0, 4.0, 5.0])
NEW = events_of(list("ccad"), colour=["green", "blue", "red", None], tail=list("wwwx"), price=[70.0, 80.0, None, 90.0])
OLD_COMMANDS = pl.DataFrame({"item_id": ["a", "b"], "family": ["f", "g"], "help": ["does a", None]})
NEW_COMMANDS = pl.DataFrame(
    {"item_id": ["a", "c", "d"], "family": ["h", "h", "f"], "help": ["now other", "does c", "does d"]}
)


def test_what_a_file_buckets_boundaries_and_statistics_fix_stays(config, tmp_path):
    parent = Workflow(config).fit(OLD, OLD_COMMANDS)
    parent.save(tmp_path / "parent")
    (tmp_path / "colours.txt").unlink()  # what the file fixed is in the workflow
    made = Extension.of(tmp_path / "parent").fit(NEW, NEW_COMMANDS)
    assert values(made, "colour") == ["red", "blue"] and made.vocabulary("colour").counts.to_list() == [6, 1]
    assert (made.vocabulary("colour").null_count, made.vocabulary("colour").oov_count) == (1, 1)
    assert values(made, "tail") == ["x"] and made.vocabulary("tail").hash_buckets == 4
    assert made.vocabulary("tail").counts.to_list() == [4] and made.vocabulary("tail").oov_count == 2 + 3
    assert made.fitted.buckets == parent.fitted.buckets
    assert values(made, "price_bucket") == values(parent, "price_bucket") == ["-inf..4.0", "4.0..inf"]
    assert made.vocabulary("price_bucket").counts.to_list() == [3, 2 + 3]
    assert made.vocabulary("weekday").counts.sum() == 9
    assert (made.fitted.scalings["price"].mean, made.fitted.scalings["price"].missing) == (3.0, 1)
    assert made.transform(OLD).equals(parent.transform(OLD))


def test_statistics_are_those_of_all_events_where_asked_for(config):
    parent = Workflow(config).fit(OLD, OLD_COMMANDS)
    scaling = Extension(parent, refit_statistics=True).fit(NEW, NEW_COMMANDS).fitted.scalings["price"]
    everything = [1.0, 2.0, 3.0, 4.0, 5.0, 70.0, 80.0, 90.0]
    assert scaling.mean == pytest.approx(statistics.fmean(everything))
    assert scaling.std == pytest.approx(statistics.pstdev(everything))


def test_attributes_of_old_items_stay_and_those_of_new_items_are_numbered(config):
    # Train: b 3 times (family g), a twice (family f).
    parent = Workflow(config).fit(OLD, OLD_COMMANDS)
    assert values(parent, "family") == ["g", "f"]
    made = Extension(parent).fit(NEW, NEW_COMMANDS)
    assert values(made) == ["b", "a", "c", "d"]
    assert values(made, "family") == ["g", "f", "h"]
    assert made.items["family"].to_list() == [0, 1, 2, 3, 4, 5, 4]
    assert made.items["help"].to_list() == [None] * 4 + ["does a", "does c", "does d"]
    assert made.vocabulary("family").counts.to_list() == [3, 2 + 1 + 1, 2]  # a is still f
    assert made.warnings == ["column 'family': 1 old items (such as 'a') keep what they had before"]
    assert values(Extension(parent).fit(NEW, NEW_COMMANDS.with_columns(kept=pl.col("item_id") != "c"))) == list("bad")


def test_an_old_item_without_a_known_attribute_keeps_none(config):
    events = OLD.with_columns(item_id=pl.Series(list("aabbr")))
    commands = pl.DataFrame({"item_id": list("abr"), "family": ["f", "f", "rare"], "help": [None] * 3})
    parent = Workflow(config).fit(events, commands.cast({"help": pl.String}))
    assert parent.items["family"].to_list()[3:] == [3, 3, 2]
    again = pl.DataFrame({"item_id": list("rs"), "family": ["rare", "rare"], "help": ["", ""]})
    made = Extension(parent).fit(NEW.with_columns(item_id=pl.Series(list("rsss"))), again)
    assert values(made, "family") == ["f", "rare"]
    assert made.items["family"].to_list()[3:] == [3, 3, 2, 4]
    assert made.vocabulary("family").oov_count == 1 + 1


def test_ancestry_is_written_and_read(config, tmp_path):
    parent = Workflow(config).fit(OLD, OLD_COMMANDS)
    parent.save(tmp_path / "0")
    Extension.of(tmp_path / "0").fit(NEW, NEW_COMMANDS).save(tmp_path / "1")
    Extension.of(tmp_path / "1").fit(NEW, NEW_COMMANDS).save(tmp_path / "2")
    kept = json.loads((tmp_path / "2" / "workflow.json").read_text())["ancestry"]
    files = [hashlib.sha256((tmp_path / n / "workflow.json").read_bytes()).hexdigest() for n in "01"]
    assert [a["sha256"] for a in kept] == files
    assert [a["cardinalities"]["item_id"] for a in kept] == [5, 7]
    assert as_json(load(tmp_path / "2")) == (tmp_path / "2" / "workflow.json").read_text()
    assert load(tmp_path / "2").schema["item_id"].old_cardinality == 7
    assert load(tmp_path / "0").schema["item_id"].old_cardinality is None
    in_memory = Extension(parent).fit(NEW, NEW_COMMANDS).fitted.ancestry[0]
    assert in_memory.sha256 == files[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"categorical": {"item_id": {}, "colour": {}, "cat": {}}},
            "etl.categorical.cat is here and not in the workflow",
        ),
        ({"categorical": {"item_id": {}}}, "etl.categorical.colour is in the workflow to extend and not here"),
        ({"time": {"zone": "Asia/Kolkata"}}, r"etl.time.features is \['hour'\] in the workflow to extend and \[\]"),
        ({"continuous": {"price": {"transforms": []}}}, r"price.transforms is \['zscore'\] .* and \[\] here"),
    ],
)
def test_another_configuration_is_refused_in_one_line(change, message):
    base = Etl().categorical("item_id").categorical("colour").continuous("price").time("hour").config()
    parent = Workflow(base).fit(events_of(["a"], colour=["red"], price=[1.0]))
    etl = base.model_dump(mode="json", exclude_none=True) | change
    with pytest.raises(ConfigError, match=message) as error:
        Extension(parent, RunConfig.model_validate({"etl": etl}))
    assert "\n" not in str(error.value)


def test_what_governs_new_values_and_lengths_may_differ():
    parent = Workflow(PLAIN).fit(events_of(["a"]))
    etl = PLAIN.model_dump(mode="json", exclude_none=True)
    etl |= {"categorical": {"item_id": {"min_count": 2}}, "newest": 2}
    made = Extension(parent, RunConfig.model_validate({"etl": etl})).fit(events_of(list("aabccc")))
    assert values(made) == ["a", "c"] and made.config.newest == 2
    assert Extension(parent, RunConfig()).config == parent.config  # nothing was said of it


def test_what_new_events_lack_is_named(config):
    parent = Workflow(config).fit(OLD, OLD_COMMANDS)
    with pytest.raises(InputError, match="no attribute 'family' of the items, which the workflow has; new items"):
        Extension(parent).fit(NEW)
    with pytest.raises(InputError, match="column 'tail' is missing"):
        Extension(parent).fit(NEW.drop("tail"), NEW_COMMANDS)
    with pytest.raises(InputError, match="nothing to extend by"):
        Extension(parent).fit(NEW.clear(), NEW_COMMANDS)


def test_a_dataset_says_which_rows_are_old_and_counts_train_alone(tmp_path):
    parent = Workflow(PLAIN).fit(events_of(list("ab")))
    new = events_of([*"cccc", *"dddd", *"eeee"])
    split = {"rule": "list", "test_groups": ["s2"], "validation_groups": [], "validation_share": 0.0}
    config = RunConfig.model_validate({"split": {**split, "coverage": False}})
    made = preprocess(new, config, tmp_path / "data", blank=Extension(parent, config))
    assert made.report["workflow"] == "extended on train"
    assert made.schema["item_id"].old_cardinality == 5 and made.schema["item_id"].cardinality == 7
    assert Workflow.load(tmp_path / "data").items["item_id"].to_list()[3:] == list("abcd")
    assert pl.read_parquet(tmp_path / "data" / "test")["item_id"].to_list() == [[2, 2, 2, 2]]


def test_without_a_split_a_cleaned_folder_goes_whole_into_one(tmp_path):
    events = events_of([*"aabb", *"cccc", *"dddd"])
    (tmp_path / "new" / "events").mkdir(parents=True)
    events.write_parquet(tmp_path / "new" / "events" / "part-00000.parquet")
    assignment = pl.DataFrame({"group": ["s0", "s1", "s2"], "split": ["train", "val", "test"]})
    SplitResult(assignment, {"by": "session_id", "rule": "share"}).save(tmp_path / "new")
    parent = Workflow(PLAIN).fit(events)
    sizes = {}
    for into in ("train", "val", "test"):
        config = RunConfig.model_validate({"split": {"rule": "none", "into": into}})
        made = preprocess(tmp_path / "new", config, tmp_path / into, workflow=parent)
        sizes[into] = [made.report["splits"][name]["events_out"] for name in ("train", "val", "test")]
        assert made.report["split"]["groups"][into] == 3
        assert pl.read_parquet(tmp_path / into / into)["item_id"].to_list() == [[5, 5, 6, 6], [3] * 4, [4] * 4]
    assert sizes == {"train": [12, 0, 0], "val": [0, 12, 0], "test": [0, 0, 12]}
    made = preprocess(tmp_path / "new", None, tmp_path / "as_split", workflow=parent)
    assert [made.report["splits"][name]["events_out"] for name in ("train", "val", "test")] == [4, 4, 4]

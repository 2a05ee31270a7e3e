"""Where the columns of a configuration are found, and sums over parts that equal those of the whole."""

from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import EtlConfig
from recsys.errors import ConfigError, InputError
from recsys.etl.operators import interval
from recsys.etl.plan import Counts, Plan, check_commands, check_config, count_events, number_columns, plan_columns

EVENTS = ["session_id", "timestamp", "cat", "item_id", "merge_count", "extra"]
COMMANDS = pl.DataFrame({"item_id": ["a"], "classification": ["c"], "cat": ["of the item"], "description": ["d"]})


def test_columns_come_from_the_events_first_then_from_the_commands() -> None:
    plan = plan_columns(EtlConfig(), EVENTS, COMMANDS)
    numbers = ["timestamp_interval", "merge_count"]
    assert plan == Plan(["item_id", "cat"], ["classification"], numbers, item_text=["description"])
    assert plan.numbers == ["merge_count"]  # the interval is derived
    assert plan.required == ["session_id", "timestamp", "item_id", "cat", "merge_count"]
    assert plan.read([*EVENTS, "user_id"]) == [*plan.required, "user_id"] and plan.read(EVENTS) == plan.required


def test_optional_columns_may_be_nowhere_and_others_are_named() -> None:
    bare = plan_columns(EtlConfig(), ["session_id", "timestamp", "item_id"], None)
    assert bare == Plan(["item_id"], [], ["timestamp_interval"])
    with pytest.raises(InputError, match=r"^log: column 'timestamp' is missing; columns: session_id, item_id$"):
        plan_columns(EtlConfig(), ["session_id", "item_id"], None, "log")
    config = EtlConfig.model_validate({"categorical": {"item_id": {}, "colour": {}}, "continuous": {"size": {}}})
    with pytest.raises(InputError, match="columns 'colour', 'size', 'user_id' are missing"):
        plan_columns(config.model_copy(update={"optional": []}), ["session_id", "timestamp", "item_id"], None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categorical": {"cat": {}}}, "item_id is missing"),
        ({"categorical": {"item_id": {}, "user_id": {}}}, "'user_id' identifies rows"),
        ({"categorical": {"item_id": {}, "a/b": {}}}, "'a/b' cannot name a file"),
        ({"categorical": {"item_id": {}, "merge_count": {}}}, "both categorical and continuous"),
        ({"continuous": {"x": {"transforms": ["zscore", "log1p"]}}}, "log1p before zscore"),
        ({"categorical": {"item_id": {"hash_buckets": 8}}}, r"item_id.hash_buckets: .* would have no name; take"),
        ({"categorical": {"item_id": {}, "timestamp_interval": {}}}, "timestamp_interval is a number"),
        ({"continuous": {"log_gap": {}}}, "log_gap is one of etl.time.features"),
        ({"bucketise": {"log_gap": {"quantiles": 2}}}, "log_gap is one of etl.time.features"),
        ({"bucketise": {"timestamp": {"quantiles": 2}}}, "'timestamp' identifies rows"),
        ({"continuous": {"hour": {}}, "time": {"features": ["hour"]}}, "'hour' is both continuous and a time feature"),
        ({"time": {"features": ["hour", "hour"]}}, "'hour' is listed twice as a time feature"),
        ({"categorical": {"item_id": {}, "x_bucket": {}}, "bucketise": {"x": {"quantiles": 2}}}, "made by bucketise"),
        ({"text": ["item_id"]}, "'item_id' is both categorical and text"),
        ({"text": ["chunk"]}, "'chunk' identifies rows"),
    ],
)
def test_configurations_that_cannot_be_fitted(change: dict, message: str) -> None:
    check_config(EtlConfig())
    with pytest.raises(ConfigError, match=message):
        check_config(EtlConfig.model_validate(change))


def test_derived_columns_need_no_column_of_the_events() -> None:
    config = EtlConfig.model_validate(
        {
            "categorical": {"item_id": {}},
            "continuous": {"price": {}},
            "time": {"features": ["log_gap", "weekday", "hour"]},
            "bucketise": {
                "timestamp_interval": {"boundaries": [1]},
                "size": {"quantiles": 3},
                "depth": {"quantiles": 3},
            },
            "text": ["description", "note"],
            "optional": ["user_id", "depth"],
        }
    )
    plan = plan_columns(config, [*EVENTS, "price", "size", "note", "description"], COMMANDS)
    assert plan.continuous == ["price", "log_gap"] and plan.time == ["weekday", "hour"]
    assert plan.bucketised == ["timestamp_interval", "size"]
    assert plan.classes == ["item_id", "weekday", "hour", "timestamp_interval_bucket", "size_bucket"]
    assert (plan.event_text, plan.item_text) == (["note"], ["description"])  # an item's text goes by the item
    assert plan.required == ["session_id", "timestamp", "item_id", "price", "size", "note"]
    assert plan.lists == ["timestamp", *plan.classes, "price", "log_gap", "note"]
    assert number_columns(config) == ["price", "size", "depth"]
    with pytest.raises(InputError, match="events: columns 'note', 'price', 'size' are missing"):
        plan_columns(config, EVENTS, COMMANDS)
    counted = COMMANDS.with_columns(count=1)
    with pytest.raises(ConfigError, match="the item table has a column 'count' of its own"):
        plan_columns(EtlConfig(text=["count"]), EVENTS, counted)


def test_commands_stand_once_and_kept_is_true_or_false() -> None:
    numbers = check_commands(pl.DataFrame({"item_id": [1, 2], "kept": [True, False]}), "c")
    assert numbers["item_id"].to_list() == ["1", "2"]
    with pytest.raises(InputError, match="c: column 'item_id': 'a' stands twice"):
        check_commands(pl.DataFrame({"item_id": ["b", "a", "a"]}), "c")
    with pytest.raises(InputError, match="column 'kept' is String"):
        check_commands(pl.DataFrame({"item_id": ["a"], "kept": ["yes"]}), "c")
    with pytest.raises(InputError, match="column 'item_id' is missing"):
        check_commands(pl.DataFrame({"name": ["a"]}), "c")


ROWS = st.tuples(st.sampled_from("abc"), st.sampled_from([None, "x", "y"]), st.integers(0, 50), st.integers(1, 9))


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=30), cuts=st.lists(st.integers(0, 30), max_size=3))
def test_counts_of_parts_add_up_to_those_of_the_whole(rows: list[tuple], cuts: list[int]) -> None:
    schema = {"item_id": pl.String, "cat": pl.String, "timestamp": pl.Int64, "merge_count": pl.Float64}
    frame = (
        pl.DataFrame(rows, schema=schema, orient="row").with_columns(session_id=pl.lit("s")).with_columns(interval())
    )
    config = EtlConfig()
    plan = plan_columns(config, frame.columns, None)
    edges = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    parts = [frame.slice(a, b - a) for a, b in pairwise(edges) if b > a]
    merged = Counts.merge(count_events(part, plan, config) for part in parts)
    assert merged.rows == len(rows)
    for at, name in enumerate(("item_id", "cat")):
        found = dict(merged.values[name].rows())
        assert found == {value: [r[at] for r in rows].count(value) for value in {r[at] for r in rows}}
    logs = frame["merge_count"].log1p()
    assert merged.moments["merge_count"].mean == pytest.approx(logs.mean())

"""Where the columns of a configuration are found, and sums over parts that equal those of the whole."""

from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import EtlConfig
from recsys.errors import ConfigError, InputError
from recsys.etl.operators import interval
from recsys.etl.plan import Counts, Plan, check_commands, check_config, count_events, plan_columns

EVENTS = ["session_id", "timestamp", "cat", "item_id", "merge_count", "extra"]
COMMANDS = pl.DataFrame({"item_id": ["a"], "classification": ["c"], "cat": ["of the item"], "description": ["d"]})


def test_columns_come_from_the_events_first_then_from_the_commands() -> None:
    plan = plan_columns(EtlConfig(), EVENTS, COMMANDS)
    assert plan == Plan(["item_id", "cat"], ["classification"], ["timestamp_interval", "merge_count"], True)
    assert plan.numbers == ["merge_count"]  # the interval is derived
    assert plan.required == ["session_id", "timestamp", "item_id", "cat", "merge_count"]
    assert plan.read([*EVENTS, "user_id"]) == [*plan.required, "user_id"] and plan.read(EVENTS) == plan.required


def test_optional_columns_may_be_nowhere_and_others_are_named() -> None:
    bare = plan_columns(EtlConfig(), ["session_id", "timestamp", "item_id"], None)
    assert bare == Plan(["item_id"], [], ["timestamp_interval"], False)
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
    ],
)
def test_configurations_that_cannot_be_fitted(change: dict, message: str) -> None:
    check_config(EtlConfig())
    with pytest.raises(ConfigError, match=message):
        check_config(EtlConfig.model_validate(change))


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

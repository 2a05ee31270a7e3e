"""Random events and configurations for both engines, and what "the same" means for what they make of them."""

import math
from typing import NamedTuple

import numpy as np
import polars as pl
from hypothesis import strategies as st

from recsys.config import EtlConfig

VALUES = ["", "Edit.Copy", "a,b", "😀", "Ü", "=", "==x", "nan", "None", "0", "é", "e\u0301", "a\x00b", " "]
NUMBERS = [None, 0.0, -0.0, 1.0, 2.5, -3.0, 7e5, 1e-3, math.inf, -math.inf, math.nan]
TIMES = [1_700_000_000_000_000 + n for n in (0, 0, 1, 1_000_000, 90_000_000, 86_400_000_000, 7 * 86_400_000_000)]
# Times before 1970 and after what nanoseconds can count.
FAR = [-5_000_000_000_000_001, 20_000_000_000_000_000]
SCHEMA = {
    "session_id": pl.String,
    "item_id": pl.String,
    "timestamp": pl.Int64,
    "cat": pl.String,
    "tail": pl.String,
    "price": pl.Float64,
    "gain": pl.Float64,
    "note": pl.String,
}


class Case(NamedTuple):
    """Train, further events, how the first are cut into parts, and the declaration."""

    train: pl.DataFrame
    new: pl.DataFrame
    parts: int
    partitions: int
    config: EtlConfig


def value(names):
    return st.one_of(st.none(), st.sampled_from(names))


def rows(draw, unseen, is_test, constant):
    """Unsorted events with ties; in test, values and times that train cannot have."""
    names = VALUES[: 4 + 5 * is_test] if unseen else VALUES
    event = st.tuples(
        st.sampled_from(["s1", "s 2", "s,3", "s😀", "12", ""]),
        value(names),
        st.sampled_from(TIMES + FAR * is_test),
        value(names),
        value(VALUES[1:]),
        st.sampled_from(NUMBERS) if constant is None else st.sampled_from([constant, constant, None]),
        st.sampled_from([None, 0.0, 1.0, 3.5, 1e6, math.inf, math.nan]),
        value([*VALUES, "a longer text\nof two lines"]),
    )
    found = draw(st.lists(event, min_size=1, max_size=30))
    frame = pl.DataFrame(found, schema=SCHEMA, orient="row")
    if draw(st.booleans()):
        frame = frame.with_columns(pl.lit(None).cast(pl.String).alias("cat"))
    users = pl.when(pl.col("session_id") != "12").then(pl.col("session_id").str.slice(0, 1))
    return frame.with_columns(users.alias("user_id")) if draw(st.booleans()) else frame


@st.composite
def cases(draw, vocabulary):
    """`vocabulary`: a file of values for the column `cat`."""
    constant = draw(st.sampled_from([None, None, 0.1, -7e5]))
    unseen = draw(st.booleans())
    train, new = rows(draw, unseen, False, constant), rows(draw, unseen, True, None)
    if "user_id" not in train.columns or "user_id" not in new.columns:
        train, new = train.drop("user_id", strict=False), new.drop("user_id", strict=False)
    fitted = {"min_count": draw(st.integers(1, 2)), "top_k": draw(st.sampled_from([None, 1, 3]))}
    cat = draw(st.sampled_from([fitted, {"vocabulary": str(vocabulary)}]))
    transforms = [[], ["zscore"], ["log1p"], ["log1p", "zscore"]]
    values = {
        "categorical": {
            "item_id": {"min_count": draw(st.integers(1, 3))},
            "cat": cat | {"hash_buckets": draw(st.sampled_from([0, 3]))},
            "tail": {"top_k": 2, "hash_buckets": 2},
        },
        "continuous": {
            "price": {"transforms": draw(st.sampled_from(transforms[:2]))},
            "gain": {"transforms": draw(st.sampled_from(transforms))},
            "timestamp_interval": {"transforms": draw(st.sampled_from(transforms))},
        },
        "time": {
            "features": draw(st.sampled_from([[], ["hour", "weekday", "log_gap"], ["weekday"]])),
            "zone": draw(st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"])),
        },
        "bucketise": draw(st.sampled_from([{}, {"price": {"boundaries": [-3.0, 0.0, 2.5]}, "gain": {"quantiles": 3}}])),
        "text": draw(st.sampled_from([None, ["note"]])),
        "newest": draw(st.sampled_from([None, 1, 4])),
        "min_length": draw(st.integers(1, 3)),
        "chunk": draw(st.sampled_from([None, {"min_items": 2, "max_items": 3}])),
    }
    config = EtlConfig.model_validate(values)
    return Case(train, new, draw(st.integers(1, 3)), draw(st.integers(1, 3)), config)


def same_frames(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """Equal names, types, order and values; numbers within float32's digits."""
    assert found.schema == expected.schema
    for name, kind in expected.schema.items():
        if kind == pl.List(pl.Float32):
            assert found[name].list.len().equals(expected[name].list.len()), name
            ours, theirs = (frame[name].explode(empty_as_null=False).to_numpy() for frame in (found, expected))
            np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6, err_msg=name)
        else:
            assert found[name].to_list() == expected[name].to_list(), name


def same_sequences(found, expected) -> None:
    """Of two `Sequences`: the frames and every count."""
    same_frames(found.frame, expected.frame)
    for name in ("rows_in", "rows_out", "dropped_rows", "dropped_sequences", "noted"):
        assert getattr(found, name) == getattr(expected, name), name


def same_fit(found, expected) -> None:
    """Of two `Workflow`s: everything that was fitted."""
    assert found.plan == expected.plan
    assert found.items.equals(expected.items)
    assert found.fitted.vocabularies.keys() == expected.fitted.vocabularies.keys()
    for name, theirs in expected.fitted.vocabularies.items():
        ours = found.vocabulary(name)
        assert ours.values.to_list() == theirs.values.to_list(), name
        assert ours.counts.to_list() == theirs.counts.to_list(), name
        for number in ("null_count", "oov_count", "hash_buckets"):
            assert getattr(ours, number) == getattr(theirs, number), (name, number)
    for name, theirs in expected.fitted.scalings.items():
        ours = found.fitted.scalings[name]
        assert (ours.transforms, ours.missing, ours.infinite) == (theirs.transforms, theirs.missing, theirs.infinite)
        np.testing.assert_allclose([ours.mean, ours.std], [theirs.mean, theirs.std], rtol=1e-9, atol=1e-9)
        assert ours.is_constant == theirs.is_constant, name
    assert found.fitted.buckets == expected.fitted.buckets
    assert found.warnings == expected.warnings

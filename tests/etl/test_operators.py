"""Vocabularies and statistics against counting and `statistics` of the standard library."""

import math
import statistics
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.etl.operators import Moments, Scaling, Vocabulary, count_values, interval, merge_counts

VALUES = st.lists(
    st.one_of(st.none(), st.sampled_from(["", "a", "B", "é", "😀", "a,b", 'say "x"', "\n"]), st.text(max_size=2))
)


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES, VALUES, st.integers(1, 3))
def test_ids_follow_count_then_code_points(first, second, new, min_count):
    parts = [count_values(pl.Series(part, dtype=pl.String)) for part in (first, second)]
    vocabulary = Vocabulary.fit(merge_counts(parts), min_count, dropped=["B"])
    counts = Counter(v for v in first + second if v is not None)
    kept = [v for v in counts if counts[v] >= min_count and v != "B"]
    kept.sort(key=lambda v: (-counts[v], v))
    ids = {value: 3 + place for place, value in enumerate(kept)}
    assert vocabulary.decode() == [None, None, None, *kept]
    assert vocabulary.cardinality == 3 + len(kept)
    assert vocabulary.null_count == (first + second).count(None)
    assert vocabulary.oov_count == sum(n for v, n in counts.items() if v not in ids)
    frame = pl.DataFrame({"c": pl.Series(new, dtype=pl.String)}).select(vocabulary.encode("c"))
    assert frame["c"].to_list() == [1 if v is None else ids.get(v, 2) for v in new]
    assert frame["c"].dtype == pl.Int32


def test_weights_count_rows_of_train():
    counts = count_values(pl.Series(["x", "y", "x", None]), pl.Series([1, 5, 2, 4]))
    assert dict(counts.iter_rows()) == {"x": 3, "y": 5, None: 4}
    assert Vocabulary.fit(counts).values.to_list() == ["y", "x"]


def test_equal_sizes_with_other_values_have_another_hash():
    first, second, third = (
        Vocabulary(pl.Series("value", v), pl.Series([1, 1])).sha256 for v in (["a", "b"], ["b", "a"], ["a,b", ""])
    )
    assert len({first, second, third}) == 3


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(math.nan)), max_size=8), max_size=5))
def test_merged_moments_are_those_of_all_values(parts):
    total = Moments()
    for part in parts:
        total = total.merge(Moments.of(pl.Series(part, dtype=pl.Float64)))
    everything = [v for part in parts for v in part]
    finite = [v for v in everything if v is not None and math.isfinite(v)]
    assert (total.n, total.missing) == (len(finite), len(everything) - len(finite))
    if finite:
        assert total.mean == pytest.approx(statistics.fmean(finite), rel=1e-9, abs=1e-6)
        assert total.std == pytest.approx(statistics.pstdev(finite), rel=1e-6, abs=1e-4)


def test_scaling_by_hand():
    values = pl.Series("v", [0.0, 1.0, 3.0])
    moments = Moments.of(values.log1p())
    scaled = pl.DataFrame({"v": [0.0, 3.0, None, math.nan]}).select(
        Scaling.fit(["log1p", "zscore"], moments).apply("v")
    )["v"]
    logs = [0.0, math.log(2), math.log(4)]
    mean, std = statistics.fmean(logs), statistics.pstdev(logs)
    assert scaled.dtype == pl.Float32
    assert scaled.to_list() == pytest.approx([-mean / std, (logs[2] - mean) / std, 0.0, 0.0], rel=1e-6)
    plain = pl.DataFrame({"v": [5.0, None]}).select(Scaling.fit([], Moments.of(values)).apply("v"))["v"]
    assert plain.to_list() == pytest.approx([5.0, 4 / 3])


def test_a_constant_column_scales_to_zero():
    scaling = Scaling.fit(["zscore"], Moments.of(pl.Series([7.1, 7.1, 7.1])))
    assert scaling.is_constant
    assert pl.DataFrame({"v": [7.1, 9.0]}).select(scaling.apply("v"))["v"].to_list() == [0.0, 0.0]


def test_intervals_start_anew_with_each_session():
    frame = pl.DataFrame({"session_id": list("aab"), "timestamp": [1_000_000, 3_500_000, 2_000_000]})
    assert frame.select(interval())["timestamp_interval"].to_list() == [0.0, 2.5, 0.0]

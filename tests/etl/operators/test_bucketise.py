"""Boundaries and intervals against sorting and comparing in plain Python; the same for any parts."""

import math
from bisect import bisect_right
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.etl.operators.bucketise import (
    Buckets,
    count_labels,
    count_numbers,
    cut,
    label_counts,
    merge_numbers,
    quantile_boundaries,
)

NUMBERS = st.one_of(
    st.none(),
    st.integers(-(2**15) + 1, 2**15 - 1).map(float),
    st.integers(-50, 50).map(lambda n: n / 8),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0]),
)
PARTS = st.lists(st.lists(NUMBERS, max_size=15), max_size=5)


def is_finite(value):
    return value is not None and math.isfinite(value)


def reference_boundaries(values, quantiles):
    ordered = sorted(v for v in values if is_finite(v))
    places = [math.ceil(k * len(ordered) / quantiles) for k in range(1, quantiles)]
    return sorted({ordered[p] for p in places if p < len(ordered)} - set(ordered[:1]))


@settings(max_examples=100, deadline=None)
@given(PARTS, st.integers(2, 6), st.randoms())
def test_quantiles_of_merged_parts_are_those_of_all_values(parts, quantiles, random):
    everything = [v for part in parts for v in part]
    counted = [count_numbers(pl.Series(part, dtype=pl.Float64)) for part in parts]
    random.shuffle(counted)
    merged = merge_numbers([*counted[:1], merge_numbers(counted[1:])])
    found = quantile_boundaries(merged, quantiles)
    assert found == reference_boundaries(everything, quantiles)
    assert found == quantile_boundaries(count_numbers(pl.Series(everything, dtype=pl.Float64)), quantiles)
    # Counts of the intervals are those of the values themselves.
    buckets = Buckets(found)
    ids = pl.DataFrame({"x": everything}, schema={"x": pl.Float64}).select(buckets.encode("x", "i"))["i"]
    direct = dict(count_labels(ids, buckets.labels.to_list()).iter_rows())
    assert dict(label_counts(merged, buckets).iter_rows()) == direct


def test_quantiles_fill_buckets_evenly():
    values = pl.Series([float(v) for v in range(1000)]).shuffle(seed=1)
    boundaries = quantile_boundaries(count_numbers(values), 10)
    assert boundaries == [100.0 * k for k in range(1, 10)]
    assert quantile_boundaries(count_numbers(pl.Series([7.0] * 9)), 3) == []
    assert quantile_boundaries(count_numbers(pl.Series([], dtype=pl.Float64)), 3) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_cutting_goes_down_by_less_than_a_16384th_and_keeps_the_order(values):
    found = cut(np.array(values)).tolist()
    for value, lower in zip(values, found, strict=True):
        assert lower <= value
        if 1e-300 < abs(value) < 1e300:
            # Its significand has 15 binary digits, and the next such number is above the value.
            significand, exponent = math.frexp(lower)
            assert (significand * 2**15).is_integer()
            assert value < lower + math.ldexp(1, exponent - 14)
            assert value - lower <= abs(value) / 16384
    ranks = sorted(range(len(values)), key=lambda k: values[k])
    assert all(found[a] <= found[b] for a, b in pairwise(ranks))


@settings(max_examples=100, deadline=None)
@given(st.lists(NUMBERS, max_size=20), st.lists(st.integers(-50, 50), max_size=5, unique=True))
def test_ids_are_the_places_among_the_boundaries(values, edges):
    edges = sorted(n / 8 for n in edges)
    buckets = Buckets(edges)
    frame = pl.DataFrame({"x": values}, schema={"x": pl.Float64})
    found = frame.select(buckets.encode("x", "x_bucket"))["x_bucket"]
    assert found.dtype == pl.Int32
    assert found.to_list() == [3 + bisect_right(edges, v) if is_finite(v) else 1 for v in values]
    assert len(buckets.labels) == len(edges) + 1
    streamed = frame.lazy().select(buckets.encode("x", "x_bucket")).collect(engine="streaming")
    assert streamed["x_bucket"].to_list() == found.to_list()


def test_labels_say_the_interval():
    assert Buckets([1, 2.5]).labels.to_list() == ["-inf..1.0", "1.0..2.5", "2.5..inf"]
    assert pl.DataFrame({"x": [0.99, 1.0, 2.5]}).select(Buckets([1, 2.5]).encode("x", "b"))["b"].to_list() == [3, 4, 5]
    assert dict(count_labels(pl.Series([3, 1, 3]), ["a", "b"]).iter_rows()) == {"a": 2, None: 1}


def test_many_distinct_numbers_stay_few_counts():
    values = np.random.default_rng(0).lognormal(size=100_000)
    counts = count_numbers(pl.Series(values))
    assert counts["count"].sum() == 100_000
    octaves = np.log2(values.max()) - np.log2(values.min()) + 1
    assert counts.height <= 16384 * octaves and counts.height < 100_000
    found = quantile_boundaries(counts, 4)
    exact = np.quantile(values, [0.25, 0.5, 0.75], method="higher")
    assert found == pytest.approx(exact.tolist(), rel=1 / 16384 + 1e-4)

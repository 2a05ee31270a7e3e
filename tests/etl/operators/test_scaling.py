"""Statistics and scaling against `statistics` of the standard library."""

import math
import statistics

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.etl.operators.scaling import Moments, Scaling


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(
            st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([math.nan, math.inf, -math.inf])), max_size=8
        ),
        max_size=5,
    )
)
def test_merged_moments_are_those_of_all_values(parts):
    total = Moments()
    for part in parts:
        total = total.merge(Moments.of(pl.Series(part, dtype=pl.Float64)))
    everything = [v for part in parts for v in part]
    finite = [v for v in everything if v is not None and math.isfinite(v)]
    assert (total.n, total.missing) == (len(finite), len(everything) - len(finite))
    assert total.infinite == sum(v is not None and math.isinf(v) for v in everything)
    if finite:
        assert total.mean == pytest.approx(statistics.fmean(finite), rel=1e-9, abs=1e-6)
        assert total.std == pytest.approx(statistics.pstdev(finite), rel=1e-6, abs=1e-4)


def test_scaling_by_hand():
    values = pl.Series("v", [0.0, 1.0, 3.0])
    moments = Moments.of(values.log1p())
    scaled = pl.DataFrame({"v": [0.0, 3.0, None, math.nan, math.inf, -math.inf]}).select(
        Scaling.fit(["log1p", "zscore"], moments).apply("v")
    )["v"]
    logs = [0.0, math.log(2), math.log(4)]
    mean, std = statistics.fmean(logs), statistics.pstdev(logs)
    assert scaled.dtype == pl.Float32
    assert scaled.to_list() == pytest.approx([-mean / std, (logs[2] - mean) / std, 0.0, 0.0, 0.0, 0.0], rel=1e-6)
    plain = pl.DataFrame({"v": [5.0, None]}).select(Scaling.fit([], Moments.of(values)).apply("v"))["v"]
    assert plain.to_list() == pytest.approx([5.0, 4 / 3])


def test_a_constant_column_scales_to_zero():
    scaling = Scaling.fit(["zscore"], Moments.of(pl.Series([7.1, 7.1, 7.1])))
    assert scaling.is_constant
    assert pl.DataFrame({"v": [7.1, 9.0]}).select(scaling.apply("v"))["v"].to_list() == [0.0, 0.0]

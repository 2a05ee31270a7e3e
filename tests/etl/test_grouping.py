"""Grouping against itertools.groupby, and rows that are noted."""

import math
from itertools import groupby

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.etl.grouping import group_rows, noted_rows

ROW = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.integers(0, 2),
    st.integers(0, 4),
    st.sampled_from([None, "", "x", "😀"]),
    st.sampled_from([None, 1.0, math.inf, -math.inf, math.nan]),
)


def frame_of(rows):
    schema = {"session_id": pl.String, "chunk": pl.Int32, "timestamp": pl.Int64, "note": pl.String, "x": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=30))
def test_neighbours_of_one_session_and_chunk_become_lists(rows):
    rows = sorted(rows, key=lambda r: r[:3])
    found = group_rows(frame_of(rows), ["timestamp", "note"])
    expected = [(key, list(group)) for key, group in groupby(rows, key=lambda r: r[:2])]
    assert found.columns == ["session_id", "chunk", "timestamp", "note"]
    assert found.rows() == [(*key, [r[2] for r in group], [r[3] for r in group]) for key, group in expected]


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=30))
def test_equal_times_and_infinite_numbers_are_counted(rows):
    rows = sorted(rows, key=lambda r: (r[0], r[2]))
    same = len(rows) - len({(r[0], r[2]) for r in rows})
    infinite = sum(r[4] is not None and math.isinf(r[4]) for r in rows)
    expected = {"same_session_and_time": same, "infinite:x": infinite}
    assert noted_rows(frame_of(rows), ["x"]) == {name: count for name, count in expected.items() if count}

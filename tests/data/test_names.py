"""Names against plain lists."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.names import Names

LISTS = st.lists(st.none() | st.text(max_size=5), max_size=12)


@settings(deadline=None)
@given(LISTS, st.data())
def test_they_behave_like_a_list(values, data):
    names = Names.of(values)
    assert names == values and list(names) == values and len(names) == len(values)
    assert names.series().to_list() == values
    part = data.draw(st.slices(len(values)))
    assert list(names[part]) == values[part]
    rows = data.draw(st.lists(st.integers(0, len(values) - 1))) if values else []
    assert names.take(np.array(rows, dtype=np.int64)).to_list() == [values[r] for r in rows]
    assert [names[r - len(values)] for r in rows] == [values[r] for r in rows]
    assert (names == [*values, "more"]) is False
    assert Names.of(names) is names


def test_other_values_become_text_and_it_shows_itself_shortly():
    names = Names.of(pl.Series([7, None, 10**12]))
    assert names == ["7", None, "1000000000000"]
    assert names != ["7", None, "8"] and names != "7" and names == Names.of(["7", None, "1000000000000"])
    assert repr(Names.of(str(n) for n in range(9))) == "Names(['0', '1', '2', ...], 9)"

"""The sums are exact, or the program stops."""

import polars as pl
import pytest

from recsys.cleaning.funnel import Funnel
from recsys.errors import InputError


def test_parts_add_up():
    funnel = Funnel()
    for reasons in (["a", None, "b"], ["a", "a", None], [None, None, None]):
        kept = funnel.drop("noise", pl.DataFrame({"x": [1, 2, 3]}), pl.Series(reasons, dtype=pl.String))
        assert kept.height == reasons.count(None)
    funnel.count("sessions", 5, 5, {}, sessions=2)
    assert funnel.to_list() == [
        {"stage": "noise", "rows_in": 9, "rows_out": 5, "removed": {"a": 3, "b": 1}},
        {"stage": "sessions", "rows_in": 5, "rows_out": 5, "removed": {}, "sessions": 2},
    ]


def test_hidden_rows_are_counted_as_gone_and_stay():
    funnel = Funnel()
    reason = pl.Series(["a", None, "b"], dtype=pl.String)
    kept = funnel.drop("noise", pl.DataFrame({"x": [1, 2, 3]}), reason, hidden=pl.Series([False, False, True]))
    assert kept["x"].to_list() == [2, 3]
    assert funnel.to_list() == [{"stage": "noise", "rows_in": 3, "rows_out": 1, "removed": {"a": 1, "b": 1}}]


def test_a_sum_that_is_wrong_stops():
    with pytest.raises(AssertionError, match="stage x: 5 rows in, 3 out, 1 removed"):
        Funnel().count("x", 5, 3, {"a": 1})


def test_the_stage_that_emptied_the_log_is_named():
    funnel = Funnel()
    funnel.count("read", 3, 3, {})
    funnel.require_rows("log.csv")
    funnel.count("category", 3, 0, {"category CTS": 3})
    with pytest.raises(InputError, match=r"log.csv: no event .* stage 'category' \(3 rows in; category CTS: 3\)"):
        funnel.require_rows("log.csv")

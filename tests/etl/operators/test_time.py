"""Times of the day and week against `zoneinfo`."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.etl.operators.time import TIME_VALUES, interval, time_id


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.datetimes(datetime(1950, 1, 1), datetime(2037, 12, 31)), min_size=1, max_size=20),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"]),
)
def test_hour_and_weekday_are_those_of_the_zone(moments, zone):
    times = [(m - datetime(1970, 1, 1)) // timedelta(microseconds=1) for m in moments]
    local = [m.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)) for m in moments]
    found = pl.DataFrame({"timestamp": times}).select(time_id("hour", zone), time_id("weekday", zone))
    assert found.dtypes == [pl.Int32, pl.Int32]
    assert [TIME_VALUES["hour"][i - 3] for i in found["hour"]] == [m.strftime("%H") for m in local]
    assert [TIME_VALUES["weekday"][i - 3] for i in found["weekday"]] == [m.strftime("%A") for m in local]


def test_no_classes_of_other_features():
    with pytest.raises(ConfigError, match="no classes are made of 'log_gap'"):
        time_id("log_gap", "UTC")


def test_intervals_start_anew_with_each_session():
    frame = pl.DataFrame({"session_id": list("aab"), "timestamp": [1_000_000, 3_500_000, 2_000_000]})
    assert frame.select(interval())["timestamp_interval"].to_list() == [0.0, 2.5, 0.0]

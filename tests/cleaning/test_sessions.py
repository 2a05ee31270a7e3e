"""Order, gaps, sub-second time and repeats, against plain Python."""

import itertools

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.cleaning.funnel import Funnel
from recsys.cleaning.parser import Kind
from recsys.cleaning.profile import load_profile
from recsys.cleaning.sessions import add_hash, clean_sessions, collapse

VS = load_profile("visual_studio")
SECOND = 1_000_000
MINUTE = 60 * SECOND

EVENTS = st.lists(st.tuples(st.sampled_from(["7", "8", "10"]), st.integers(0, 200), st.sampled_from("AB")), max_size=40)


def by_hand(rows):
    """(session, item, time, merge_count) of rows (user, minute, item)."""
    found = []
    for user, group in itertools.groupby(sorted(rows, key=lambda r: (r[0], r[1])), key=lambda r: r[0]):
        number, last = 0, None
        for _, minute, item in group:
            if last is None or minute - last > 30:
                number += 1
                found.append([f"{user}-{number}", item, minute * MINUTE, 1])
            elif found[-1][1] == item:
                found[-1][3] += 1
            else:
                found.append([f"{user}-{number}", item, minute * MINUTE, 1])
            last = minute
    return sorted(map(tuple, found), key=lambda e: (e[0].split("-")[0], int(e[0].split("-")[1])))


@settings(max_examples=200, deadline=None)
@given(EVENTS)
def test_gaps_and_repeats_agree_with_plain_python(rows):
    frame = pl.DataFrame(
        {
            "user_id": [r[0] for r in rows],
            "timestamp": [r[1] * MINUTE for r in rows],
            "item_id": [r[2] for r in rows],
            "kind": pl.Series([0] * len(rows), dtype=pl.UInt8),
        },
        schema_overrides={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64},
    )
    funnel = Funnel()
    events = clean_sessions(add_hash(frame, VS), VS, funnel)
    found = list(events.select("session_id", "item_id", "timestamp", "merge_count").iter_rows())
    assert sorted(found, key=lambda e: (e[0].split("-")[0], int(e[0].split("-")[1]))) == by_hand(rows)
    assert events["merge_count"].sum() == len(rows)


def test_a_gap_of_exactly_thirty_minutes_does_not_split():
    frame = pl.DataFrame({"user_id": ["1"] * 3, "timestamp": [0, 30 * MINUTE, 60 * MINUTE + 1], "item_id": list("ABC")})
    frame = frame.with_columns(pl.lit(0, dtype=pl.UInt8).alias("kind"))
    assert clean_sessions(add_hash(frame, VS), VS, Funnel())["session_id"].to_list() == ["1-1", "1-1", "1-2"]


def live(seconds, clocks):
    items = [f"Tool: {i} (1)" for i in range(len(seconds))]
    profile = load_profile("vectorworks")
    frame = pl.DataFrame({"session_id": "s", "item_id": items, "timestamp": seconds, "clock": clocks}).with_columns(
        pl.col("timestamp") * SECOND,
        (pl.col("clock") * SECOND).round().cast(pl.Int64),
        pl.lit(Kind.STARTER.value, pl.UInt8).alias("kind"),
    )
    events = clean_sessions(add_hash(frame, profile), profile, Funnel())
    assert events["item_id"].to_list() == items, "rows of one second keep the order of the file"
    return [t / SECOND for t in events["timestamp"].to_list()]


def test_the_clock_gives_the_time_within_a_second():
    # true times 100.25, 100.75, 101.5, 101.75: the clock runs 90 s behind, the offset is known from 100.25 on to .25
    assert live([100, 100, 101, 101], [10.25, 10.75, 11.5, 11.75]) == [100.0, 100.5, 101.25, 101.5]
    # a row early in its second makes the offset exact, for what follows it
    assert live([100, 101, 101], [10.5, 11.0, 11.5]) == [100.0, 101.0, 101.5]


def test_a_clock_that_goes_back_or_ahead_never_leaves_its_second():
    assert live([100, 100, 100], [50.5, 10.0, 10.2]) == pytest.approx([100, 100, 100.2])
    assert live([100, 101], [10.0, 500.0]) == [100.0, 101.999999]
    assert live([100, 100, 101], [10.0, None, 11.0]) == [100.0, 100.0, 101.0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 100)), max_size=20))
def test_any_clock_keeps_order_and_second(rows):
    rows = sorted(rows, key=lambda r: r[0])
    if rows:
        times = live([r[0] for r in rows], [r[1] for r in rows])
        assert [int(t) for t in times] == [r[0] for r in rows]
        assert times == sorted(times)


def jumped(*rows):
    """Items and times in seconds of (second, clock) rows of one session in the order of the file, and the funnel."""
    profile = load_profile("vectorworks")
    frame = pl.DataFrame(rows, schema={"timestamp": pl.Float64, "clock": pl.Float64}, orient="row").with_columns(
        (pl.col("timestamp", "clock") * SECOND).round().cast(pl.Int64),
        pl.lit("s").alias("session_id"),
        pl.Series("item_id", [str(i) for i in range(len(rows))]),
        pl.lit(Kind.STARTER.value, pl.UInt8).alias("kind"),
    )
    frame = frame if frame["clock"].count() else frame.drop("clock")
    # another session around it, so that its jumps are seen to stay its own
    others = [frame.with_columns(pl.lit(name).alias("session_id"), pl.col("timestamp").sort()) for name in "at"]
    funnel = Funnel()
    events = clean_sessions(add_hash(pl.concat([others[0], frame, others[1]]), profile), profile, funnel)
    for other in "at":
        untouched = events.filter(pl.col("session_id") == other)
        assert untouched["item_id"].to_list() == [str(i) for i in range(len(rows))]
        assert (untouched["timestamp"] // SECOND).to_list() == sorted(int(second) for second, _ in rows)
    events = events.filter(pl.col("session_id") == "s")
    items = [int(i) for i in events["item_id"]]
    return items, [t / SECOND for t in events["timestamp"]], funnel.to_list()[0]["clock_went_back"]


def test_a_wall_clock_that_jumps_back_does_not_turn_the_order_around():
    # an hour back between the second and the third row; the process clock says that 2 s passed
    items, times, back = jumped((7200, 10.0), (7201, 11.0), (3603, 13.0), (3604, 14.0), (3604, 14.5))
    assert (items, times, back) == ([0, 1, 2, 3, 4], [7200, 7201, 7203, 7204, 7204.5], 1)
    # twice, and a process that starts anew on the wrong clock stays behind what came before it
    items, times, back = jumped((100, 10.0), (90, 11.0), (80, 12.0), (82, 1.0), (83, 2.0))
    assert (items, times, back) == ([0, 1, 2, 3, 4], [100, 101, 102, 104, 105], 2)


def test_a_row_written_late_goes_where_its_time_says():
    assert jumped((100, 10.0), (102, 12.0), (101, 11.0), (103, 13.0)) == ([0, 2, 1, 3], [100, 101, 102, 103], 1)
    # by another process: its clock says nothing of the row before it
    items, times, back = jumped((100, 10.0), (102, 12.0), (101, 3.0), (103, 13.0))
    assert (items, [int(t) for t in times], back) == ([0, 2, 1, 3], [100, 101, 102, 103], 1)


def test_without_a_process_clock_the_wall_clock_orders_the_rows():
    assert jumped((100, None), (90.5, None), (90, None), (101, None)) == ([2, 1, 0, 3], [90, 90.5, 100, 101], 2)
    # a row without one between rows that have one
    assert jumped((100, 10.0), (90, None), (80, 12.0))[0] == [2, 1, 0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-500, 3), st.floats(0, 5)), min_size=1, max_size=15))
def test_any_jumps_keep_the_order_of_the_file_and_the_pauses(steps):
    rows = list(itertools.accumulate(steps, lambda at, step: (at[0] + step[0], at[1] + step[1]), initial=(10_000, 5.0)))
    items, times, back = jumped(*rows)
    assert items == list(range(len(rows))) and times == sorted(times)
    assert back == sum(later < 0 for later, _ in steps)
    if all(later < 0 for later, _ in steps):  # then the process clock alone makes the time
        assert times[-1] - times[0] <= rows[-1][1] - rows[0][1] + 1e-3
        assert times[-1] - times[0] > rows[-1][1] - rows[0][1] - len(steps)


def test_collapsing_twice_sums_counts():
    frame = pl.DataFrame({"session_id": list("aaab"), "item_id": list("xxyy"), "merge_count": [2, 3, 1, 4]})
    once = collapse(frame, "session_id")
    assert once.rows() == [("a", "x", 5), ("a", "y", 1), ("b", "y", 4)]
    assert collapse(once, "session_id").equals(once)

"""What leaves is what a plain reading of the rule says; and something always stays."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys.cleaning.fitting import RedundancyConfig
from recsys.cleaning.funnel import Funnel
from recsys.cleaning.redundancy import NAMED, Leavers, Redundancy, RedundantPair, redundancy_reasons
from recsys.errors import InputError

EVENTS = st.lists(
    st.tuples(st.sampled_from("ABCDX"), st.integers(0, 3), st.booleans(), st.integers(1, 2)), min_size=0, max_size=25
)
PAIRS = st.lists(
    st.tuples(st.sampled_from("ABCD"), st.sampled_from("ABCDE"), st.sampled_from(["high", "low"])), max_size=6
)


def frame(items, seconds=None, sessions=None, counts=None):
    seconds = range(len(items)) if seconds is None else seconds
    return pl.DataFrame(
        {
            "session_id": list(sessions or ["s"] * len(items)),
            "item_id": list(items),
            "timestamp": [round(s * 1_000_000) for s in seconds],
            "merge_count": list(counts or [1] * len(items)),
        },
        schema={"session_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "merge_count": pl.Int64},
    )


def without_cycles(drawn):
    graph, pairs = Leavers(), []
    for high, low, drop in drawn:
        pair = RedundantPair(high=high, low=low, drop=drop)
        if not graph.closes_cycle(pair):
            graph.add(pair)
            pairs.append(pair)
    return pairs


def drawn_events(drawn):
    times, sessions, time, session = [], [], 0, 0
    for _, gap, new, _ in drawn:
        time, session = time + gap, session + new
        times.append(time)
        sessions.append(f"s{session}")
    return frame([d[0] for d in drawn], times, sessions, [d[3] for d in drawn])


def leaves(rows, at, rules):
    """The rule, read word by word."""
    here = rows[at]
    for other in range(max(0, at - rules.rows), min(len(rows), at + rules.rows + 1)):
        there = rows[other]
        near = abs(here["timestamp"] - there["timestamp"]) <= rules.seconds * 1e6
        if not near or here["session_id"] != there["session_id"]:
            continue
        for pair in rules.pairs:
            if other > at and pair.drop == "high" and (pair.high, pair.low) == (here["item_id"], there["item_id"]):
                return True
            brought = other < at and (pair.high, pair.low) == (there["item_id"], here["item_id"])
            if brought and pair.drop == "low" and here["merge_count"] == 1:
                return True
    return False


@given(EVENTS, PAIRS, st.integers(1, 3), st.sampled_from([1.0, 2.5, 30.0]))
def test_leaves_what_the_rule_says_and_never_everything(drawn, pairs, rows, seconds):
    events = drawn_events(drawn)
    rules = Redundancy(rows=rows, seconds=seconds, pairs=without_cycles(pairs))
    reasons = redundancy_reasons(events, "session_id", rules)
    table = events.to_dicts()
    assert reasons.dtype == pl.String and len(reasons) == len(table)
    assert reasons.is_not_null().to_list() == [leaves(table, at, rules) for at in range(len(table))]
    assert set(events.filter(reasons.is_null())["session_id"]) == set(events["session_id"])


def test_only_where_the_partner_really_follows():
    rules = Redundancy(rows=1, seconds=5, pairs=[RedundantPair(high="H", low="L")])
    #              follows  too late  not next  other session   again
    items = ["H", "L", "H", "L", "H", "X", "L", "H", "L", "H", "L"]
    times = [0, 0.1, 10, 16, 20, 20, 20, 30, 30, 40, 45]
    events = frame(items, times, ["a"] * 8 + ["b"] * 3)
    reasons = redundancy_reasons(events, "session_id", rules)
    assert reasons.to_list() == ["redundant: brings L", *[None] * 8, "redundant: brings L", None]
    wider = rules.model_copy(update={"rows": 2, "seconds": 6.0})
    assert redundancy_reasons(events, "session_id", wider).is_not_null().to_list() == [
        True, False, True, False, True, False, False, False, False, True, False,
    ]  # fmt: skip


def test_chain_leaves_its_last():
    rules = Redundancy(pairs=[RedundantPair(high="A", low="B"), RedundantPair(high="B", low="C")])
    events = frame("ABCAB")
    kept = events.filter(redundancy_reasons(events, "session_id", rules).is_null())["item_id"].to_list()
    assert kept == ["C", "B"], "B itself leaves where C follows, and stays where not"


def test_the_nearest_partner_is_the_reason():
    rules = Redundancy(rows=2, pairs=[RedundantPair(high="H", low=low) for low in "KL"])
    assert redundancy_reasons(frame("HLK"), "session_id", rules).to_list() == ["redundant: brings L", None, None]


def test_collapsed_events():
    """A repeated high-level event leaves whole; a repeated low-level one stays: its repetitions were the person's."""
    events = frame("HLHL", counts=[3, 1, 1, 3])
    high = Redundancy(pairs=[RedundantPair(high="H", low="L")])
    assert redundancy_reasons(events, "session_id", high).is_not_null().to_list() == [True, False, True, False]
    low = Redundancy(pairs=[RedundantPair(high="H", low="L", drop="low")])
    reasons = redundancy_reasons(events, "session_id", low).to_list()
    assert reasons == [None, "redundant: brought by H", None, None]


def test_reasons_stay_readable():
    pairs = [RedundantPair(high=f"h{i}", low=f"l{i}") for i in range(NAMED + 1)]
    events = frame([name for i in range(NAMED + 1) for name in (f"h{i}", f"l{i}")])
    funnel = Funnel()
    for part, expected in ((pairs[:-1], NAMED), (pairs, 1)):
        reasons = redundancy_reasons(events, "session_id", Redundancy(pairs=part))
        assert reasons.drop_nulls().n_unique() == expected and reasons.count() == len(part)
        funnel.drop("redundant", events, reasons)
    assert funnel.stages["redundant"].removed["redundant: brings another command"] == NAMED + 1


def test_nothing_to_do():
    assert redundancy_reasons(frame("AB"), "session_id", Redundancy()).to_list() == [None, None]
    rules = Redundancy(rows=3, pairs=[RedundantPair(high="A", low="B")])
    assert redundancy_reasons(frame(""), "session_id", rules).to_list() == []
    assert redundancy_reasons(frame("A"), "session_id", rules).to_list() == [None]


@pytest.mark.parametrize(
    "pairs",
    [
        [("A", "B", "high"), ("B", "A", "high")],
        [("A", "B", "high"), ("A", "B", "low")],
        [("A", "B", "high"), ("B", "C", "high"), ("C", "A", "high")],
        [("A", "B", "high"), ("C", "B", "low"), ("C", "A", "high")],
        [("A", "A", "high")],
    ],
)
def test_circles_are_refused(pairs):
    with pytest.raises(ValidationError, match="keep one of them"):
        Redundancy(pairs=[RedundantPair(high=h, low=low, drop=d) for h, low, d in pairs])


def test_load(tmp_path):
    path = tmp_path / "redundancy.csv"
    path.write_text(
        'low,high,decision,leaves,why\nL,"H, ""x""",drop,low,\nM,K,keep,high,\nM,B,drop,,\nM,B,drop,high,\n'
    )
    rules = Redundancy.load(path, RedundancyConfig(rows=2, seconds=3))
    assert rules == Redundancy(
        rows=2,
        seconds=3,
        pairs=[RedundantPair(high="B", low="M"), RedundantPair(high='H, "x"', low="L", drop="low")],
    )
    path.write_text("high,low,decision\nA,B,drop\n")
    assert Redundancy.load(path, RedundancyConfig(drop="low")).pairs == [RedundantPair(high="A", low="B", drop="low")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("high,low\nA,B\n", "column 'decision' is missing"),
        ("high,low,decision\nA,B,dropp\n", r"row 1: decision 'dropp' is not known \(did you mean 'drop'\?\)"),
        ("high,low,decision,leaves\nA,B,drop,A\n", "row 1: leaves 'A' is not known"),
        ("high,low,decision\nA,B,drop\nA,A,drop\n", "row 2: high .* must be two different"),
        ("high,low,decision\nA,,drop\n", "row 1: column 'low' is empty"),
        (
            "high,low,decision\nA,B,drop\nC,B,drop\nA,B,keep\n",
            "row 3: 'A', 'B' is 'keep' here and 'drop high' in row 1",
        ),
        ("high,low,decision\nA,B,drop\nB,C,drop\nC,A,drop\n", "row 3: 'C' would leave because of 'A'"),
        ("", "empty"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Redundancy.load(path, RedundancyConfig())
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_table(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Redundancy.load(tmp_path / "none.csv", RedundancyConfig())

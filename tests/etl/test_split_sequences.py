"""Rules that cut inside sequences, each against its definition written out for one list of times."""

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import SplitConfig
from recsys.errors import ConfigError
from recsys.etl.split import assign_splits
from recsys.etl.split_sequences import SequenceSplit, kth_times


def frame(sequences):
    """Prepared events: sequences (name -> times), each in time order."""
    rows = [(name, time) for name in sorted(sequences) for time in sorted(sequences[name])]
    return pl.DataFrame(rows, schema={"session_id": pl.String, "timestamp": pl.Int64}, orient="row")


def by_hand(times, config, cuts):
    """Numbers of train events, and of train and validation events."""
    n = len(times)
    if config.rule == "leave_last":
        return (n - 2 * config.k, n - config.k) if n > 2 * config.k else (n, n)
    if config.rule == "time":
        return sum(t < cuts[0] for t in times), sum(t < cuts[1] for t in times)
    train = max(1, math.floor(n * (100 - 20 - 30) / 100))  # as the test's shares are
    return train, max(train, math.floor(n * (100 - 20) / 100))


SEQUENCES = st.dictionaries(
    st.integers(0, 9).map(lambda n: f"s{n}"), st.lists(st.integers(0, 40), min_size=1, max_size=12), min_size=1
)
RULES = st.sampled_from(["leave_last", "time", "position"])


@settings(max_examples=150, deadline=None)
@given(SEQUENCES, RULES, st.integers(1, 3))
def test_every_rule_against_its_definition(sequences, rule, k):
    config = SplitConfig(rule=rule, k=k, test_share=0.2, validation_share=0.3)
    events = frame(sequences)
    split = SequenceSplit.fit(config, "session_id", lambda: [events["timestamp"]])
    marked = split.mark(events)
    split.count(marked)
    assert marked.drop("split").equals(events)
    for name in ("train", "val", "test"):
        expected = {}
        for key, times in sequences.items():
            train, upto = by_hand(times, config, split.cuts)
            start, stop = {"train": (0, train), "val": (train, upto), "test": (upto, len(times))}[name]
            if start < stop:  # it owns something: all up to there is in it
                expected[key] = (sorted(times)[:stop], max(1, start))
        rows = split.rows(marked, name)
        found = {
            key: part["timestamp"].to_list() for (key,), part in rows.partition_by("session_id", as_dict=True).items()
        }
        assert found == {key: times for key, (times, _) in expected.items()}
        assert split.report()["groups"][name] == len(expected)
        if name != "train":
            starts = dict(split.scored_from(rows, name).iter_rows())
            assert starts == {key: start for key, (_, start) in expected.items()}
    assert sum(split.report()["events"].values()) == events.height


def test_leave_one_out_keeps_short_sequences_in_train():
    """SASRec: a user of fewer than three events is train; else the last is test, the one before it validation."""
    events = frame({"a": [1], "b": [1, 2], "c": [1, 2, 3], "d": [1, 2, 3, 4]})
    split = SequenceSplit.fit(SplitConfig(rule="leave_last"), "user_id", lambda: [events["timestamp"]])
    marked = split.mark(events)
    split.count(marked)
    names = {key: part["split"].to_list() for (key,), part in marked.partition_by("session_id", as_dict=True).items()}
    assert names == {
        "a": ["train"],
        "b": ["train", "train"],
        "c": ["train", "val", "test"],
        "d": ["train", "train", "val", "test"],
    }
    report = split.report()
    assert report["too_short_to_cut"] == 2 and report["k"] == 1 and report["by"] == "user_id"
    assert report["groups"] == {"train": 4, "val": 2, "test": 2} and report["events"] == {
        "train": 6,
        "val": 2,
        "test": 2,
    }


TIMES = st.lists(st.one_of(st.integers(-5, 5), st.integers(-(2**63), 2**63 - 2)), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(TIMES, st.integers(1, 7), st.data())
def test_the_kth_of_all_times_is_found_part_by_part(values, size, data):
    ranks = data.draw(st.lists(st.integers(0, len(values)), min_size=1, max_size=3))
    parts = [pl.Series(values[at : at + size], dtype=pl.Int64) for at in range(0, len(values), size)]
    parts.insert(1, pl.Series([], dtype=pl.Int64))
    ordered = [*sorted(values), max(values) + 1]
    assert kth_times(lambda: parts, ranks) == [ordered[rank] for rank in ranks]


@settings(max_examples=100, deadline=None)
@given(TIMES.map(lambda v: [abs(t) % 1000 for t in v]), st.sampled_from([(0.2, 0.3), (0.0, 0.1), (0.4, 0.0)]))
def test_cuts_by_share_leave_each_split_its_share_and_tear_no_time_apart(values, shares):
    config = SplitConfig(rule="time", test_share=shares[0], validation_share=shares[1])
    split = SequenceSplit.fit(config, "session_id", lambda: [pl.Series(values, dtype=pl.Int64)])
    first, second = split.cuts
    tests, both = round(shares[0] * len(values)), round(shares[0] * len(values)) + round(shares[1] * len(values))
    for cut, wanted in ((second, tests), (first, both)):
        number = sum(t >= cut for t in values)
        assert number >= wanted  # and but for the ties at the cut no more than that
        assert number - sum(t == cut for t in values) < max(wanted, 1)


def test_points_in_time_are_read_in_every_form():
    config = {"rule": "time", "validation_from": "2024-01-01", "test_from": "2024-02-01T12:00:00+02:00"}
    split = SequenceSplit.fit(SplitConfig(**config), "session_id", list)
    assert split.cuts == (1704067200 * 10**6, 1706781600 * 10**6)
    assert split.report()["validation_from"] == "2024-01-01T00:00:00+00:00"
    assert "test_share" not in split.report()
    whole = SplitConfig(rule="time", validation_from=5, test_from=1704067200000000)
    assert SequenceSplit.fit(whole, "session_id", list).cuts == (5, 1704067200 * 10**6)


def test_wrong_settings_say_what_is_wrong():
    bad = SplitConfig(rule="time", validation_from="soon", test_from="2024-01-01")
    with pytest.raises(ConfigError, match=r"split.validation_from: cannot read 'soon' as a time; expected ISO 8601"):
        SequenceSplit.fit(bad, "session_id", list)
    bad = SplitConfig(rule="time", validation_from="2024-01-02", test_from="2024-01-01")
    with pytest.raises(ConfigError, match=r"validation_from \(2024-01-02\) is after test_from"):
        SequenceSplit.fit(bad, "session_id", list)
    with pytest.raises(ValueError, match="validation_from and test_from go together"):
        SplitConfig(rule="time", test_from="2024-01-01")
    with pytest.raises(ValueError, match="leave no event to train"):
        SplitConfig(rule="position", test_share=0.6, validation_share=0.4)
    with pytest.raises(ConfigError, match="'leave_last' cuts inside groups, which `recsys preprocess` does"):
        assign_splits(pl.DataFrame({"group": ["a"], "item_id": ["x"]}), SplitConfig(rule="leave_last"))

"""Windows against brute force: every label once, with exactly the history it should have."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.dataset import SequenceDataset, Windows
from recsys.data.names import Names
from recsys.data.windows import count_batches, epoch_batches, evaluation_windows, training_windows
from recsys.schema import Schema

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=8)
ROWS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 45)), min_size=1, max_size=8)  # length, scored_from


def dataset(lengths: list[int], scored_from: list[int] | None = None) -> SequenceDataset:
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    keys = Names.of(str(n) for n in range(len(lengths)))
    scores = None if scored_from is None else np.array(scored_from, dtype=np.int32)
    return SequenceDataset(Schema(columns=[]), offsets, {}, {}, keys, keys, scores)


def labels(windows: Windows) -> list[int]:
    return [event for start, stop in zip(windows.start, windows.stop, strict=True) for event in range(start + 1, stop)]


def every_label(data: SequenceDataset) -> list[int]:
    return [e for a, b in zip(data.offsets[:-1], data.offsets[1:], strict=True) for e in range(a + 1, b)]


@given(LENGTHS, st.integers(1, 9), st.integers(0, 5))
def test_random_windows_label_every_event_but_the_first_exactly_once(lengths, max_length, seed):
    data = dataset(lengths)
    windows = training_windows(data, max_length, "random", np.random.default_rng(seed))[:]
    assert sorted(labels(windows)) == every_label(data)
    assert (windows.lengths <= max_length + 1).all()
    assert (windows.lengths >= 2).all()
    assert (windows.start >= data.offsets[windows.row]).all()
    assert (windows.stop <= data.offsets[windows.row + 1]).all()


def test_random_windows_differ_between_epochs():
    data, rng = dataset([100]), np.random.default_rng(0)
    starts = {tuple(training_windows(data, 10, "random", rng)[:].start) for _ in range(10)}
    assert len(starts) > 3


@given(LENGTHS, st.integers(1, 9))
def test_newest_windows_take_the_end_of_each_sequence(lengths, max_length):
    data = dataset(lengths)
    windows = training_windows(data, max_length, "newest", np.random.default_rng(0))[:]
    ends = [int(e) for n, e in zip(lengths, data.offsets[1:], strict=True) if n >= 2]
    assert windows.stop.tolist() == ends
    assert windows.lengths.tolist() == [min(n, max_length + 1) for n in lengths if n >= 2]


@given(ROWS, st.booleans(), st.integers(1, 9))
def test_each_position_has_a_window_of_its_own_where_it_is_asked_for(rows, told, max_length):
    data = dataset([length for length, _ in rows], [scored for _, scored in rows] if told else None)
    windows = evaluation_windows(data, max_length, "each")
    expected = [
        (row, max(begin, begin + place - max_length), begin + place + 1, begin + place)
        for row, (begin, (length, scored)) in enumerate(zip(data.offsets[:-1].tolist(), rows, strict=True))
        for place in range(1, length)
        if not told or place >= scored
    ]
    found = zip(windows.row, windows.start, windows.stop, windows.label_from, strict=True)
    assert [tuple(int(n) for n in window) for window in found] == expected


@given(ROWS, st.booleans(), st.integers(1, 9))
def test_evaluation_scores_every_position_once_on_exactly_its_newest_events(rows, told, max_length):
    lengths = [length for length, _ in rows]
    data = dataset(lengths, [scored for _, scored in rows] if told else None)
    windows = evaluation_windows(data, max_length, "all")
    histories = {}
    for start, stop, row, first in zip(windows.start, windows.stop, windows.row, windows.label_from, strict=True):
        assert start < first < stop
        for event in range(first, stop):
            assert event not in histories
            histories[event] = (start, data.offsets[row])
    begins = data.offsets[:-1].tolist()
    expected = {
        begin + place
        for begin, (length, scored) in zip(begins, rows, strict=True)
        for place in range(1, length)
        if not told or place >= scored
    }
    assert set(histories) == expected
    for event, (start, begin) in histories.items():
        assert start == max(begin, event - max_length)


@given(ROWS, st.integers(1, 9))
def test_first_windows_are_one_a_sequence_with_all_labels_that_come_cheap(rows, max_length):
    data = dataset([length for length, _ in rows], [scored for _, scored in rows])
    windows = evaluation_windows(data, max_length, "first")
    scored = [row for row, (length, first) in enumerate(rows) if length > max(first, 1)]
    assert windows.row.tolist() == scored
    for start, stop, row, label in zip(windows.start, windows.stop, windows.row, windows.label_from, strict=True):
        begin, (length, first) = data.offsets[row], rows[row]
        assert label == begin + max(first, 1)
        last = max(label, min(begin + length - 1, begin + max_length))
        assert (start, stop) == (max(begin, label - max_length), last + 1)


@given(ROWS, st.integers(1, 9))
def test_last_positions_have_one_window_each(rows, max_length):
    data = dataset([length for length, _ in rows], [scored for _, scored in rows])
    windows = evaluation_windows(data, max_length, "last")
    assert windows.row.tolist() == [row for row, (n, scored) in enumerate(rows) if n >= 2 and n - 1 >= scored]
    assert (windows.label_from == windows.stop - 1).all()
    assert (windows.stop == data.offsets[windows.row + 1]).all()
    assert (windows.lengths == np.minimum(data.lengths[windows.row], max_length + 1)).all()


@given(LENGTHS, st.integers(1, 9), st.integers(0, 5), st.sampled_from(["random", "newest"]))
def test_windows_are_the_same_one_at_a_time_and_their_events_are_counted(lengths, max_length, seed, mode):
    windows = training_windows(dataset(lengths), max_length, mode, np.random.default_rng(seed))
    whole = windows[:]
    assert len(whole) == len(windows) and windows.events == whole.lengths.sum()
    assert (np.diff(whole.row) >= 0).all()
    for number in range(len(windows)):
        one = windows[np.array([number])]
        assert (one.row[0], one.start[0], one.stop[0]) == (whole.row[number], whole.start[number], whole.stop[number])


def test_training_does_not_know_which_events_are_scored():
    plain, told = dataset([5, 30]), dataset([5, 30], [4, 29])
    windows = [training_windows(d, 7, "random", np.random.default_rng(0))[:] for d in (plain, told)]
    assert windows[0].start.tolist() == windows[1].start.tolist() and windows[1].label_from is None


@given(st.lists(st.integers(2, 30), min_size=1, max_size=60), st.integers(1, 8), st.sampled_from([None, 20, 50]))
def test_batches_hold_every_window_once_and_keep_to_their_limits(lengths, batch_size, batch_events):
    windows = training_windows(dataset(lengths), 100, "newest", np.random.default_rng(0))
    every = windows[:].lengths
    batches = epoch_batches(windows, np.random.default_rng(1), batch_size, batch_events)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(windows)))
    for batch in batches:
        assert len(batch) <= batch_size
        assert batch_events is None or len(batch) == 1 or every[batch].sum() <= batch_events
    if batch_events is None:
        assert len(batches) == count_batches(len(windows), batch_size)
    assert [b.tolist() for b in batches[1:3]] == [batches[n].tolist() for n in range(len(batches))][1:3]


def test_batches_are_of_like_length_and_repeat_with_the_seed():
    lengths = np.random.default_rng(0).integers(2, 100, 4000).tolist()
    windows = training_windows(dataset(lengths), 200, "newest", np.random.default_rng(0))
    batches = epoch_batches(windows, np.random.default_rng(1), 32)
    padded = sum(len(b) * windows[b].lengths.max() for b in batches)
    assert padded < 1.1 * windows.events
    again = epoch_batches(windows, np.random.default_rng(1), 32)
    other = epoch_batches(windows, np.random.default_rng(2), 32)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))
    assert not all(len(a) == len(b) and (a == b).all() for a, b in zip(batches, other, strict=True))

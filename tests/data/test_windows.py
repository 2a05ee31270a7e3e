"""Windows against brute force: every label once, with exactly the history it should have."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.dataset import SequenceDataset, Windows
from recsys.data.windows import epoch_batches, evaluation_windows, training_windows
from recsys.schema import Schema

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=8)


def dataset(lengths: list[int]) -> SequenceDataset:
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    keys = [str(n) for n in range(len(lengths))]
    return SequenceDataset(Schema(columns=[]), offsets, {}, {}, keys, keys)


def labels(windows: Windows) -> list[int]:
    return [event for start, stop in zip(windows.start, windows.stop, strict=True) for event in range(start + 1, stop)]


def every_label(data: SequenceDataset) -> list[int]:
    return [e for a, b in zip(data.offsets[:-1], data.offsets[1:], strict=True) for e in range(a + 1, b)]


@given(LENGTHS, st.integers(1, 9), st.integers(0, 5))
def test_random_windows_label_every_event_but_the_first_exactly_once(lengths, max_length, seed):
    data = dataset(lengths)
    windows = training_windows(data, max_length, "random", np.random.default_rng(seed))
    assert sorted(labels(windows)) == every_label(data)
    assert (windows.lengths <= max_length + 1).all()
    assert (windows.lengths >= 2).all()
    assert (windows.start >= data.offsets[windows.row]).all()
    assert (windows.stop <= data.offsets[windows.row + 1]).all()


def test_random_windows_differ_between_epochs():
    data, rng = dataset([100]), np.random.default_rng(0)
    starts = {tuple(training_windows(data, 10, "random", rng).start) for _ in range(10)}
    assert len(starts) > 3


@given(LENGTHS, st.integers(1, 9))
def test_newest_windows_take_the_end_of_each_sequence(lengths, max_length):
    data = dataset(lengths)
    windows = training_windows(data, max_length, "newest", np.random.default_rng(0))
    ends = [int(e) for n, e in zip(lengths, data.offsets[1:], strict=True) if n >= 2]
    assert windows.stop.tolist() == ends
    assert windows.lengths.tolist() == [min(n, max_length + 1) for n in lengths if n >= 2]


@given(LENGTHS, st.integers(1, 9))
def test_evaluation_scores_every_position_once_on_exactly_its_newest_events(lengths, max_length):
    data = dataset(lengths)
    windows, all_count = evaluation_windows(data, max_length, "all")
    histories = {}
    for start, stop, row, every in zip(windows.start, windows.stop, windows.row, all_count, strict=True):
        for event in range(start + 1, stop) if every else [stop - 1]:
            assert event not in histories
            histories[event] = (start, data.offsets[row])
    assert sorted(histories) == every_label(data)
    for event, (start, begin) in histories.items():
        assert start == max(begin, event - max_length)


@given(LENGTHS, st.integers(1, 9))
def test_last_positions_have_one_window_each(lengths, max_length):
    data = dataset(lengths)
    windows, all_count = evaluation_windows(data, max_length, "last")
    assert windows.row.tolist() == [row for row, n in enumerate(lengths) if n >= 2]
    assert not all_count.any()
    assert (windows.lengths == np.minimum(data.lengths[windows.row], max_length + 1)).all()


@given(st.lists(st.integers(2, 30), min_size=1, max_size=60), st.integers(1, 8), st.sampled_from([None, 20, 50]))
def test_batches_hold_every_window_once_and_keep_to_their_limits(lengths, batch_size, batch_events):
    windows = training_windows(dataset(lengths), 100, "newest", np.random.default_rng(0))
    batches = epoch_batches(windows, np.random.default_rng(1), batch_size, batch_events)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(windows)))
    for batch in batches:
        assert len(batch) <= batch_size
        assert batch_events is None or len(batch) == 1 or windows.lengths[batch].sum() <= batch_events


def test_batches_are_of_like_length_and_repeat_with_the_seed():
    lengths = np.random.default_rng(0).integers(2, 100, 4000).tolist()
    windows = training_windows(dataset(lengths), 200, "newest", np.random.default_rng(0))
    batches = epoch_batches(windows, np.random.default_rng(1), 32)
    padded = sum(len(b) * windows.lengths[b].max() for b in batches)
    assert padded < 1.1 * windows.lengths.sum()
    again = epoch_batches(windows, np.random.default_rng(1), 32)
    other = epoch_batches(windows, np.random.default_rng(2), 32)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))
    assert not all(len(a) == len(b) and (a == b).all() for a, b in zip(batches, other, strict=True))

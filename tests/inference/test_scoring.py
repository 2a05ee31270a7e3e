"""Scores do not depend on padding or on what else is in a batch; lists are sorted as promised."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.dataset import SequenceDataset
from recsys.inference import LoadedRun
from recsys.inference.scoring import BLOCK, hidden_states, input_tables, score_blocks, seen_items, top_k
from tests.data.sequences import select
from tests.tiny_run import slow_scores


@torch.no_grad()
def scores_of(run: LoadedRun, dataset: SequenceDataset, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    hidden = hidden_states(run.model, dataset, start, length)
    newest = hidden[torch.arange(len(length)), torch.from_numpy(length - 1)]
    return torch.cat([block for _, block in score_blocks(run.model, newest)]).numpy()


def test_every_history_scores_as_it_does_alone_and_unpadded(run: LoadedRun, dataset: SequenceDataset) -> None:
    rng = np.random.default_rng(0)
    row = rng.integers(0, len(dataset), 40)
    before = rng.integers(1, dataset.lengths[row] + 1)
    stop = dataset.offsets[row] + before
    start = np.maximum(dataset.offsets[row], stop - run.max_length)
    together = scores_of(run, dataset, start, stop - start)
    assert np.isneginf(together[:, :3]).all()
    for i, (r, n) in enumerate(zip(row.tolist(), before.tolist(), strict=True)):
        np.testing.assert_allclose(together[i], slow_scores(run.model, dataset, r, n, run.max_length), atol=1e-5)


def test_padding_has_no_effect_whatever_it_holds(run: LoadedRun, dataset: SequenceDataset) -> None:
    row = int(np.argmax(dataset.lengths))
    begin = int(dataset.offsets[row])
    short = scores_of(run, dataset, np.array([begin]), np.array([3]))
    padded = scores_of(run, dataset, np.array([begin, begin + 1]), np.array([3, 6]))
    np.testing.assert_allclose(padded[0], short[0], atol=1e-5)


def test_blocks_cover_every_position_once(run: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = torch.randn(11, 16)
    with torch.no_grad():
        whole = torch.cat([s for _, s in score_blocks(run.model, hidden)])
        monkeypatch.setattr("recsys.inference.scoring.BLOCK", 4 * whole.shape[1])
        pieces = list(score_blocks(run.model, hidden))
    assert [len(s) for _, s in pieces] == [4, 4, 3] and BLOCK > 1000
    torch.testing.assert_close(torch.cat([s for _, s in pieces]), whole)


def test_finished_input_tables_change_nothing(run: LoadedRun, dataset: SequenceDataset) -> None:
    length = np.minimum(dataset.lengths, run.max_length)
    start = dataset.offsets[1:] - length
    valid = torch.arange(int(length.max())) < torch.from_numpy(length)[:, None]
    with torch.no_grad():
        tables = input_tables(run.model, dataset)
        assert tables is not None
        with_tables = hidden_states(run.model, dataset, start, length, tables)
        without = hidden_states(run.model, dataset, start, length)
    torch.testing.assert_close(with_tables[valid], without[valid], atol=1e-5, rtol=1e-4)


def test_tables_are_left_out_where_they_cost_more(run: LoadedRun, dataset: SequenceDataset) -> None:
    assert input_tables(run.model, select(dataset, [int(np.argmin(dataset.lengths))])) is None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_top_k_is_a_sort_by_score_then_id(data: st.DataObject) -> None:
    rows, items = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    values = st.sampled_from([float("-inf"), -1.0, 0.0, 0.5, 2.0])
    scores = data.draw(st.lists(st.lists(values, min_size=items, max_size=items), min_size=rows, max_size=rows))
    gone = data.draw(st.lists(st.lists(st.booleans(), min_size=items, max_size=items), min_size=rows, max_size=rows))
    k = data.draw(st.integers(1, 11))
    found = top_k(torch.tensor(scores), k, torch.tensor(gone)).tolist()
    for row, line in enumerate(scores):
        candidates = [i for i in range(items) if not gone[row][i] and line[i] > float("-inf")]
        expected = sorted(candidates, key=lambda i, line=line: (-line[i], i))[:k]
        assert found[row] == expected + [-1] * (k - len(expected))


def test_seen_items_are_those_of_the_whole_history(dataset: SequenceDataset) -> None:
    rng = np.random.default_rng(1)
    row = rng.integers(0, len(dataset), 30)
    stop = dataset.offsets[row] + rng.integers(0, dataset.lengths[row] + 1)
    found = seen_items(dataset, row, stop)
    for i in range(len(row)):
        expected = set(dataset.items[dataset.offsets[row[i]] : stop[i]].tolist())
        assert set(np.flatnonzero(found[i]).tolist()) == expected

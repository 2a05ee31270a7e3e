"""A repeat bias counts the events of each window, the same in evaluation, lists and validation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.data.dataset import SequenceDataset
from recsys.evaluation.ranking import Positions, rank_model
from recsys.inference import LoadedRun, load
from recsys.inference.recommend import next_items
from recsys.training.validation import Validator
from tests.tiny_run import MAX_LENGTH, make_config, make_run, slow_scores


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    config = make_config(repeat_bias=True, temperature=0.5, auxiliary=[])
    _, folder = make_run(tmp_path_factory.mktemp("repeats"), config=config)
    run = load(folder, device="cpu")
    with torch.no_grad():
        run.model.heads["item_id"].repeats.weight.copy_(torch.tensor([-9.0, 4.0, -3.0, 2.0]))
    return run


@pytest.fixture(scope="module")
def dataset(run: LoadedRun) -> SequenceDataset:
    return SequenceDataset.load(Path(run.directory.path).parent / "dataset", "test")


def expected_scores(run: LoadedRun, dataset: SequenceDataset, row: int, before: int) -> np.ndarray:
    """Plain scores of one unpadded history, and what its items gain, counted one by one."""
    head = run.model.heads["item_id"]
    repeats, head.repeats = head.repeats, None
    scores = slow_scores(run.model, dataset, row, before, run.max_length)
    head.repeats = repeats
    stop = int(dataset.offsets[row]) + before
    start = max(int(dataset.offsets[row]), stop - run.max_length)
    gains = head.repeats.weight.tolist()
    seen = set()
    for age, item in enumerate(reversed(dataset.items[start:stop].tolist()), start=1):
        if item not in seen:
            scores[item] += (gains[0], gains[1], gains[2], gains[2], gains[3], gains[3])[age - 1] / 0.5
        seen.add(item)
    return scores


def test_evaluation_lists_and_validation_agree_with_counting(run: LoadedRun, dataset: SequenceDataset) -> None:
    assert run.max_length == MAX_LENGTH == 6
    positions = Positions.of(dataset)
    rows, before = positions.row.tolist(), positions.before.tolist()
    scores = np.stack([expected_scores(run, dataset, r, b) for r, b in zip(rows, before, strict=True)])
    own = scores[np.arange(len(scores)), positions.target]
    ranks = np.where(positions.target < 3, 0, (scores >= own[:, None] - 1e-4).sum(1))
    np.testing.assert_array_equal(rank_model(run.model, dataset, run.max_length, batch_size=7).ranks, ranks)
    ids, values, _ = next_items(run, dataset, positions.event, 5, row=positions.row, batch_size=7)
    np.testing.assert_allclose(values, -np.sort(-scores, axis=1)[:, :5], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(scores, ids, 1), values, atol=1e-4)
    first = positions.before <= MAX_LENGTH  # those of each sequence's first window
    found = Validator(dataset, run.max_length, 5)(run.model)
    assert found["recall@10"] == pytest.approx(((ranks > 0) & (ranks <= 10))[first].mean())

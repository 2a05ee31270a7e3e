"""The rank of what came next at every position, by a model or a baseline.

Ranks are those of `recsys.metrics`: 1 + other candidates whose score is at least the target's, 0 for a target that is
no candidate (unknown to training, or removed as seen).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from recsys.baselines import Baseline
from recsys.data.dataset import Array, SequenceDataset
from recsys.data.windows import evaluation_windows
from recsys.errors import RunError
from recsys.inference.scoring import (
    BLOCK,
    Seen,
    hidden_states,
    input_tables,
    score_blocks,
    seen_items,
    top_k,
    window_histories,
)
from recsys.metrics import ranks_from_scores
from recsys.recommender import Recommender
from recsys.runtime import progress

LIST = 10
"""Length of the lists that coverage and the like are taken from."""


@dataclass(frozen=True)
class Positions:
    """Every event with at least one event before it in its sequence, from `scored_from` on where the dataset has it.

    Attributes:
        event: ``[P]`` index into the dataset's flat arrays, ascending.
        row: ``[P]`` its sequence.
        before: ``[P]`` events before it in its sequence.
        is_last: ``[P]`` whether it ends its sequence.
        target: ``[P]`` its item id.
    """

    event: Array
    row: Array
    before: Array
    is_last: Array
    target: Array

    @classmethod
    def of(cls, dataset: SequenceDataset) -> Self:
        """All positions of a dataset."""
        scored = dataset.first_scored
        counts = np.maximum(dataset.lengths - scored, 0)
        row = np.repeat(np.arange(len(dataset)), counts)
        before = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts) + scored[row]
        event = dataset.offsets[row] + before
        return cls(event, row, before, event == dataset.offsets[row + 1] - 1, dataset.items[event].astype(np.int64))

    def __len__(self) -> int:
        return len(self.event)


@dataclass(frozen=True)
class Ranked:
    """What one ranker did at every position: ranks ``[P]`` and the ids of its top list ``[P, LIST]`` (-1: none)."""

    ranks: Array
    top: Array

    @classmethod
    def empty(cls, size: int) -> Self:
        """Room for `size` positions."""
        return cls(np.zeros(size, dtype=np.int64), np.full((size, LIST), -1, dtype=np.int32))


@torch.inference_mode()
def rank_model(
    model: Recommender,
    dataset: SequenceDataset,
    max_length: int,
    *,
    seen: Seen = "keep",
    batch_size: int = 256,
) -> Ranked:
    """Rank every position of `dataset` on exactly its newest `max_length` events.

    The first window of a sequence scores all positions whose whole history fits; each later one has its own window, and
    so has every position of a model that predicts from a hidden event behind a history.
    Nothing but hidden states of label positions reaches the output layer.

    Args:
        model: put into evaluation mode for the time of the call.
        dataset: sequences; a target with a reserved id is a miss.
        max_length: events before a position that the model reads.
        seen: `remove` takes the items of a position's whole history from the candidates.
        batch_size: windows at a time.

    Raises:
        InputError: the model's scores are not numbers.
    """
    positions = Positions.of(dataset)
    slot = np.full(len(dataset.items), -1, dtype=np.int64)
    slot[positions.event] = np.arange(len(positions))
    windows = evaluation_windows(dataset, max_length, "all" if model.rule.every_position else "each")
    assert windows.label_from is not None
    order = np.argsort(-windows.lengths, kind="stable")  # windows of one sequence stay together: see hidden_states
    ranked, visits = Ranked.empty(len(positions)), np.zeros(len(positions), dtype=np.int64)
    was_training = model.training
    model.eval()
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    tables = input_tables(model, dataset)
    for batch in progress(batches, "Evaluate", unit="batch"):
        start, length = windows.start[batch], windows.lengths[batch] - 1  # without the label-only event
        hidden = hidden_states(model, dataset, start, length, tables)  # [B, T, H]
        steps = np.arange(hidden.shape[1])[None, :]
        event = start[:, None] + steps + 1  # what follows each step, [B, T]
        labelled = (steps < length[:, None]) & (event >= windows.label_from[batch][:, None])
        slots = slot[event[labelled]]  # [P_b]
        visits[slots] += 1
        flat = torch.from_numpy(labelled.ravel().nonzero()[0]).to(hidden.device)  # [P_b]
        history = window_histories(model, dataset, start, length, flat)
        _rank_hidden(model, dataset, positions, slots, hidden.flatten(0, 1)[flat], history, seen, ranked)
    model.train(was_training)
    if (visits != 1).any():
        wrong = int((visits != 1).sum())
        raise RunError(f"evaluation: {wrong} of {len(positions)} positions were not scored exactly once")
    return ranked


def _rank_hidden(
    model: Recommender,
    dataset: SequenceDataset,
    positions: Positions,
    slots: Array,
    hidden: torch.Tensor,
    history: torch.Tensor | None,
    seen: Seen,
    ranked: Ranked,
) -> None:
    """Fill in `ranked` at `slots` from the hidden states there, ``[P_b, H]``, and what `window_histories` says."""
    reserved = dataset.schema.item().first_id
    for part, scores in score_blocks(model, hidden, history):
        at = slots[part]
        excluded = np.arange(scores.shape[1]) < reserved
        if seen == "remove":
            excluded = excluded | seen_items(dataset, positions.row[at], positions.event[at])
        ranked.ranks[at] = ranks_from_scores(scores.float().cpu().numpy(), positions.target[at], excluded)
        ranked.top[at] = top_k(scores, LIST, torch.from_numpy(excluded).to(scores.device)).cpu().numpy()


def rank_baseline(baseline: Baseline, dataset: SequenceDataset, *, seen: Seen = "keep") -> Ranked:
    """Rank every position of `dataset` with a fitted baseline, from the two items before it.

    Items that the baseline never saw are no candidates for it, so such a target is a miss.
    """
    positions = Positions.of(dataset)
    ranked = Ranked.empty(len(positions))
    items = dataset.items.astype(np.int64)
    last = items[positions.event - 1]
    previous = np.where(positions.before >= 2, items[positions.event - 2], 0)
    unseen = baseline.item_counts == 0  # [V], reserved ids among them
    size = max(1, BLOCK // len(unseen))
    blocks = range(0, len(positions), size)
    for at in progress(blocks, f"Evaluate {type(baseline).__name__}", total=len(blocks), unit="block"):
        block = slice(at, at + size)
        scores = baseline.scores(previous[block], last[block])
        excluded = unseen
        if seen == "remove":
            excluded = unseen | seen_items(dataset, positions.row[block], positions.event[block])
        ranked.ranks[block] = ranks_from_scores(scores, positions.target[block], excluded)
        ranked.top[block] = top_k(torch.from_numpy(scores), LIST, torch.from_numpy(excluded)).numpy()
    return ranked

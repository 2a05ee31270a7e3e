"""Scores of the next item after given histories: the one path that evaluation and recommendation share."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recsys.data.dataset import Array, SequenceDataset
from recsys.recommender import Recommender

Seen = Literal["keep", "remove"]
BLOCK = 2**22
"""Scores held at once: 16 MiB in float32."""
TABLE_ITEMS = 2**18
"""Most items whose input tables are finished beforehand: they take N * W numbers an item (see `recsys.nn.fusion`)."""


def device_of(model: Recommender) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def input_tables(model: Recommender, dataset: SequenceDataset) -> list[Tensor] | None:
    """What all batches of a run share: every item's streams, encoded and projected for the fusion.

    None where they would cost more than they save: fewer events than items, or more items than `TABLE_ITEMS`.
    """
    items = dataset.schema.item().num_ids()
    return model.inputs.tables() if items <= min(len(dataset.items), TABLE_ITEMS) else None


def hidden_states(
    model: Recommender, dataset: SequenceDataset, start: Array, length: Array, tables: Sequence[Tensor] | None = None
) -> Tensor:
    """Hidden states ``[B, T, H]`` of B windows of events, T the longest length.

    That at ``length - 1`` predicts what follows a window. Where `model.rule.every_position`, those before it predict
    what follows the events before it; of any other model they are undefined.

    What a timestep's columns become before the backbone depends on that event alone, so it is computed once for each
    distinct event: windows that slide over a sequence share nearly all of theirs.

    Args:
        model: in evaluation mode.
        dataset: where the windows are cut from.
        start: ``[B]`` first event of each window, counted over the dataset's flat arrays.
        length: ``[B]`` events of each window, at least 1.
        tables: what `input_tables` gave for the model; the states are the same without.
    """
    device = device_of(model)
    steps = np.arange(int(length.max()))
    index = start[:, None] + np.minimum(steps[None, :], length[:, None] - 1)  # [B, T]
    distinct, place = np.unique(index, return_inverse=True)  # [U], [B, T]
    columns = {name: torch.from_numpy(values).to(device) for name, values in dataset.events(distinct).items()}
    vectors = model.inputs(columns, tables)[0]  # [U, H]
    gathered = vectors[torch.from_numpy(place.reshape(index.shape)).to(device)]  # [B, T, H]
    times = None if dataset.times is None else torch.from_numpy(dataset.times[index]).to(device)  # [B, T]
    return model.predictive(gathered, torch.from_numpy(length.astype(np.int64)).to(device), times)


def window_histories(
    model: Recommender, dataset: SequenceDataset, start: Array, length: Array, positions: Tensor
) -> Tensor | None:
    """What `Recommender.item_scores` wants of flat `positions` ``[P]`` of the windows that `hidden_states` had."""
    if not model.scores_repeats:
        return None
    steps = np.arange(int(length.max()))
    index = start[:, None] + np.minimum(steps[None, :], length[:, None] - 1)  # [B, T]
    items = torch.from_numpy(dataset.items[index].astype(np.int64)).to(device_of(model))
    return model.histories(items, positions)


def score_blocks(model: Recommender, hidden: Tensor, history: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Scores ``[n, V]`` of hidden states ``[P, H]`` in blocks of bounded size; reserved ids are -inf.

    history: `window_histories` of the same positions.
    """
    size = max(1, BLOCK // model.heads[model.item].table(model.inputs.item_table()).shape[0])  # type: ignore[operator]
    for at in range(0, len(hidden), size):
        part = slice(at, at + size)
        yield part, model.item_scores(hidden[part], None if history is None else history[part])


def top_k(scores: Tensor, k: int, excluded: Tensor | None = None) -> Tensor:
    """Ids ``[P, k]`` of the highest scores ``[P, V]``, best first, equal scores by lowest id.

    `excluded` (bool ``[V]`` or ``[P, V]``) and items of score -inf are no candidates; where fewer than k are left, the
    rest of a list is -1.
    """
    width = min(k, scores.shape[1])
    if excluded is not None:
        scores = scores.masked_fill(excluded, float("-inf"))
    lowest = scores.topk(width, dim=1).values[:, -1:]  # [P, 1]
    above, equal = scores > lowest, scores == lowest
    room = width - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1) <= room))  # exactly `width` in every row
    ids = chosen.nonzero()[:, 1].view(len(scores), width)  # ascending, so a stable sort puts lower ids first
    values = scores.gather(1, ids)
    values, order = values.sort(dim=1, descending=True, stable=True)
    ids = ids.gather(1, order).masked_fill(values == float("-inf"), -1)
    return torch.nn.functional.pad(ids, (0, k - width), value=-1)


def seen_items(dataset: SequenceDataset, row: Array, stop: Array) -> Array:
    """Bool ``[P, V]``: the items among the events of sequence ``row [P]`` before the flat index ``stop [P]``.

    The whole history counts, also where it is longer than what the model reads.
    """
    column = dataset.schema.item()
    rows, place = np.unique(row, return_inverse=True)
    first = np.full((len(rows), column.first_id + column.num_values()), len(dataset.items), dtype=np.int64)
    for i, r in enumerate(rows):
        begin = int(dataset.offsets[r])
        ids, at = np.unique(dataset.items[begin : dataset.offsets[r + 1]], return_index=True)
        first[i, ids] = begin + at
    seen: Array = first[place] < stop[:, None]
    return seen

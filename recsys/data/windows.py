"""Which windows of the sequences an epoch trains on, and which an evaluation scores."""

import numpy as np

from recsys.data.dataset import Array, SequenceDataset, Windows


def training_windows(dataset: SequenceDataset, max_length: int, mode: str, rng: np.random.Generator) -> Windows:
    """Windows of one epoch: at most `max_length` events and the one after them, which is label only.

    Mode `random` lays windows end to end over each sequence with a random phase, so that in every epoch each event
    (but the windows' first ones) is a label once, and over epochs with every amount of context. Mode `newest` takes
    the last window of each sequence. Sequences of one event have no label and are left out.
    """
    rows = np.flatnonzero(dataset.lengths >= 2)
    begin, end = dataset.offsets[rows], dataset.offsets[rows + 1]
    if mode == "newest":
        return Windows(rows, np.maximum(begin, end - max_length - 1), end)
    lengths = end - begin
    # A window's label-only event is the next window's first input, so windows start max_length apart.
    phase = np.where(lengths > max_length + 1, rng.integers(1, max_length + 1, size=len(rows)), max_length)
    pieces = 1 + np.maximum(0, -(-(lengths - 1 - phase) // max_length))
    which = np.repeat(np.arange(len(rows)), pieces)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    edge = phase[which] + (nth - 1) * max_length  # where the window starts, relative to its sequence
    start = begin[which] + np.maximum(edge, 0)
    stop = np.minimum(begin[which] + edge + max_length + 1, end[which])
    return Windows(rows[which], start, stop)


def evaluation_windows(dataset: SequenceDataset, max_length: int, positions: str) -> tuple[Windows, Array]:
    """Windows under which every position is scored on exactly its newest `max_length` events.

    Returns the windows and, for each, whether all of its positions count (else its last one only). Every event but a
    sequence's first is a label (`positions` "all"), or every sequence's last event ("last"). The first window covers
    the positions whose whole history fits; each later position needs one of its own.
    """
    rows = np.flatnonzero(dataset.lengths >= 2)
    begin, end = dataset.offsets[rows], dataset.offsets[rows + 1]
    if positions == "last":
        return Windows(rows, np.maximum(begin, end - 1 - max_length), end), np.zeros(len(rows), dtype=bool)
    first = Windows(rows, begin, np.minimum(end, begin + max_length + 1))
    more = np.maximum(end - begin - (max_length + 1), 0)
    which = np.repeat(np.arange(len(rows)), more)
    nth = 1 + np.arange(len(which)) - np.repeat(np.cumsum(more) - more, more)
    start = begin[which] + nth
    windows = Windows(
        np.concatenate((first.row, rows[which])),
        np.concatenate((first.start, start)),
        np.concatenate((first.stop, start + max_length + 1)),
    )
    return windows, np.arange(len(windows)) < len(first)


def epoch_batches(
    windows: Windows,
    rng: np.random.Generator,
    batch_size: int,
    batch_tokens: int | None = None,
    pool: int = 64,
) -> list[Array]:
    """Shuffled windows cut into batches of similar length (little padding), in random order.

    A batch holds at most `batch_size` windows and, if given, about `batch_tokens` events, so that steps weigh events
    alike. Windows are sorted by length within pools of `pool` batches only, so batches differ from epoch to epoch.
    """
    order = rng.permutation(len(windows))
    lengths = windows.lengths
    mean = max(1.0, float(lengths.mean())) if len(windows) else 1.0
    usual = batch_size if batch_tokens is None else max(1, min(batch_size, int(batch_tokens / mean)))
    batches: list[Array] = []
    for at in range(0, len(order), pool * usual):
        chosen = order[at : at + pool * usual]
        chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
        batches += _cut(chosen, lengths[chosen], batch_size, batch_tokens)
    return [batches[i] for i in rng.permutation(len(batches))]


def _cut(chosen: Array, lengths: Array, batch_size: int, batch_tokens: int | None) -> list[Array]:
    if batch_tokens is None:
        return [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
    batches, at = [], 0
    while at < len(chosen):
        filled = np.cumsum(lengths[at : at + batch_size])
        size = max(1, int(np.searchsorted(filled, batch_tokens, side="right")))
        batches.append(chosen[at : at + size])
        at += size
    return batches

"""Which windows of the sequences an epoch trains on, and which an evaluation scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from recsys.data.dataset import Array, SequenceDataset, Windows


@dataclass(frozen=True)
class EpochWindows:
    """The windows of one epoch, made when they are asked for: kept are a few numbers a sequence, none a window.

    Window n of a sequence labels its events from ``phase + (n - 1) * max_length + 1`` to ``phase + n * max_length``.

    Attributes:
        offsets: those of the dataset.
        rows: ``[R]`` the sequences that have a label.
        first: ``[R + 1]`` number of each sequence's first window.
        phase: ``[R]`` labels in each sequence's first window.
        max_length: events of a window, its label-only one not counted.
        events: sum of the windows' lengths.
    """

    offsets: Array
    rows: Array
    first: Array
    phase: Array
    max_length: int
    events: int

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, chosen: Array | slice) -> Windows:
        numbers = np.arange(len(self))[chosen] if isinstance(chosen, slice) else chosen
        which = np.searchsorted(self.first, numbers, side="right") - 1
        rows = self.rows[which]
        begin, end = self.offsets[rows], self.offsets[rows + 1]
        # A window's label-only event is the next window's first input, so windows start max_length apart.
        edge = self.phase[which] + (numbers - self.first[which] - 1) * self.max_length
        start = begin + np.maximum(edge, 0)
        return Windows(rows, start, np.minimum(begin + edge + self.max_length + 1, end))


def training_windows(dataset: SequenceDataset, max_length: int, mode: str, rng: np.random.Generator) -> EpochWindows:
    """Windows of one epoch: at most `max_length` events and the one after them, which is label only.

    Mode `random` lays windows end to end over each sequence with a random phase, so that in every epoch each event
    (but the windows' first ones) is a label once, and over epochs with every amount of context. Mode `newest` takes
    the last window of each sequence. Sequences of one event have no label and are left out.
    """
    lengths = dataset.lengths
    rows = np.flatnonzero(lengths >= 2)
    lengths = lengths[rows]
    if mode == "newest":
        events = int(np.minimum(lengths, max_length + 1).sum())
        return EpochWindows(dataset.offsets, rows, np.arange(len(rows) + 1), lengths - 1, max_length, events)
    phase = np.where(lengths > max_length + 1, rng.integers(1, max_length + 1, size=len(rows)), max_length)
    more = np.maximum(0, -(-(lengths - 1 - phase) // max_length))
    first = np.concatenate(([0], np.cumsum(1 + more)))
    events = int(lengths.sum() + more.sum())  # two windows in a row share one event
    return EpochWindows(dataset.offsets, rows, first, phase, max_length, events)


def evaluation_windows(dataset: SequenceDataset, max_length: int, positions: str) -> Windows:
    """Windows under which positions are scored on exactly their newest `max_length` events.

    Which of a window's events count as labels stands in `label_from`. `positions` is one of

    - `all`: every event that is scored (see `SequenceDataset.first_scored`). The first window of a sequence holds the
      labels whose whole history fits, or else the first label alone; each later label needs a window of its own.
    - `first`: these first windows only, the labels that come cheap.
    - `each`: the labels of `all`, every one in a window of its own (models that look both ways).
    - `last`: every sequence's last event, where it is scored.
    """
    scored = dataset.first_scored
    lengths = dataset.lengths
    rows = np.flatnonzero(lengths > scored)
    begin, end = dataset.offsets[rows], dataset.offsets[rows + 1]
    if positions == "last":
        return Windows(rows, np.maximum(begin, end - 1 - max_length), end, end - 1)
    if positions == "each":
        counts = lengths[rows] - scored[rows]
        which = np.repeat(np.arange(len(rows)), counts)
        event = (
            begin[which] + scored[rows][which] + np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        )
        return Windows(rows[which], np.maximum(begin[which], event - max_length), event + 1, event)
    label = begin + scored[rows]
    start = np.maximum(begin, label - max_length)
    first = Windows(rows, start, np.minimum(end, start + max_length + 1), label)
    if positions == "first":
        return first
    more = end - first.stop
    which = np.repeat(np.arange(len(rows)), more)
    event = np.arange(len(which)) + np.repeat(first.stop - (np.cumsum(more) - more), more)
    return Windows(
        np.concatenate((first.row, rows[which])),
        np.concatenate((first.start, event - max_length)),
        np.concatenate((first.stop, event + 1)),
        np.concatenate((first.label_from, event)) if first.label_from is not None else None,
    )


@dataclass(frozen=True)
class Batches(Sequence[Array]):
    """Numbers of the windows of each batch.

    Attributes:
        order: ``[W]`` windows, those of a batch side by side.
        edges: where batches start in `order`, and its end.
        turn: which batch comes when.
    """

    order: Array
    edges: Array
    turn: Array

    def __len__(self) -> int:
        return len(self.turn)

    @overload
    def __getitem__(self, index: int) -> Array: ...

    @overload
    def __getitem__(self, index: slice) -> "Batches": ...

    def __getitem__(self, index: int | slice) -> "Array | Batches":
        if isinstance(index, slice):
            return Batches(self.order, self.edges, self.turn[index])
        at = self.turn[index]
        chosen: Array = self.order[self.edges[at] : self.edges[at + 1]]
        return chosen


def epoch_batches(
    windows: EpochWindows,
    rng: np.random.Generator,
    batch_size: int,
    batch_tokens: int | None = None,
    pool: int = 64,
) -> Batches:
    """Shuffled windows cut into batches of similar length (little padding), in random order.

    A batch holds at most `batch_size` windows and, if given, about `batch_tokens` events, so that steps weigh events
    alike. Windows are sorted by length within pools of `pool` batches only, so batches differ from epoch to epoch.
    Memory: 4 bytes a window (8 from two billion windows on), 16 a batch.
    """
    count = len(windows)
    order = rng.permutation(count).astype(np.int32 if count < 2**31 else np.int64)
    mean = max(1.0, windows.events / count) if count else 1.0
    usual = batch_size if batch_tokens is None else max(1, min(batch_size, int(batch_tokens / mean)))
    sizes: list[Array] = []
    for at in range(0, count, pool * usual):
        chosen = order[at : at + pool * usual]
        lengths = windows[chosen].lengths
        ranking = np.argsort(lengths, kind="stable")
        order[at : at + pool * usual] = chosen[ranking]
        sizes.append(_cut(lengths[ranking], batch_size, batch_tokens))
    edges = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *sizes]))
    return Batches(order, edges, rng.permutation(len(edges) - 1))


def count_batches(num_windows: int, batch_size: int) -> int:
    """How many batches `epoch_batches` makes where batches are limited by `batch_size` alone."""
    return -(-num_windows // batch_size)


def _cut(lengths: Array, batch_size: int, batch_tokens: int | None) -> Array:
    """Windows of each batch, over windows of rising `lengths`."""
    if batch_tokens is None:
        starts = np.arange(0, len(lengths), batch_size)
        return np.diff(np.append(starts, len(lengths)))
    sizes, at = [], 0
    while at < len(lengths):
        filled = np.cumsum(lengths[at : at + batch_size])
        sizes.append(max(1, int(np.searchsorted(filled, batch_tokens, side="right"))))
        at += sizes[-1]
    return np.array(sizes, dtype=np.int64)

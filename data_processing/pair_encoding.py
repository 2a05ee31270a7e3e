"""Byte-pair encoding over sequences of symbols, with pair counts that change only around a merge.

Symbols are int32; 0 ends a session or stands for what never merges. Sequences lie in blocks of about a million symbols,
each beginning and ending with 0, so that a merge works inside the processor's cache: 4 bytes a symbol in all.

A pair's count is the number of merges that it would give: of X X in a run of n, n // 2. Counts of standing pairs never
grow, so pairs below the threshold are forgotten, and a stale entry of the heap can only be too high.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from recsys.cleaning.workflows import BORDER, find_pattern, replace_pattern

BLOCK = 1 << 20  # symbols
Pair = tuple[int, int]
Text = tuple[str, ...]


@dataclass(frozen=True)
class Merge:
    """A pair of symbols, by what they stand for, and how often it was merged."""

    left: Text
    right: Text
    count: int


def least_count(min_count: int, min_share: float, pairs: int) -> int:
    """The count from which a pair merges: at least `min_count`, and at least `min_share` of `pairs`, exactly."""
    return max(min_count, math.ceil(Fraction(str(min_share)) * pairs))


def make_blocks(pieces: Iterable[np.ndarray], size: int = BLOCK) -> Iterator[np.ndarray]:
    """Join sequences [n] (each of whole sessions, ended by 0) to blocks of about `size` that begin and end with 0."""
    held: list[np.ndarray] = []
    length = 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length >= size:
            yield _block(held)
            held, length = [], 0
    if length:
        yield _block(held)


def _block(pieces: Sequence[np.ndarray]) -> np.ndarray:
    block = np.concatenate([[BORDER], *pieces, [BORDER]]).astype(np.int32)
    again = (block[1:] == BORDER) & (block[:-1] == BORDER)  # borders in a row say no more than one
    return block[np.append(True, ~again)]


class PairEncoder:
    """Merges the most frequent pair again and again; ties go to the first by text.

    Args:
        blocks: see `make_blocks`; changed in place.
        texts: what each symbol stands for; ``texts[0]`` is not read.
        threshold: the smallest count that merges (`least_count`).
        max_length: commands in a merged symbol, at most.
        collapse: equal merged symbols in a row become one.
    """

    def __init__(
        self, blocks: list[np.ndarray], texts: Sequence[Text], *, threshold: int, max_length: int, collapse: bool
    ) -> None:
        self.blocks, self.texts = blocks, list(texts)
        self.threshold, self.max_length, self.collapse = max(1, threshold), max_length, collapse
        self._known = set(self.texts[1:])
        self._counts: dict[Pair, int] | None = None  # of pairs at or above the threshold
        self._heap: list[tuple[int, Text, Text, Pair]] = []

    def merge_list(self, pattern: Sequence[int]) -> int:
        """Make a fixed list of symbols one symbol, before anything is learned; returns how often it occurs."""
        if self._counts is not None:
            raise RuntimeError("fixed lists come before learned merges")
        new = self._add(tuple(text for symbol in pattern for text in self.texts[symbol]))
        count = 0
        for number, block in enumerate(self.blocks):
            starts = find_pattern(block, pattern)
            count += len(starts)
            if len(starts):
                dropped = replace_pattern(block, starts, len(pattern), new, self.collapse)
                self.blocks[number] = np.delete(block, dropped)
        return count

    def learn(self, merges: int) -> Iterator[Merge]:
        """Yield merges, best first, until `merges` are made or no pair reaches the threshold."""
        if self._counts is None:
            self._counts = {}
            for pair, count in self._count_all():
                self._offer(pair, count)
        for _ in range(merges):
            found = self._best()
            if found is None:
                return
            (left, right), count = found
            self._merge(left, right, self._add(self.texts[left] + self.texts[right]))
            yield Merge(self.texts[left], self.texts[right], count)

    def symbol_counts(self) -> np.ndarray:
        """[symbols] how often each symbol stands in the sequences now."""
        counts = np.zeros(len(self.texts), dtype=np.int64)
        for block in self.blocks:
            counts += np.bincount(block, minlength=len(counts))
        return counts

    def _add(self, text: Text) -> int:
        self.texts.append(text)
        self._known.add(text)
        return len(self.texts) - 1

    def _offer(self, pair: Pair, count: int) -> None:
        """Remember a pair that may merge."""
        left, right = (self.texts[symbol] for symbol in pair)
        if count >= self.threshold and len(left) + len(right) <= self.max_length:
            self._table[pair] = count
            heapq.heappush(self._heap, (-count, left, right, pair))

    @property
    def _table(self) -> dict[Pair, int]:
        if self._counts is None:
            raise RuntimeError("pairs were not counted yet")
        return self._counts

    def _best(self) -> tuple[Pair, int] | None:
        while self._heap:
            negative, left, right, pair = heapq.heappop(self._heap)
            count = self._table.get(pair, 0)
            if left + right in self._known:  # its commands are a workflow already: the pair stays apart
                self._table.pop(pair, None)
            elif count == -negative:
                return pair, count
            elif count >= self.threshold:
                heapq.heappush(self._heap, (-count, left, right, pair))
            else:
                self._table.pop(pair, None)
        return None

    def _count_all(self) -> Iterator[tuple[Pair, int]]:
        size = len(self.texts)
        keys, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        equal = np.zeros(size, dtype=np.int64)
        for block in self.blocks:
            left, right = block[:-1], block[1:]
            wanted = (left != BORDER) & (right != BORDER) & (left != right)
            found, number = np.unique(left[wanted].astype(np.int64) * size + right[wanted], return_counts=True)
            keys, where = np.unique(np.concatenate([keys, found]), return_inverse=True)
            merged = np.zeros(len(keys), dtype=np.int64)
            np.add.at(merged, where, np.concatenate([counts, number]))
            counts = merged
            equal += _equal_counts(block, size)
        for key, count in zip(keys[counts >= self.threshold], counts[counts >= self.threshold], strict=True):
            yield (int(key) // size, int(key) % size), int(count)
        for symbol in np.flatnonzero(equal >= self.threshold).tolist():
            yield (symbol, symbol), int(equal[symbol])

    def _merge(self, left: int, right: int, new: int) -> None:
        changes = _Changes.of(len(self.texts))
        for number, block in enumerate(self.blocks):
            starts = find_pattern(block, (left, right))
            if len(starts):
                self.blocks[number] = _merge_in(block, starts, new, self.collapse, changes)
        for other in np.flatnonzero(changes.lost_left).tolist():
            self._lose((other, left), int(changes.lost_left[other]))
        for other in np.flatnonzero(changes.lost_right).tolist():
            self._lose((right, other), int(changes.lost_right[other]))
        self._table.pop((left, right), None)
        for symbol in {left, right}:
            if (symbol, symbol) in self._table:
                self._table[symbol, symbol] = sum(_equal_count(block, symbol) for block in self.blocks)
        for other in np.flatnonzero(changes.gained_left >= self.threshold).tolist():
            self._offer((other, new), int(changes.gained_left[other]))
        for other in np.flatnonzero(changes.gained_right >= self.threshold).tolist():
            self._offer((new, other), int(changes.gained_right[other]))
        self._offer((new, new), changes.equal)

    def _lose(self, pair: Pair, count: int) -> None:
        if pair[0] != pair[1] and pair in self._table:
            self._table[pair] -= count


@dataclass
class _Changes:
    """What one merge does to the counts, by the other symbol of the pair; equal pairs of old symbols are recounted."""

    lost_left: np.ndarray  # (other, left)
    lost_right: np.ndarray  # (right, other)
    gained_left: np.ndarray  # (other, new)
    gained_right: np.ndarray  # (new, other)
    equal: int = 0  # (new, new)

    @classmethod
    def of(cls, size: int) -> "_Changes":
        return cls(*np.zeros((4, size), dtype=np.int64))


def _merge_in(block: np.ndarray, starts: np.ndarray, new: int, collapse: bool, changes: _Changes) -> np.ndarray:
    """Merge the pairs at `starts`, note what that changes, and return the shorter block."""
    size = len(changes.lost_left)
    joined = np.append(False, np.diff(starts) == 2)  # the pair before touches this one: their link is its right one
    changes.lost_left += np.bincount(block[starts[~joined] - 1], minlength=size)
    changes.lost_right += np.bincount(block[starts + 2], minlength=size)
    dropped = replace_pattern(block, starts, 2, new, collapse)
    shorter = np.delete(block, dropped)
    kept = starts[~joined] if collapse else starts
    places = kept - np.searchsorted(dropped, kept)
    for gained, others in ((changes.gained_left, shorter[places - 1]), (changes.gained_right, shorter[places + 1])):
        gained += np.bincount(others[(others != new) & (others != BORDER)], minlength=size)
    if not collapse:
        changes.equal += int((_run_lengths(np.diff(places) == 1) + 1 >> 1).sum())
    return shorter


def _run_lengths(marked: np.ndarray) -> np.ndarray:
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    return edges[1::2] - edges[::2]


def _equal_counts(block: np.ndarray, size: int) -> np.ndarray:
    """[size]: how often each symbol pairs with itself, no two pairs overlapping."""
    equal = (block[:-1] == block[1:]) & (block[:-1] != BORDER)
    # Runs of two symbols never touch: between them stands an unequal pair.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
    first, length = edges[::2], edges[1::2] - edges[::2]
    return np.bincount(block[first], weights=(length + 1) >> 1, minlength=size).astype(np.int64)


def _equal_count(block: np.ndarray, symbol: int) -> int:
    return int((_run_lengths(np.diff(np.flatnonzero(block == symbol)) == 1) + 1 >> 1).sum())

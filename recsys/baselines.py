"""Counting baselines that stand beside every model: popularity, Markov-1, Markov-2, last item.

All are fitted on ragged sequences, ``values [N]`` item ids and ``offsets [S + 1]`` (sequence s is
``values[offsets[s]:offsets[s + 1]]``), and score the next item from the two ids before it. Ids are the
schema's: those below `first_id` are reserved and get the score -inf. As context every id is a symbol like
any other, out-of-vocabulary too, and 0 (padding) stands for "nothing before".
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, InputError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Baseline(ABC):
    """Common part: fitting of item counts, checks. Subclasses give `_fit` and `_scores`.

    first_id: first id that can be recommended (``first_id`` of the item column in the schema).
    """

    def __init__(self, first_id: int = 3) -> None:
        if first_id < 1:
            raise ConfigError(f"first_id ({first_id}) must be at least 1: id 0 is padding")
        self.first_id = first_id
        self.num_items = 0

    def fit(self, values: npt.ArrayLike, offsets: npt.ArrayLike, num_items: int) -> Self:
        """Count on ``values [N]``, ``offsets [S + 1]``; num_items: V, reserved ids included.

        Events with a reserved id are contexts, never targets. Raises InputError where the input is no
        ragged array of ids below V, or holds no event with an item that can be recommended.
        """
        ids, bounds = _ragged(values, offsets, num_items)
        if num_items <= self.first_id:
            raise InputError(f"num_items ({num_items}) must be above first_id ({self.first_id})")
        known = ids >= self.first_id
        self._count(np.bincount(ids[known], minlength=num_items).astype(np.float64))
        previous, last = _contexts(ids, bounds)
        self._fit(previous[known], last[known], ids[known])
        return self

    def _count(self, counts: Floats) -> None:
        """Take over how often each id is a target ``[V]``."""
        if not counts.any():
            raise InputError(f"no event has an item id of at least {self.first_id}: nothing to count")
        self.num_items = len(counts)
        self.item_counts = counts  # [V]
        self.unigram = counts / counts.sum()  # [V]

    def scores(self, previous: npt.ArrayLike, last: npt.ArrayLike) -> Floats:
        """Scores of the item that follows `previous`, `last` (``[P]`` ids, oldest first)  ->  ``[P, V]``.

        Higher is better; reserved ids have -inf. The result is dense: give many positions in blocks.
        """
        before, latest = self._context(previous), self._context(last)
        if before.shape != latest.shape:
            raise InputError(f"previous {list(before.shape)} and last {list(latest.shape)} must both be [P]")
        scores = self._scores(before, latest)
        scores[:, : self.first_id] = -np.inf
        return scores

    def _fitted(self) -> int:
        if not self.num_items:
            raise InputError(f"{type(self).__name__} is not fitted; call fit first")
        return self.num_items

    def _context(self, ids: npt.ArrayLike) -> Ints:
        array = np.asarray(ids, dtype=np.int64)
        if array.ndim != 1 or (array.size and (int(array.min()) < 0 or int(array.max()) >= self._fitted())):
            raise InputError(f"context ids must be [P] integers in 0 .. {self._fitted() - 1}")
        return array

    @abstractmethod
    def _fit(self, previous: Ints, last: Ints, target: Ints) -> None:
        """Count transitions from the two ids before ``[M]`` to the target ``[M]``."""

    @abstractmethod
    def _scores(self, previous: Ints, last: Ints) -> Floats:
        """``[P]``, ``[P]``  ->  ``[P, V]``, a fresh array."""


class CountBaseline(Baseline):
    """A baseline that needs no more of the training data than how often each item occurs."""

    def fit_counts(self, counts: npt.ArrayLike) -> Self:
        """As `fit`, from how often each id occurs, ``[V]``; what is counted of reserved ids is left out.

        Raises InputError where a count is negative or not finite, or none is left.
        """
        values = np.array(counts, dtype=np.float64)
        if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any():
            raise InputError(f"counts {list(values.shape)} must be [V] finite numbers of at least 0")
        values[: self.first_id] = 0.0
        self._count(values)
        return self

    def _fit(self, previous: Ints, last: Ints, target: Ints) -> None:
        """The item counts are all there is to know."""


class Popularity(CountBaseline):
    """Share of an item in all train events, whatever came before."""

    def _scores(self, previous: Ints, last: Ints) -> Floats:
        return np.tile(self.unigram, (len(last), 1))


class LastItem(CountBaseline):
    """The last item again, then the others by popularity."""

    def _scores(self, previous: Ints, last: Ints) -> Floats:
        scores = np.tile(self.unigram, (len(last), 1))
        scores[np.arange(len(last)), last] = 2.0  # above every share
        return scores


class Markov1(Baseline):
    r"""First-order transitions, smoothed additively towards popularity.

    :math:`s_1(c | b) = (n(b, c) + k\, s_0(c)) / (n(b) + k)` with :math:`s_0` the popularity (a Dirichlet
    prior of mass k; MacKay and Peto 1995). A context that train never saw gives popularity.

    k: weight of the lower order, in events. The default had the best NDCG@10 of Markov-2 on validation
        developers of the Visual Studio logs, of 0.3, 1, 3, 10, 30, 100; absolute discounting and
        Witten-Bell weights came within 0.001 of that NDCG.
    """

    def __init__(self, first_id: int = 3, k: float = 3.0) -> None:
        super().__init__(first_id)
        if not (math.isfinite(k) and k > 0):
            raise ConfigError(f"k ({k}) must be a finite number above 0")
        self.k = k

    def _fit(self, previous: Ints, last: Ints, target: Ints) -> None:
        self.first = _Transitions.of(last, target)

    def _scores(self, previous: Ints, last: Ints) -> Floats:
        return self.first.smooth(last, np.tile(self.unigram, (len(last), 1)), self.k)


class Markov2(Markov1):
    r"""Second-order transitions that back off to Markov-1, and that to popularity.

    :math:`s_2(c | a, b) = (n(a, b, c) + k\, s_1(c | b)) / (n(a, b) + k)`, with :math:`s_1` as in `Markov1`. A
    pair that train never saw gives exactly Markov-1's scores. An event with only one before it has padding
    for `a`.
    """

    def _fit(self, previous: Ints, last: Ints, target: Ints) -> None:
        super()._fit(previous, last, target)
        self.second = _Transitions.of(previous * self.num_items + last, target)

    def _scores(self, previous: Ints, last: Ints) -> Floats:
        return self.second.smooth(previous * self.num_items + last, super()._scores(previous, last), self.k)


class _Transitions(NamedTuple):
    """Counts of (context, item) in rows compressed by context (CSR)."""

    contexts: Ints  # [C], ascending
    starts: Ints  # [C + 1], into items and counts
    items: Ints  # [Z]
    counts: Floats  # [Z]
    totals: Floats  # [C]

    @classmethod
    def of(cls, contexts: Ints, items: Ints) -> "_Transitions":
        """Count pairs of context ``[M]`` and item ``[M]``."""
        names, inverse = np.unique(contexts, return_inverse=True)
        base = int(items.max()) + 1
        keys, counts = np.unique(inverse * base + items, return_counts=True)
        starts = np.searchsorted(keys // base, np.arange(len(names) + 1)).astype(np.int64)
        totals = np.bincount(inverse, minlength=len(names)).astype(np.float64)
        return cls(names, starts, keys % base, counts.astype(np.float64), totals)

    def smooth(self, contexts: Ints, lower: Floats, k: float) -> Floats:
        """``(counts + k * lower) / (total + k)`` for contexts ``[P]``, in place of ``lower [P, V]``."""
        at = np.minimum(np.searchsorted(self.contexts, contexts), len(self.contexts) - 1)  # [P]
        rows = np.flatnonzero(self.contexts[at] == contexts)  # contexts that train saw
        at = at[rows]
        scale = 1.0 / (self.totals[at] + k)
        lower[rows] *= (k * scale)[:, None]
        lengths = self.starts[at + 1] - self.starts[at]
        # Indices of all stored entries of these rows: start of the row plus a running number within it.
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        entry = np.repeat(self.starts[at], lengths) + within
        lower[np.repeat(rows, lengths), self.items[entry]] += self.counts[entry] * np.repeat(scale, lengths)
        return lower


def _ragged(values: npt.ArrayLike, offsets: npt.ArrayLike, num_items: int) -> tuple[Ints, Ints]:
    """Checked int64 views of a ragged array of ids."""
    ids, bounds = np.asarray(values), np.asarray(offsets)
    for name, array in (("values", ids), ("offsets", bounds)):
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise InputError(f"{name} {list(array.shape)} {array.dtype} must be a flat array of integers")
    if not bounds.size or bounds[0] != 0 or bounds[-1] != len(ids) or (np.diff(bounds) < 0).any():
        raise InputError(f"offsets must rise from 0 to the number of values ({len(ids)})")
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= num_items):
        bad = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
        raise InputError(f"item id {bad} is out of range; ids must lie in 0 .. {num_items - 1}")
    return ids.astype(np.int64, copy=False), bounds.astype(np.int64, copy=False)


def _contexts(ids: Ints, bounds: Ints) -> tuple[Ints, Ints]:
    """The id two before and the id one before each event ``[N]``, 0 where its sequence has none."""
    place = np.arange(len(ids)) - np.repeat(bounds[:-1], np.diff(bounds))
    last, previous = np.zeros_like(ids), np.zeros_like(ids)
    last[1:], previous[2:] = ids[:-1], ids[:-2]
    return np.where(place >= 2, previous, 0), np.where(place >= 1, last, 0)

"""Coverage: groups change places until every split holds the items that it should, as far as that goes.

Group sizes and the random draw stay as they are but for these swaps, so that the splits stay alike.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int64]
CANDIDATES, PARTNERS = 16, 8  # swaps tried for one missing item
COSTS = np.array([10, 1, 2])  # of an item that train, validation, test lack: untrained it can only be missed


@dataclass(frozen=True)
class Jagged:
    """Lists of numbers of any lengths."""

    values: Array
    ends: Array

    @classmethod
    def of(cls, values: Array, sizes: Array) -> "Jagged":
        """`values` cut into lists of `sizes`."""
        return cls(values.astype(np.int64), np.cumsum(sizes, dtype=np.int64))

    @property
    def sizes(self) -> Array:
        """[lists] lengths."""
        return np.diff(self.ends, prepend=0)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: int) -> Array:
        return self.values[self.ends[place - 1] if place else 0 : self.ends[place]]


def count_groups(groups_of: Jagged, split: Array) -> Array:
    """[items, 3]: groups of each split that hold an item. `groups_of`: the groups of each item."""
    flat = np.repeat(np.arange(len(groups_of)), groups_of.sizes) * 3 + split[groups_of.values]
    return np.bincount(flat, minlength=3 * len(groups_of)).reshape(-1, 3)


def cover(
    items_of: Jagged,
    groups_of: Jagged,
    need: npt.NDArray[np.bool_],
    split: Array,
    order: Array,
) -> Array:
    """Swap groups of `order` between splits, sizes unchanged, while that lowers the cost of missing items.

    The rarest items come first, having the fewest ways.

    Args:
        items_of: the items of each group, each once.
        groups_of: the groups of each item.
        need: ``[items, 3]`` which split should hold an item.
        split: ``[groups]`` codes 0 (train), 1 (validation), 2 (test); changed in place and returned.
        order: the groups that may move; ties go to the earlier ones.
    """
    swaps = _Swaps(items_of, groups_of, need, split, count_groups(groups_of, split), order)
    for item in np.argsort(groups_of.sizes, kind="stable").tolist():
        for code in range(3):
            if need[item, code] and not swaps.counts[item, code]:
                swaps.bring(item, code)
    return split


@dataclass
class _Swaps:
    items_of: Jagged
    groups_of: Jagged
    need: npt.NDArray[np.bool_]
    split: Array
    counts: Array  # [items, 3], as `count_groups` gives them
    order: Array

    def __post_init__(self) -> None:
        self.movable = np.zeros(len(self.split), dtype=bool)
        self.movable[self.order] = True
        self.members = [self.order[self.split[self.order] == code].tolist() for code in range(3)]
        self.place = np.zeros(len(self.split), dtype=np.int64)  # of a group in its list of `members`
        for groups in self.members:
            self.place[groups] = np.arange(len(groups))
        self.worth = np.zeros(len(self.need), dtype=np.int64)  # scratch
        self.shared = np.zeros(len(self.need), dtype=bool)  # scratch

    def bring(self, item: int, code: int) -> None:
        """Exchange a group of split `code` for one that holds `item`: the pair that mends most, if any mends."""
        coming = [g for g in self.groups_of[item].tolist() if self.movable[g]][:CANDIDATES]
        partners = self.members[code]
        if not coming or not partners:
            return
        first = item % len(partners)  # not always the same group pays
        going = [partners[(first + step) % len(partners)] for step in range(min(PARTNERS, len(partners)))]
        gains = self._gains(coming, going, code).ravel()
        enough = np.flatnonzero(gains >= COSTS[code])
        best = int(enough[0]) if len(enough) else int(np.argmax(gains))
        if gains[best] > 0:
            self._exchange(coming[best // len(going)], going[best % len(going)])

    def _gains(self, coming: list[int], going: list[int], code: int) -> Array:
        """[coming, going]: by how much each swap lowers the cost. An item that both groups hold stays put."""
        lengths = [len(self.items_of[g]) for g in coming]
        items = np.concatenate([self.items_of[g] for g in coming])
        starts = np.cumsum([0, *lengths[:-1]])
        sources = self.split[coming]
        entering = self._worth(items, np.repeat(sources, lengths), np.full(len(items), code))
        gains = np.empty((len(coming), len(going)), dtype=np.int64)
        alone = np.add.reduceat(entering, starts)
        for column, h in enumerate(going):
            leaving = self.items_of[h]
            both = self._shared_with(leaving, items)
            for source in np.unique(sources).tolist():
                rows = np.flatnonzero(sources == source)
                worth = self._worth(leaving, np.full(len(leaving), code), np.full(len(leaving), source))
                self.worth[leaving] = worth
                lost = np.add.reduceat(np.where(both, entering + self.worth[items], 0), starts)
                self.worth[leaving] = 0
                gains[rows, column] = alone[rows] + int(worth.sum()) - lost[rows]
        return gains

    def _shared_with(self, leaving: Array, items: Array) -> npt.NDArray[np.bool_]:
        self.shared[leaving] = True
        both = self.shared[items]
        self.shared[leaving] = False
        return both

    def _worth(self, items: Array, source: Array, target: Array) -> Array:
        """What each item gains when a group that holds it goes from one split to another."""
        arrives = self.need[items, target] & (self.counts[items, target] == 0)
        vanishes = self.need[items, source] & (self.counts[items, source] == 1)
        return np.where(arrives, COSTS[target], 0) - np.where(vanishes, COSTS[source], 0)

    def _exchange(self, g: int, h: int) -> None:
        source, code = int(self.split[g]), int(self.split[h])
        for group, old, new in ((g, source, code), (h, code, source)):
            self.counts[self.items_of[group], old] -= 1
            self.counts[self.items_of[group], new] += 1
            self.split[group] = new
        self.place[g], self.place[h] = self.place[h], self.place[g]
        self.members[code][self.place[g]] = g
        self.members[source][self.place[h]] = h

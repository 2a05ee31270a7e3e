"""Which groups hold which items, collected part by part for a split with coverage."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.etl.windows import session_seeds
from recsys.schema import ITEM_ID

GROUP = "group"
CUT_AT = 1_000_000  # pairs collected before they are cut down
_RANK_BITS = 44


@dataclass(frozen=True)
class Pairs:
    """Pairs of one part, by number.

    Attributes:
        groups: names (String), each once, of all groups of the part.
        items: names (String), each once.
        ranks: [groups] 64 bits of the groups' names.
        group: [P] places in `groups`.
        item: [P] places in `items`.
    """

    groups: pl.Series
    items: pl.Series
    group: np.ndarray
    item: np.ndarray
    ranks: np.ndarray

    @classmethod
    def of(cls, rows: pl.DataFrame) -> "Pairs":
        """Of columns `group` (not null) and `item_id` (null: none)."""
        groups, items = rows[GROUP].cast(pl.String), rows[ITEM_ID].cast(pl.String)
        names, values = groups.unique(), items.drop_nulls().unique()
        numbered = rows.select(
            groups.replace_strict(names, pl.Series(range(len(names)), dtype=pl.Int64)).alias(GROUP),
            items.replace_strict(values, pl.Series(range(len(values)), dtype=pl.Int64), default=None).alias(ITEM_ID)
            if len(values)
            else pl.lit(None, dtype=pl.Int64).alias(ITEM_ID),
        )
        return cls.distinct(names, values, numbered[GROUP], numbered[ITEM_ID])

    @classmethod
    def distinct(cls, groups: pl.Series, items: pl.Series, group: pl.Series, item: pl.Series) -> "Pairs":
        """Each pair once; `item` null: none."""
        width = max(1, len(items))
        keys = (group.cast(pl.Int64) * width + item.cast(pl.Int64)).drop_nulls().unique().to_numpy()
        first, second = np.divmod(keys, width)
        return cls(groups, items, first.astype(np.int32), second.astype(np.int32), _ranks(groups.to_list()))


class Occurrences:
    """Collects (group, item) pairs part by part in memory that grows with the items, not with the groups.

    Of each item the `keep` groups lowest by hash stay, and all of those that are `named`; groups are all kept. Groups
    are told apart by 64 bits of their names.
    """

    def __init__(self, keep: int, named: list[str] | None = None) -> None:
        self._keep = keep
        self._named = _ranks(named or [])
        self._names: list[pl.DataFrame] = []  # name and rank of each group
        self._item_numbers: dict[str, int] = {}
        self._limits = np.zeros(0, dtype=np.uint64)  # by item: the rank of its last group that stays
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []  # (rank of the group, number of the item)
        self._kept = 0  # of `_pairs`, when they were last cut down

    def add(self, pairs: Pairs) -> None:
        """Add the pairs of one part; a group may come again."""
        self._names.append(pl.DataFrame([pairs.groups.alias(GROUP), pl.Series("rank", pairs.ranks)]))
        known = self._item_numbers
        numbers = (known.setdefault(name, len(known)) for name in pairs.items.to_list())
        item = np.fromiter(numbers, dtype=np.int32, count=len(pairs.items))[pairs.item]
        rank = pairs.ranks[pairs.group]
        fresh = np.full(len(known) - len(self._limits), np.iinfo(np.uint64).max, dtype=np.uint64)
        self._limits = np.concatenate([self._limits, fresh])
        stays = (rank <= self._limits[item]) | self._is_named(rank)
        self._pairs.append((rank[stays], item[stays]))
        if sum(len(rank) for rank, _ in self._pairs) > max(CUT_AT, 2 * self._kept):
            self._cut_down()

    def _is_named(self, rank: np.ndarray) -> np.ndarray:
        return np.isin(rank, self._named) if len(self._named) else np.zeros(len(rank), dtype=bool)

    def _cut_down(self) -> None:
        rank, item = (np.concatenate(parts) for parts in zip(*self._pairs, strict=True))
        order = _by_item_and_rank(item, rank)
        rank, item = rank[order], item[order]
        new = np.ones(len(rank), dtype=bool)
        new[1:] = (rank[1:] != rank[:-1]) | (item[1:] != item[:-1])
        rank, item = rank[new], item[new]
        counts = np.bincount(item, minlength=len(self._limits))
        place = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
        last = place == self._keep - 1
        self._limits[item[last]] = rank[last]
        stays = (place < self._keep) | self._is_named(rank)
        self._pairs = [(rank[stays], item[stays])]
        self._kept = int(stays.sum())

    def numbered(self) -> Pairs:
        """All groups and items, sorted by name, and the pairs that stayed, sorted by group and item."""
        if not self._names:
            none, empty = pl.Series([], dtype=pl.String), pl.Series([], dtype=pl.Int64)
            return Pairs.distinct(none, none, empty, empty)
        self._cut_down()
        rank, item = self._pairs[0]
        named = pl.concat(self._names).unique(GROUP).sort(GROUP)
        groups, ranks = named[GROUP], named["rank"].to_numpy()
        items = pl.Series(list(self._item_numbers), dtype=pl.String)
        by_rank = np.argsort(ranks)
        group = by_rank[np.searchsorted(ranks, rank, sorter=by_rank)]
        held = np.zeros(len(items), dtype=bool)
        held[item] = True
        by_name = items.arg_sort().to_numpy()
        by_name = by_name[held[by_name]]
        place = np.zeros(len(items), dtype=np.int64)
        place[by_name] = np.arange(len(by_name))
        order = np.lexsort((place[item], group))
        return Pairs(groups, items.gather(by_name), group[order], place[item][order], ranks)

    def pairs(self) -> pl.DataFrame:
        """Columns `group` and `item_id`: the pairs that stayed, and every group once without an item."""
        found = self.numbered()
        alone = found.groups.alias(GROUP).to_frame().with_columns(pl.lit(None, dtype=pl.String).alias(ITEM_ID))
        groups, items = found.groups.gather(found.group), found.items.gather(found.item)
        return pl.concat([alone, pl.DataFrame([groups.alias(GROUP), items.alias(ITEM_ID)])])


def _by_item_and_rank(item: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """The order of items, of ranks within an item; by one number of 64 bits where that tells all pairs apart."""
    if len(item) and item.max() < 1 << (64 - _RANK_BITS):
        key = item.astype(np.uint64) << np.uint64(_RANK_BITS) | rank >> np.uint64(64 - _RANK_BITS)
        order = np.argsort(key)
        key, ranks = key[order], rank[order]
        if not bool(np.any((key[1:] == key[:-1]) & (ranks[1:] != ranks[:-1]))):
            return order
    return np.lexsort((rank, item))


def _ranks(names: list[str]) -> np.ndarray:
    # A salt of its own: the order of assignment must not decide which groups are remembered.
    return session_seeds(names, "kept")

"""What the splits of a dataset share that they should not, counted part by part.

* groups: sessions and users that own events in two splits;
* future: events of train (as written) that are later than a test point, that is an event with a history which is to
  be predicted. Overall: later than the first test point of all (Ji et al. 2023, "A Critical Study on Data Leakage in
  Recommender System Offline Evaluation"), which every split by groups has. Own: later than the first test point of
  the same user (session where there is no user), which only a split that tears groups apart can have;
* duplicates: sequences with an item list that stands in another split too, letter for letter;
* unseen: items of validation and test that no event of train holds.

Sessions, users and item lists are compared by 64-bit hashes, 8 bytes each in memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Self

import numpy as np
import polars as pl

from recsys.etl.operators import COUNT
from recsys.etl.split import SPLIT, SPLITS
from recsys.etl.users import ORIGIN
from recsys.etl.windows import mix64
from recsys.schema import ITEM_ID, SESSION_ID, TIMESTAMP, USER_ID

MIN_DUPLICATE = 5  # events: shorter lists are equal by chance
OWNER, FIRST, LATER = "owner", "first", "later"
_TARGETS = SPLITS[1:]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NO_ITEM = 1 << 40  # in place of an item's number


@dataclass(frozen=True)
class Owners:
    """Columns by which sequences, sessions and users are told apart.

    Attributes:
        keys: of a sequence.
        kinds: what groups are called, and their columns.
        owner: the user, else the session; where users are merged, their names are the sessions'.
    """

    keys: list[str]
    kinds: dict[str, str]
    owner: pl.Expr

    @classmethod
    def of(cls, columns: Sequence[str], piece: str | None = None) -> Self:
        """Of marked parts; `piece`: a column that divides sessions into sequences (the document's protocol)."""
        session = ORIGIN if ORIGIN in columns else SESSION_ID
        kinds = {"sessions": session} | ({"users": USER_ID} if USER_ID in columns else {})
        owner = pl.col(SESSION_ID).cast(pl.String)
        if USER_ID in columns and ORIGIN not in columns:
            owner = pl.coalesce(pl.col(USER_ID).cast(pl.String), pl.format("session {}", owner))
        return cls([SESSION_ID, *([piece] if piece else [])], kinds, owner.alias(OWNER))


@dataclass(frozen=True)
class FirstPoints:
    """Time of each owner's first test point (columns `owner`, `first`), for validation and for test.

    `starts` are known once parts are merged.
    """

    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    starts: dict[str, tuple[str, int]] = field(default_factory=dict)  # owner and time of the first point of all

    @classmethod
    def of(cls, marked: pl.DataFrame, owners: Owners) -> Self:
        """Of a part: prepared events (sorted by sequence and time) with the column `split` that owns each."""
        points = marked.filter((pl.col(SPLIT) != SPLITS[0]) & ~_starts(owners.keys))
        points = points.filter(_starts([SESSION_ID, SPLIT]))  # the earliest of each sequence
        tables = {}
        for name in _TARGETS:
            found = points.filter(pl.col(SPLIT) == name)
            if found.height:
                tables[name] = found.group_by(owners.owner).agg(pl.col(TIMESTAMP).min().alias(FIRST))
        return cls(tables)

    @classmethod
    def merge(cls, parts: Iterable["FirstPoints"]) -> Self:
        """Of all parts together."""
        found: dict[str, list[pl.DataFrame]] = {}
        for part in parts:
            for name, table in part.tables.items():
                found.setdefault(name, []).append(table)
        tables = {n: pl.concat(found[n]).group_by(OWNER).agg(pl.col(FIRST).min()) for n in _TARGETS if n in found}
        firsts = {name: table.filter(pl.col(FIRST) == pl.col(FIRST).min()) for name, table in tables.items()}
        return cls(tables, {name: table.sort(OWNER).row(0) for name, table in firsts.items()})


class Leakage:
    """Collects what `report` needs of one part; parts merge. Items are Enum of the same values in all parts.

    Args:
        owners: how groups are told apart.
        firsts: of all parts.
    """

    def __init__(self, owners: Owners, firsts: FirstPoints) -> None:
        self._owners, self._firsts = owners, firsts
        self._groups: dict[tuple[str, str], list[np.ndarray]] = {(k, s): [] for k in owners.kinds for s in SPLITS}
        self._lists: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
        self._items = np.zeros((len(SPLITS), 0), dtype=np.int64)  # events by split and number of the item
        self._later = dict.fromkeys(firsts.tables, 0)  # events of train after the first test point of all
        self._own = {name: [pl.DataFrame(schema=_OWN)] for name in firsts.tables}
        self._events = 0  # of train

    def add(self, marked: pl.DataFrame) -> None:
        """Add the part: prepared events (sorted by sequence and time) with the column `split` that owns each."""
        columns = list(dict.fromkeys([*self._owners.keys, *self._owners.kinds.values(), SPLIT]))
        heads = marked.select(columns).filter(_starts(columns))  # few, and they name all groups
        for kind, column in self._owners.kinds.items():
            pairs = heads.select(pl.col(column), pl.col(SPLIT)).drop_nulls().unique()
            for name in SPLITS:
                found = pairs.filter(pl.col(SPLIT) == name)[column].cast(pl.String)
                self._groups[kind, name].append(found.hash().to_numpy())
        items = marked[ITEM_ID]
        assert isinstance(items.dtype, pl.Enum)
        width = len(items.dtype.categories) + 1  # the last is no item
        number = items.to_physical().cast(pl.Int64).fill_null(width - 1).to_numpy()
        split = marked[SPLIT].to_physical().cast(pl.Int64).to_numpy()
        counts = np.bincount(split * width + number, minlength=len(SPLITS) * width)
        self._items = counts.reshape(len(SPLITS), width)[:, :-1]

    def add_sequences(self, name: str, rows: pl.DataFrame) -> None:
        """Add the events that split `name` makes sequences of, before slicing, chunking and dropping."""
        if not rows.height:
            return
        starts = rows.select(_starts(self._owners.keys)).to_series().arg_true().to_numpy()
        lengths = np.diff(np.append(starts, rows.height))
        place = np.arange(rows.height, dtype=np.uint64) - np.repeat(starts, lengths).astype(np.uint64)
        numbers = rows[ITEM_ID].to_physical().cast(pl.UInt64).fill_null(_NO_ITEM).to_numpy()
        mixed = mix64(mix64(numbers) + (place + np.uint64(1)) * _GOLDEN)  # so that order counts in the sum
        totals = mix64(np.add.reduceat(mixed, starts) + lengths.astype(np.uint64))
        self._lists[name].append(totals[lengths >= MIN_DUPLICATE])

    def add_train(self, sequences: pl.DataFrame) -> None:
        """Add the training sequences as they are written."""
        times = sequences[TIMESTAMP].explode()
        self._events += int(sequences[TIMESTAMP].list.len().sum())
        for name, table in self._firsts.tables.items():
            self._later[name] += int((times > self._firsts.starts[name][1]).sum())
            self._own[name].append(_own_future(sequences.select(self._owners.owner, TIMESTAMP), table))

    def merge(self, other: "Leakage") -> None:
        """Add what another has collected of another part."""
        for key, groups in other._groups.items():
            self._groups[key] += groups
        for name, lists in other._lists.items():
            self._lists[name] += lists
        self._items = self._items + other._items
        for name in self._later:
            self._later[name] += other._later[name]
            self._own[name] += [table for table in other._own[name] if table.height]
        self._events += other._events

    def report(self) -> dict[str, Any]:
        """All of it, once all parts are merged."""
        return {
            "groups": self._report_groups(),
            "future": self._report_future(),
            "duplicates": self._report_duplicates(),
            "unseen_items": self._report_items(),
        }

    def _report_groups(self) -> dict[str, Any]:
        sets = {key: np.unique(_joined(found)) for key, found in self._groups.items()}
        report: dict[str, Any] = {name: {k: len(sets[k, name]) for k in self._owners.kinds} for name in SPLITS}
        for one, two in combinations(SPLITS, 2):
            shared = {
                k: len(np.intersect1d(sets[k, one], sets[k, two], assume_unique=True)) for k in self._owners.kinds
            }
            report[f"{one}_{two}"] = shared
        return report

    def _report_duplicates(self) -> dict[str, Any]:
        lists = {name: _joined(found) for name, found in self._lists.items()}
        report: dict[str, Any] = {"min_length": MIN_DUPLICATE}
        for one, two in combinations(SPLITS, 2):
            number = int(np.isin(lists[two], lists[one]).sum())
            report[f"{one}_{two}"] = _share(number, len(lists[two]))
        return report

    def _report_items(self) -> dict[str, Any]:
        report = {}
        known = self._items[0] > 0
        for name, mine in zip(_TARGETS, self._items[1:], strict=True):
            unseen = np.where(known, 0, mine)
            events = _share(int(unseen.sum()), int(mine.sum()))
            report[name] = {"items": _share(int((unseen > 0).sum()), int((mine > 0).sum())), "events": events}
        return report

    def _report_future(self) -> dict[str, Any]:
        report: dict[str, Any] = {}
        for name in self._firsts.tables:
            group, time = self._firsts.starts[name]
            found = pl.concat(self._own[name]).group_by(OWNER).agg(pl.col(LATER, COUNT).sum())
            found = found.filter(pl.col(LATER) > 0)
            worst = [
                {"group": row[OWNER], **_share(row[LATER], row[COUNT])}
                for row in found.sort([LATER, OWNER], descending=[True, False]).head(1).iter_rows(named=True)
            ]
            report[name] = {
                "first_point": {"group": group, TIMESTAMP: time},
                "overall": _share(self._later[name], self._events),
                "own": _share(int(found[LATER].sum()), self._events) | {"groups": found.height},
                "worst_group": worst[0] if worst else None,
            }
        return report


_OWN = {OWNER: pl.String, LATER: pl.Int64, COUNT: pl.Int64}


def _starts(keys: list[str]) -> pl.Expr:
    """Whether a row differs from the one before it in one of `keys`; the first one does."""
    return pl.any_horizontal(pl.col(key).ne_missing(pl.col(key).shift(1)) for key in keys) | (pl.row_index() == 0)


def _own_future(sequences: pl.DataFrame, first: pl.DataFrame) -> pl.DataFrame:
    """Of each owner with a test point: events of train later than it, and all events of train."""
    both = sequences.join(first, on=OWNER).explode(TIMESTAMP)
    later = (pl.col(TIMESTAMP) > pl.col(FIRST)).sum().cast(pl.Int64)
    return both.group_by(OWNER).agg(later.alias(LATER), pl.len().cast(pl.Int64).alias(COUNT))


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.uint64), *parts])


def _share(number: int, of: int) -> dict[str, Any]:
    return {"count": number, "of": of, "share": round(number / of, 6) if of else 0.0}


def warm(report: dict[str, Any]) -> dict[str, Any]:
    """How many of the users (sessions, items) of validation and test train holds too, from a leakage report."""
    found: dict[str, Any] = {}
    for name in _TARGETS:
        shared, present = report["groups"][f"{SPLITS[0]}_{name}"], report["groups"][name]
        unseen = report["unseen_items"][name]["items"]
        found[name] = {kind: _share(shared[kind], present[kind]) for kind in shared}
        found[name]["items"] = _share(unseen["of"] - unseen["count"], unseen["of"])
    return found


def summary(report: dict[str, Any]) -> str:
    """What is shared between train and test (validation where there is no test), in one line."""
    target = "test" if report["groups"]["test"]["sessions"] else "val"
    shared = report["groups"][f"train_{target}"]
    groups = " and ".join(f"{number:,} {kind}" for kind, number in reversed(shared.items()))
    same = report["duplicates"][f"train_{target}"]
    parts = [f"{groups} in train and {target}", f"{same['count']:,} of {same['of']:,} {target} sequences also in train"]
    if target in report["future"]:
        future = report["future"][target]
        whole, own = future["overall"], future["own"]
        parts.append(f"{whole['share']:.1%} of train events after the first {target} point, {own['share']:.1%} of own")
    unseen = report["unseen_items"][target]["items"]
    parts.append(f"{unseen['count']:,} of {unseen['of']:,} {target} items not in train")
    return "; ".join(parts)

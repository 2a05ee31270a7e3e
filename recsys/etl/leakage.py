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

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.etl.split import SPLIT, SPLITS
from recsys.etl.users import ORIGIN
from recsys.etl.windows import mix64
from recsys.schema import ITEM_ID, SESSION_ID, TIMESTAMP, USER_ID

MIN_DUPLICATE = 5  # events: shorter lists are equal by chance
OWNER, FIRST, LATER, COUNT = "owner", "first", "later", "count"
_TARGETS = SPLITS[1:]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Leakage:
    """Collects what `report` needs: `add` each marked part once, `add_sequences` what each split writes of it.

    Args:
        columns: of the marked parts.
        piece: a column that divides sessions into pieces, each a sequence of its own (the document's protocol).
    """

    def __init__(self, columns: list[str], piece: str | None = None) -> None:
        self._session = ORIGIN if ORIGIN in columns else SESSION_ID
        self._kinds = {"sessions": self._session} | ({"users": USER_ID} if USER_ID in columns else {})
        # The user, else the session; where users are merged, their names are the sessions'.
        named = USER_ID in columns and ORIGIN not in columns
        self._owner = pl.coalesce(USER_ID, pl.format("session {}", SESSION_ID)) if named else pl.col(SESSION_ID)
        self._keys = [SESSION_ID, *([piece] if piece else [])]
        self._groups: dict[tuple[str, str], list[np.ndarray]] = {(k, s): [] for k in self._kinds for s in SPLITS}
        self._lists: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
        self._first: dict[str, pl.DataFrame] = {}
        self._items = pl.DataFrame(schema={ITEM_ID: pl.String, SPLIT: pl.String, COUNT: pl.Int64})

    def add(self, marked: pl.DataFrame) -> None:
        """Add a part: prepared events (sorted by sequence and time) with the column `split` that owns each."""
        heads = marked.filter(_starts([*self._keys, self._session, SPLIT]))  # few, and they name all groups
        for kind, column in self._kinds.items():
            pairs = heads.select(column, SPLIT).drop_nulls().unique()
            for (name,), found in pairs.partition_by(SPLIT, as_dict=True).items():
                self._groups[kind, str(name)].append(found[column].hash().to_numpy())
        counts = marked.group_by(ITEM_ID, SPLIT).agg(pl.len().cast(pl.Int64).alias(COUNT)).drop_nulls()
        merged = pl.concat([self._items, counts.select(self._items.columns)])
        self._items = merged.group_by(ITEM_ID, SPLIT).agg(pl.col(COUNT).sum())
        points = marked.filter(~_starts(self._keys) & (pl.col(SPLIT) != SPLITS[0]))
        points = points.filter(_starts([SESSION_ID, SPLIT]))  # the earliest of each sequence
        for (name,), found in points.partition_by(SPLIT, as_dict=True).items():
            first = found.group_by(self._owner.alias(OWNER)).agg(pl.col(TIMESTAMP).min().alias(FIRST))
            known = self._first.get(str(name), first.clear())
            self._first[str(name)] = pl.concat([known, first]).group_by(OWNER).agg(pl.col(FIRST).min())

    def add_sequences(self, name: str, rows: pl.DataFrame) -> None:
        """Add the events that split `name` makes sequences of, before slicing, chunking and dropping."""
        if not rows.height:
            return
        starts = rows.select(_starts(self._keys)).to_series().arg_true().to_numpy()
        lengths = np.diff(np.append(starts, rows.height))
        place = np.arange(rows.height, dtype=np.uint64) - np.repeat(starts, lengths).astype(np.uint64)
        hashes = rows[ITEM_ID].hash().to_numpy()
        mixed = mix64(hashes + (place + np.uint64(1)) * _GOLDEN)  # so that order counts in the sum
        totals = mix64(np.add.reduceat(mixed, starts) + lengths.astype(np.uint64))
        self._lists[name].append(totals[lengths >= MIN_DUPLICATE])

    def report(self, train: Path) -> dict[str, Any]:
        """All of it, with the events of the sequences in the folder `train` for what lies in the future."""
        return {
            "groups": self._report_groups(),
            "future": self._report_future(train),
            "duplicates": self._report_duplicates(),
            "unseen_items": self._report_items(),
        }

    def _report_groups(self) -> dict[str, Any]:
        sets = {key: np.unique(_joined(found)) for key, found in self._groups.items()}
        report: dict[str, Any] = {name: {k: len(sets[k, name]) for k in self._kinds} for name in SPLITS}
        for one, two in combinations(SPLITS, 2):
            shared = {k: len(np.intersect1d(sets[k, one], sets[k, two], assume_unique=True)) for k in self._kinds}
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
        known = self._items.filter(pl.col(SPLIT) == SPLITS[0])[ITEM_ID]
        for name in _TARGETS:
            mine = self._items.filter(pl.col(SPLIT) == name)
            unseen = mine.filter(~pl.col(ITEM_ID).is_in(known.implode()))
            events = _share(int(unseen[COUNT].sum()), int(mine[COUNT].sum()))
            report[name] = {"items": _share(unseen.height, mine.height), "events": events}
        return report

    def _report_future(self, train: Path) -> dict[str, Any]:
        firsts = {name: self._first[name].sort(FIRST, OWNER) for name in _TARGETS if name in self._first}
        start = {name: first.row(0) for name, first in firsts.items()}  # owner and time of the first test point
        own: dict[str, list[pl.DataFrame]] = {name: [pl.DataFrame(schema=_OWN)] for name in firsts}
        totals = dict.fromkeys(firsts, 0)
        events = 0
        for sequences in _training_sequences(train, self._owner):
            times = sequences[TIMESTAMP].explode()
            events += len(times)
            for name, first in firsts.items():
                totals[name] += int((times > start[name][1]).sum())
                own[name].append(_own_future(sequences, first))
        report: dict[str, Any] = {}
        for name, (group, time) in start.items():
            found = pl.concat(own[name]).group_by(OWNER).agg(pl.col(LATER, COUNT).sum()).filter(pl.col(LATER) > 0)
            worst = [
                {"group": row[OWNER], **_share(row[LATER], row[COUNT])}
                for row in found.sort([LATER, OWNER], descending=[True, False]).head(1).iter_rows(named=True)
            ]
            report[name] = {
                "first_point": {"group": group, TIMESTAMP: time},
                "overall": _share(totals[name], events),
                "own": _share(int(found[LATER].sum()), events) | {"groups": found.height},
                "worst_group": worst[0] if worst else None,
            }
        return report


_OWN = {OWNER: pl.String, LATER: pl.Int64, COUNT: pl.Int64}


def _starts(keys: list[str]) -> pl.Expr:
    """Whether a row differs from the one before it in one of `keys`; the first one does."""
    return pl.any_horizontal(pl.col(key).ne_missing(pl.col(key).shift(1)) for key in keys) | (pl.row_index() == 0)


def _training_sequences(train: Path, owner: pl.Expr) -> Iterator[pl.DataFrame]:
    """Owner and times of the training sequences, file by file."""
    for file in sorted(train.glob("*.parquet")):
        columns = [name for name in (SESSION_ID, USER_ID, TIMESTAMP) if name in pl.read_parquet_schema(file)]
        yield pl.read_parquet(file, columns=columns).select(owner.alias(OWNER), TIMESTAMP)


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

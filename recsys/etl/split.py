"""Which group (user or session) belongs to train, validation or test, decided before anything is fitted.

Every rule is deterministic by seed and independent of the order of rows: groups are sorted, then ordered by a
hash of seed and name. The rules that cut inside sequences (leave_last, time, position) are in `split_sequences`.

=========== =================================================================================================
rule        groups
=========== =================================================================================================
share       a random share each; swapped until every item of two groups is in train and test, of three in all
every_nth   test = groups 0, n, 2n, ... in sorted order (as numbers when all are whole numbers), never moved
list        test (and validation) as named; never moved
document    the protocol of the paper's section 4.8: two random groups of each item, one to train and one
            to validation, the rest 85/15. It leaks (pieces of one session fall on both sides) and has NO
            test set: the validation groups are the test set. For comparison only.
=========== =================================================================================================
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.config import SplitConfig
from recsys.errors import ConfigError, InputError, missing_column, nearest, one_line
from recsys.schema import ITEM_ID, SESSION_ID, USER_ID

GROUP = "group"
SPLIT = "split"
SPLITS = ("train", "val", "test")
TRAIN, VALIDATION, TEST = range(3)
DOCUMENT_VALIDATION_SHARE = 0.15  # of the groups that no item has claimed (section 4.8)
CANDIDATES, PARTNERS = 16, 8  # swaps tried for one missing item
COSTS = np.array([10, 1, 2])  # of an item that train, validation, test lack: untrained it can only be missed
_PARAMETERS = {  # of each rule, as a report names them
    "share": ("test_share", "validation_share", "coverage"),
    "every_nth": ("every", "validation_share", "coverage"),
    "list": ("validation_share", "coverage"),
    "document": (),
}
LISTED = 1000  # uncovered items named in a report; the rest is a number


@dataclass(frozen=True)
class SplitResult:
    """`assignment`: one row a group (group, split in train/val/test), sorted; `report`: how it came about."""

    assignment: pl.DataFrame
    report: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write splits.parquet and splits.json."""
        self.assignment.write_parquet(folder / "splits.parquet")
        text = json.dumps(self.report, indent=2, ensure_ascii=False)
        (folder / "splits.json").write_text(text + "\n", encoding="utf-8")


def load_splits(folder: Path) -> SplitResult:
    """Read what `SplitResult.save` wrote; checks columns, names of splits and that no group stands twice."""
    path = folder / "splits.parquet"
    for needed in (path, folder / "splits.json"):
        if not needed.is_file():
            raise InputError(f"{needed}: no such file; give a folder that data_processing.split has written")
    try:
        table = pl.read_parquet(path)
        report = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: cannot be read with splits.json beside it: {one_line(error)}") from error
    for column in (GROUP, SPLIT):
        if column not in table.columns:
            raise missing_column(path, column, table.columns)
    table = table.select(pl.col(GROUP, SPLIT).cast(pl.String))
    wrong = table.with_row_index("row").filter(~pl.col(SPLIT).is_in(SPLITS) | pl.col(SPLIT).is_null())
    if wrong.height:
        row, _, name = wrong.row(0)
        raise InputError(f"{path}: row {row + 1}: split '{name}' is none of {', '.join(SPLITS)}")
    twice = table.filter(pl.col(GROUP).is_duplicated())
    if twice.height:
        raise InputError(f"{path}: group '{twice[GROUP][0]}' stands twice")
    if not isinstance(report, dict) or report.get("by") not in (USER_ID, SESSION_ID):
        raise InputError(f"{folder / 'splits.json'}: 'by' must be {USER_ID} or {SESSION_ID}")
    return SplitResult(table.sort(GROUP), report)


def group_column(config: SplitConfig, columns: Sequence[str], source: object = "events") -> str:
    """The column that holds the groups: `config.by`, else the user if there is one, else the session."""
    if config.by is None:
        return USER_ID if USER_ID in columns and config.rule not in ("document", "position") else SESSION_ID
    if config.by not in columns:
        raise missing_column(source, config.by, columns)
    return config.by


def group_expression(by: str) -> pl.Expr:
    """Group of each row. Rows without a user share the group ``""``, so that none of them can leak."""
    return pl.col(by).cast(pl.String).fill_null("").alias(GROUP)


def assign_splits(occurrences: pl.DataFrame, config: SplitConfig, by: str | None = None) -> SplitResult:
    """Assign every group to train, val or test.

    Args:
        occurrences: columns `group` (String, not null) and `item_id` (null: the group holds none that
            counts), the pairs that occur, repeated or not, in any order.
        config: rule, shares (of groups), seed.
        by: the column that groups stand for (only reported).

    Returns:
        The assignment, and a report: counts and shares of groups, and the items of two or more groups that a
        split should hold and does not (`uncovered`; the first 1,000 by name, all by number).
    """
    for column in (GROUP, ITEM_ID):
        if column not in occurrences.columns:
            raise missing_column("occurrences", column, occurrences.columns)
    if config.cuts_sequences:
        raise ConfigError(f"split.rule: '{config.rule}' cuts inside groups, which `recsys preprocess` does on events")
    table = _Table.build(occurrences)
    split = _RULES[config.rule](table, config)
    found = table.uncovered(split, with_test=config.rule != "document")
    report: dict[str, Any] = {"by": by or config.by or USER_ID, "rule": config.rule, "seed": config.seed}
    report |= {name: getattr(config, name) for name in _PARAMETERS[config.rule]}
    if config.rule == "document":
        report["note"] = "no test set of its own: test = val; pieces of one session may fall on both sides"
    total = max(1, len(table.groups))
    numbers = {name: int((split == code).sum()) for code, name in enumerate(SPLITS)}
    report["groups"] = numbers
    report["share"] = {name: round(number / total, 6) for name, number in numbers.items()}
    report["items"] = len(table.items)
    report["uncovered"] = {name: {"count": len(v), "items": v[:LISTED]} for name, v in found.items()}
    names = pl.Series(SPLIT, [SPLITS[code] for code in split.tolist()], dtype=pl.String)
    return SplitResult(pl.DataFrame([pl.Series(GROUP, table.groups, dtype=pl.String), names]), report)


class Occurrences:
    """Collects (group, item) pairs part by part in memory that grows with the items, not with the groups.

    Of each item the `keep` groups lowest by hash stay; groups are all kept. A split that holds only a few groups
    may so be reported to lack an item that more than `keep` groups hold.
    """

    def __init__(self, keep: int = 128) -> None:
        self._keep = keep
        self._groups: list[pl.Series] = []
        self._pairs: list[pl.DataFrame] = []

    def add(self, pairs: pl.DataFrame) -> None:
        """Add rows with the columns `group` and `item_id`; a group may come again."""
        groups = pairs[GROUP].unique()
        self._groups.append(groups)
        # A salt of its own: the order of assignment must not decide which groups are remembered.
        ranks = pl.Series("rank", [_hash("kept", g) for g in groups], dtype=pl.UInt64)
        known = pairs.select(GROUP, pl.col(ITEM_ID).cast(pl.String)).drop_nulls().unique()
        known = known.join(pl.DataFrame([groups, ranks]), on=GROUP)
        merged = pl.concat([*self._pairs, known]).unique()
        order = pl.struct("rank", GROUP).rank("ordinal").over(ITEM_ID)
        self._pairs = [merged.filter(order <= self._keep).rechunk()]

    def pairs(self) -> pl.DataFrame:
        """What `assign_splits` takes."""
        if not self._groups:
            return pl.DataFrame(schema={GROUP: pl.String, ITEM_ID: pl.String})
        groups = pl.concat(self._groups).unique().to_frame()
        alone = groups.with_columns(pl.lit(None, dtype=pl.String).alias(ITEM_ID))
        return pl.concat([alone, self._pairs[0].select(GROUP, ITEM_ID)])


def _hash(salt: object, name: str) -> int:
    return int.from_bytes(blake2b(f"{salt}:{name}".encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class _Table:
    """Groups and items as sorted names, their pairs as two jagged arrays of numbers."""

    groups: list[str]
    items: list[str]
    items_of: list[np.ndarray]  # per group
    groups_of: list[np.ndarray]  # per item

    @classmethod
    def build(cls, occurrences: pl.DataFrame) -> "_Table":
        pairs = occurrences.select(pl.col(GROUP, ITEM_ID).cast(pl.String)).unique()
        if pairs[GROUP].null_count():
            raise InputError("occurrences: column 'group' holds nulls; name the group or use ''")
        groups = pairs[GROUP].unique().sort()
        items = pairs[ITEM_ID].drop_nulls().unique().sort()
        pairs = (
            pairs.drop_nulls()
            .join(groups.to_frame().with_row_index("g"), on=GROUP)
            .join(items.to_frame().with_row_index("i"), on=ITEM_ID)
            .sort("g", "i")
        )
        g, i = pairs["g"].to_numpy(), pairs["i"].to_numpy()
        by_item = np.argsort(i, kind="stable")
        return cls(
            groups.to_list(),
            items.to_list(),
            _jagged(i, np.bincount(g, minlength=len(groups))),
            _jagged(g[by_item], np.bincount(i, minlength=len(items))),
        )

    def shuffled(self, seed: int, among: Iterable[int]) -> list[int]:
        return sorted(among, key=lambda g: (_hash(seed, self.groups[g]), self.groups[g]))

    def number(self, name: str, field: str) -> int:
        try:
            return self.groups.index(name)
        except ValueError:
            hint = nearest(name, self.groups[:20])
            raise ConfigError(f"split.{field}: no group '{name}' in the events{hint}") from None

    def needed(self, present: Sequence[int]) -> np.ndarray:
        """[items, 3]: which of the splits in use should hold an item."""
        sizes = np.array([len(g) for g in self.groups_of], dtype=np.int64)
        need = np.stack([sizes >= 2, sizes >= (3 if TEST in present else 2), sizes >= 2], axis=1)
        for code in range(3):
            need[:, code] &= code in present
        return need

    def counts(self, split: np.ndarray) -> np.ndarray:
        """[items, 3]: groups of each split that hold an item."""
        counts = np.zeros((len(self.items), 3), dtype=np.int64)
        for item, groups in enumerate(self.groups_of):
            counts[item] = np.bincount(split[groups], minlength=3)
        return counts

    def uncovered(self, split: np.ndarray, with_test: bool) -> dict[str, list[str]]:
        present = [code for code in range(3) if (split == code).any() and (with_test or code != TEST)]
        missing = self.needed(present) & (self.counts(split) == 0)
        return {SPLITS[code]: [self.items[i] for i in np.flatnonzero(missing[:, code])] for code in present}


def _jagged(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []


def _amount(share: float, of: int, spare: int) -> int:
    """`share` of `of` groups, at least one where a share is wanted and `spare` groups stay behind."""
    if share <= 0 or of <= spare:
        return 0
    return min(max(1, round(share * of)), of - spare)


def _by_share(table: _Table, config: SplitConfig) -> np.ndarray:
    split = np.full(len(table.groups), TRAIN, dtype=np.int64)
    order = table.shuffled(config.seed, range(len(split)))
    tests = _amount(config.test_share, len(order), 1)
    split[order[:tests]] = TEST
    rest = order[tests:]
    split[rest[: _amount(config.validation_share, len(rest), 1)]] = VALIDATION
    return _cover(table, split, order) if config.coverage else split


def _every_nth(table: _Table, config: SplitConfig) -> np.ndarray:
    split = np.full(len(table.groups), TRAIN, dtype=np.int64)
    whole = all(re.fullmatch(r"[+-]?[0-9]+", name) for name in table.groups)
    order = list(range(len(split)))  # sorted as text already
    if whole:
        order.sort(key=lambda g: int(table.groups[g]))
    split[order[:: config.every]] = TEST
    return _share_out_validation(table, config, split)


def _listed(table: _Table, config: SplitConfig) -> np.ndarray:
    both = set(config.test_groups) & set(config.validation_groups)
    if both:
        raise ConfigError(f"split: group '{min(both)}' is in test_groups and in validation_groups")
    if not config.test_groups and not config.validation_groups:
        raise ConfigError("split: rule 'list' needs test_groups or validation_groups")
    split = np.full(len(table.groups), TRAIN, dtype=np.int64)
    split[[table.number(name, "test_groups") for name in config.test_groups]] = TEST
    if config.validation_groups:
        split[[table.number(name, "validation_groups") for name in config.validation_groups]] = VALIDATION
        return split
    return _share_out_validation(table, config, split)


def _share_out_validation(table: _Table, config: SplitConfig, split: np.ndarray) -> np.ndarray:
    """Take validation groups from those that are not test; the test groups stay as they are."""
    rest = table.shuffled(config.seed, np.flatnonzero(split != TEST).tolist())
    split[rest[: _amount(config.validation_share, len(rest), 1)]] = VALIDATION
    return _cover(table, split, rest) if config.coverage else split


def _document(table: _Table, config: SplitConfig) -> np.ndarray:
    """Section 4.8: per item one group to train and one to validation; then 85/15 of those left."""
    rng = np.random.default_rng(config.seed)
    split = np.full(len(table.groups), -1, dtype=np.int64)
    for groups in table.groups_of:
        free = rng.permutation(groups)
        for code in (TRAIN, VALIDATION):
            fitting = free[(split[free] == -1) | (split[free] == code)]
            if len(fitting):
                split[fitting[0]] = code
    left = rng.permutation(np.flatnonzero(split == -1))
    validation = round(DOCUMENT_VALIDATION_SHARE * len(left))
    split[left[:validation]] = VALIDATION
    split[left[validation:]] = TRAIN
    return split


def _cover(table: _Table, split: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Swap groups of `order` between splits, sizes unchanged, while that lowers the cost of missing items.

    Starting from the random draw keeps the splits alike; the rarest items come first, having the fewest ways.
    """
    need = table.needed([code for code in range(3) if (split == code).any()])
    counts = table.counts(split)
    movable = np.zeros(len(split), dtype=bool)
    movable[list(order)] = True
    members = [[g for g in order if split[g] == code] for code in range(3)]
    for item in sorted(range(len(table.items)), key=lambda i: (len(table.groups_of[i]), i)):
        for code in range(3):
            if need[item, code] and not counts[item, code]:
                _swap_in(table, item, code, split, counts, need, movable, members)
    return split


def _swap_in(
    table: _Table,
    item: int,
    code: int,
    split: np.ndarray,
    counts: np.ndarray,
    need: np.ndarray,
    movable: np.ndarray,
    members: list[list[int]],
) -> None:
    """Exchange a group of split `code` for one that holds `item`: the pair that mends most, if any mends."""
    coming = [g for g in table.groups_of[item].tolist() if movable[g]][:CANDIDATES]
    partners = members[code]
    first = item % len(partners) if partners else 0  # not always the same group pays
    best, pair = 0, None
    for g in coming:
        source = int(split[g])
        for step in range(min(PARTNERS, len(partners))):
            h = partners[(first + step) % len(partners)]
            touched = np.union1d(table.items_of[g], table.items_of[h])
            before = _cost(need[touched], counts[touched])
            _exchange(table, counts, (g, source), (h, code))
            gain = before - _cost(need[touched], counts[touched])
            _exchange(table, counts, (g, code), (h, source))
            if gain > best:
                best, pair = gain, (g, h)
            if best >= COSTS[code]:
                break
        if best >= COSTS[code]:
            break
    if pair is not None:
        g, h = pair
        source = int(split[g])
        _exchange(table, counts, (g, source), (h, code))
        split[g], split[h] = code, source
        partners[partners.index(h)] = g
        members[source][members[source].index(g)] = h


def _exchange(table: _Table, counts: np.ndarray, one: tuple[int, int], other: tuple[int, int]) -> None:
    """Count two groups, each given with the split it is in, as if they had changed places."""
    (g, source), (h, target) = one, other
    counts[table.items_of[g], source] -= 1
    counts[table.items_of[g], target] += 1
    counts[table.items_of[h], target] -= 1
    counts[table.items_of[h], source] += 1


def _cost(need: np.ndarray, counts: np.ndarray) -> int:
    return int((need & (counts == 0)).sum(axis=0) @ COSTS)


_RULES: dict[str, Callable[[_Table, SplitConfig], np.ndarray]] = {
    "share": _by_share,
    "every_nth": _every_nth,
    "list": _listed,
    "document": _document,
}

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
none        all to one split (`into`): new days for a workflow that is fitted already
=========== =================================================================================================
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.config import SplitConfig
from recsys.errors import ConfigError, InputError, missing_column, nearest, one_line
from recsys.etl.occurrences import GROUP, Occurrences, Pairs
from recsys.etl.split_coverage import Jagged, count_groups, cover
from recsys.etl.windows import session_seeds
from recsys.schema import ITEM_ID, SESSION_ID, USER_ID

SPLIT = "split"
SPLITS = ("train", "val", "test")
TRAIN, VALIDATION, TEST = range(3)
DOCUMENT_VALIDATION_SHARE = 0.15  # of the groups that no item has claimed (section 4.8)
_PARAMETERS = {  # of each rule, as a report names them
    "share": ("test_share", "validation_share", "coverage"),
    "every_nth": ("every", "validation_share", "coverage"),
    "list": ("validation_share", "coverage"),
    "document": (),
    "none": ("into",),
}
LEAST_KEPT, MOST_KEPT = 128, 4096  # groups remembered of one item while groups and items are collected
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


def assign_splits(occurrences: pl.DataFrame | Occurrences, config: SplitConfig, by: str | None = None) -> SplitResult:
    """Assign every group to train, val or test.

    Args:
        occurrences: columns `group` (String, not null) and `item_id` (null: the group holds none that
            counts), the pairs that occur, repeated or not, in any order; or what a `collector` has collected.
        config: rule, shares (of groups), seed.
        by: the column that groups stand for (only reported).

    Returns:
        The assignment, and a report: counts and shares of groups, and the items of two or more groups that a
        split should hold and does not (`uncovered`; the first 1,000 by name, all by number).
    """
    if config.cuts_sequences:
        raise ConfigError(f"split.rule: '{config.rule}' cuts inside groups, which `recsys preprocess` does on events")
    table = _Table.of(occurrences.numbered() if isinstance(occurrences, Occurrences) else _numbered(occurrences))
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
    names = pl.Series(SPLIT, SPLITS, dtype=pl.String).gather(split)
    return SplitResult(pl.DataFrame([table.groups.alias(GROUP), names]), report)


def _numbered(occurrences: pl.DataFrame) -> Pairs:
    for column in (GROUP, ITEM_ID):
        if column not in occurrences.columns:
            raise missing_column("occurrences", column, occurrences.columns)
    if occurrences[GROUP].null_count():
        raise InputError("occurrences: column 'group' holds nulls; name the group or use ''")
    whole = Occurrences(keep=max(1, occurrences.height))
    whole.add(Pairs.of(occurrences))
    return whole.numbered()


def collector(config: SplitConfig) -> Occurrences:
    """What collects the pairs for `assign_splits` part by part.

    A small share keeps more groups of an item (up to `MOST_KEPT`), so that a split that holds an item is not said to
    lack it: by chance that happens to one item in ten million.
    """
    named = [*config.test_groups, *config.validation_groups] if config.rule == "list" else []
    return Occurrences(_groups_to_keep(config), named)


def _groups_to_keep(config: SplitConfig) -> int:
    """So many of an item's groups that a split of the smallest share wanted holds one of them, almost surely."""
    test = 1 / config.every if config.rule == "every_nth" else config.test_share if config.rule == "share" else 0.0
    shares = [share for share in (test, (1 - test) * config.validation_share) if share > 0]
    if config.rule == "document" or not shares:
        return LEAST_KEPT
    return min(MOST_KEPT, max(LEAST_KEPT, math.ceil(16 / min(shares))))  # (1 - s) ^ (16 / s) < 1.2e-7


@dataclass(frozen=True)
class _Table:
    """Groups and items as sorted names, their pairs as two jagged arrays of numbers."""

    groups: pl.Series
    items: pl.Series
    items_of: Jagged  # per group
    groups_of: Jagged  # per item

    @classmethod
    def of(cls, pairs: Pairs) -> "_Table":
        by_item = np.argsort(pairs.item, kind="stable")
        return cls(
            pairs.groups,
            pairs.items,
            Jagged.of(pairs.item, np.bincount(pairs.group, minlength=len(pairs.groups))),
            Jagged.of(pairs.group[by_item], np.bincount(pairs.item, minlength=len(pairs.items))),
        )

    def shuffled(self, seed: int, among: np.ndarray | None = None) -> np.ndarray:
        """Numbers of groups (`among` these) in the order of a hash, equal hashes by name."""
        chosen = np.arange(len(self.groups)) if among is None else among
        return chosen[np.argsort(session_seeds(self.groups.gather(chosen).to_list(), seed), kind="stable")]

    def number(self, name: str, field: str) -> int:
        found = self.groups.index_of(name)
        if found is None:
            hint = nearest(name, self.groups.head(20).to_list())
            raise ConfigError(f"split.{field}: no group '{name}' in the events{hint}")
        return found

    def needed(self, present: Sequence[int]) -> np.ndarray:
        """[items, 3]: which of the splits in use should hold an item."""
        sizes = self.groups_of.sizes
        need = np.stack([sizes >= 2, sizes >= (3 if TEST in present else 2), sizes >= 2], axis=1)
        for code in range(3):
            need[:, code] &= code in present
        return need

    def covered(self, split: np.ndarray, order: np.ndarray) -> np.ndarray:
        """`split` after the swaps among the groups of `order` that coverage asks for."""
        present = [code for code in range(3) if (split == code).any()]
        return cover(self.items_of, self.groups_of, self.needed(present), split, order)

    def uncovered(self, split: np.ndarray, with_test: bool) -> dict[str, list[str]]:
        present = [code for code in range(3) if (split == code).any() and (with_test or code != TEST)]
        missing = self.needed(present) & (count_groups(self.groups_of, split) == 0)
        return {SPLITS[code]: [self.items[int(i)] for i in np.flatnonzero(missing[:, code])] for code in present}


def _amount(share: float, of: int, spare: int) -> int:
    """`share` of `of` groups, at least one where a share is wanted and `spare` groups stay behind."""
    if share <= 0 or of <= spare:
        return 0
    return min(max(1, round(share * of)), of - spare)


def _by_share(table: _Table, config: SplitConfig) -> np.ndarray:
    split = np.full(len(table.groups), TRAIN, dtype=np.int64)
    order = table.shuffled(config.seed)
    tests = _amount(config.test_share, len(order), 1)
    split[order[:tests]] = TEST
    rest = order[tests:]
    split[rest[: _amount(config.validation_share, len(rest), 1)]] = VALIDATION
    return table.covered(split, order) if config.coverage else split


def _every_nth(table: _Table, config: SplitConfig) -> np.ndarray:
    split = np.full(len(table.groups), TRAIN, dtype=np.int64)
    names = table.groups.to_list()
    order = list(range(len(names)))  # sorted as text already
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        order.sort(key=lambda g: int(names[g]))
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
    rest = table.shuffled(config.seed, np.flatnonzero(split != TEST))
    split[rest[: _amount(config.validation_share, len(rest), 1)]] = VALIDATION
    return table.covered(split, rest) if config.coverage else split


def _document(table: _Table, config: SplitConfig) -> np.ndarray:
    """Section 4.8: per item one group to train and one to validation; then 85/15 of those left."""
    rng = np.random.default_rng(config.seed)
    split = np.full(len(table.groups), -1, dtype=np.int64)
    for item in range(len(table.items)):
        free = rng.permutation(table.groups_of[item])
        for code in (TRAIN, VALIDATION):
            fitting = free[(split[free] == -1) | (split[free] == code)]
            if len(fitting):
                split[fitting[0]] = code
    left = rng.permutation(np.flatnonzero(split == -1))
    validation = round(DOCUMENT_VALIDATION_SHARE * len(left))
    split[left[:validation]] = VALIDATION
    split[left[validation:]] = TRAIN
    return split


_RULES: dict[str, Callable[[_Table, SplitConfig], np.ndarray]] = {
    "share": _by_share,
    "every_nth": _every_nth,
    "list": _listed,
    "document": _document,
    "none": lambda table, config: np.full(len(table.groups), SPLITS.index(config.into), dtype=np.int64),
}

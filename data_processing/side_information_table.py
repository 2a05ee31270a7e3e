"""The table of side information: a row for each command, how it is reviewed, and what a person's corrections change."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from data_processing.parts import EventsFolder
from recsys.cleaning.fitting import SideInformationConfig
from recsys.cleaning.profile import Profile
from recsys.cleaning.small_tables import read_rows
from recsys.cleaning.workflows import WORKFLOWS_FILE, Workflows
from recsys.errors import InputError, nearest
from recsys.schema import CLASSIFICATION, DESCRIPTION, ITEM_ID, TARGET

TABLE_FILE = "side_information.csv"
COSTS_FILE = "side_information_costs.json"
SUMMARY = "summary"
FIELDS = (SUMMARY, CLASSIFICATION, TARGET)
# What became of a command: a model answered; sentences and labels without one; failed, so nulls; all was known; a
# person's correction; too rare to have an id; beyond the limit.
ANSWERED, EXTRACTED, FAILED, KNOWN, OVERRIDE, RARE, NOT_ASKED = (
    "answered", "extracted", "failed", "known", "override", "rare", "not asked",
)  # fmt: skip


@dataclass
class Row:
    """One command: the item, its readable name, and what is said of it."""

    item: str
    name: str
    values: dict[str, str | None] = field(default_factory=dict)  # by the names of FIELDS
    sources: list[str] = field(default_factory=list)
    status: str = ""
    reason: str = ""
    fixed: set[str] = field(default_factory=set)  # fields that a person gave


def names_of(items: Sequence[str], folder: EventsFolder) -> list[str]:
    """Readable names: what `align.name_pattern` takes, without the menu before it (``File - Open``); of a workflow
    those of its commands; else the whole item.
    """
    return readable_names(items, folder.profile, folder.path / "cleaning")


def readable_names(items: Sequence[str], profile: Profile | None, cleaning: Path) -> list[str]:
    """The same by a profile (None: no rules, so a name is the whole item) and a folder that may hold workflows."""
    align = profile.align if profile else None
    pattern = re.compile(align.name_pattern) if align and align.name_pattern else None
    path = cleaning / WORKFLOWS_FILE
    workflows = Workflows.load(path) if path.is_file() else Workflows()

    def name(item: str) -> str:
        match = pattern.search(item) if pattern else None
        taken = next((group for group in match.groups() if group), None) if match else None
        return taken.rsplit(" - ", 1)[-1].strip() if taken else item.strip()

    return [", then ".join(dict.fromkeys(name(command) for command in workflows.expand(item))) for item in items]


def review_table(rows: Sequence[Row], commands: pl.DataFrame) -> pl.DataFrame:
    """item_id, summary, classification, target, sources, status, reason of the enriched `commands`, in their order."""
    told: dict[str, list[str | None]] = {
        "sources": ["; ".join(row.sources) or None for row in rows],
        "status": [row.status for row in rows],
        "reason": [row.reason or None for row in rows],
    }
    given = commands.select(ITEM_ID, pl.col(DESCRIPTION).alias(SUMMARY), CLASSIFICATION, TARGET)
    return given.with_columns(pl.Series(name, values, dtype=pl.String) for name, values in told.items())


def enriched(commands: pl.DataFrame, rows: Sequence[Row], replace: bool) -> pl.DataFrame:
    """`commands` with classification, target and description (the summary) of `rows`, which are in its order.

    A value that is there stays, unless a person gave another or `replace`; nothing becomes null that was not.
    """
    for of, column in ((SUMMARY, DESCRIPTION), (CLASSIFICATION, CLASSIFICATION), (TARGET, TARGET)):
        new = pl.Series([row.values.get(of) for row in rows], dtype=pl.String)
        wins = pl.Series([replace or of in row.fixed for row in rows], dtype=pl.Boolean)
        old = commands[column].cast(pl.String)
        filled = pl.DataFrame({"old": old, "new": new, "wins": wins}).select(
            pl.when("wins").then(pl.coalesce("new", "old")).otherwise(pl.coalesce("old", "new")).alias(column)
        )
        commands = commands.with_columns(filled[column])
    return commands


def apply_overrides(rows: Sequence[Row], path: Path, config: SideInformationConfig) -> None:
    """Put a person's corrections in; an empty cell corrects nothing.

    Raises:
        InputError: names the file and row of an unknown command or label, or of a second row for one command.
    """
    known = {row.item: row for row in rows}
    seen: dict[str, int] = {}
    for number, values in read_rows(path, (ITEM_ID,), any_of=FIELDS):
        item = values[ITEM_ID]
        if item not in known:
            raise InputError(f"{path}: row {number}: no command '{item}'{_near(item, list(known))}")
        if item in seen:
            raise InputError(f"{path}: row {number}: '{item}' stands in row {seen[item]} already; keep one of the two")
        seen[item] = number
        given = {name: values[name].strip() for name in FIELDS if name in values}
        _override(known[item], given, f"{path}: row {number}", config)


def _override(row: Row, values: dict[str, str], place: str, config: SideInformationConfig) -> None:
    for name, labels in ((CLASSIFICATION, config.classification), (TARGET, config.target)):
        value = values.get(name)
        if value and value not in labels:
            raise InputError(f"{place}: {name} '{value}' is none of the profile's labels{nearest(value, labels)}")
    for name, value in values.items():
        if value:
            row.values[name] = value
            row.fixed.add(name)
    if row.fixed and (row.status or len(row.fixed) == len(FIELDS)):
        row.status, row.reason = OVERRIDE, ""


def _near(item: str, known: list[str]) -> str:
    close = nearest(item, known)
    return close if close.startswith(" (did you mean") else "; the commands are in commands.parquet"

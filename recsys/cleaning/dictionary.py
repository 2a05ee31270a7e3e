"""The command dictionary: which label each message goes by. `data_processing.align` writes it, this applies it.

``command_dictionary.csv`` has a row a message, ``message``, ``label`` and ``command_id`` among its columns, and is for
a person to read and edit. A label is itself a message of the file; one that has another label is followed.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import polars as pl

from recsys.cleaning.fitting import AlignConfig
from recsys.cleaning.small_tables import Row, read_rows, write_rows
from recsys.errors import InputError
from recsys.schema import ITEM_ID

DICTIONARY_FILE = "command_dictionary.csv"
MESSAGE, LABEL, COMMAND_ID = "message", "label", "command_id"
_COUNT = "count"
_COMPARED = 20_000  # names among which the nearest is looked for


class CommandIds:
    """The id of a command, taken from its message: the groups of `AlignConfig.id_pattern`, joined by a blank."""

    def __init__(self, align: AlignConfig | None) -> None:
        self._pattern = None if align is None or align.id_pattern is None else re.compile(align.id_pattern)
        self._untrusted = frozenset() if align is None else frozenset(align.untrusted_ids)

    def of(self, message: str) -> str | None:
        """None where the message has no id, or one that is not trusted."""
        found = self._pattern.search(message) if self._pattern else None
        if found is None:
            return None
        command_id = " ".join(group for group in found.groups() if group)
        return None if not command_id or command_id in self._untrusted else command_id


@dataclass(frozen=True)
class Dictionary:
    """Labels of messages, and so of command ids.

    Args:
        table: message, command_id (null where it has none), label; each message once, each label standing for itself.
    """

    table: pl.DataFrame

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``command_dictionary.csv``, also after a person edited it; only message and label need be there.

        Raises:
            InputError: no such file, a column is missing, a blank cell, two labels for one message, a label that is no
                message of the file, or labels that lead in a circle (names file and row).
        """
        rows = read_rows(path, (MESSAGE, LABEL))
        given = labels_of(rows, path)
        require_known(given, given, path, "correct it, or give the file a row with this message")
        ids = {row[MESSAGE]: row.get(COMMAND_ID) or None for _, row in rows}
        labels = [_followed(message, given, path) for message in given]
        values = {MESSAGE: list(given), COMMAND_ID: [ids[message] for message in given], LABEL: labels}
        return cls(pl.DataFrame(values, schema=_text(MESSAGE, COMMAND_ID, LABEL)))

    def save(self, path: Path) -> None:
        """Write the three columns; `load` reads them back as they are."""
        write_rows(path, self.table.columns, self.table.iter_rows())

    @property
    def labels(self) -> pl.DataFrame:
        """message, label."""
        return self.table.select(MESSAGE, LABEL)

    @property
    def ids(self) -> pl.DataFrame:
        """command_id, label: of the ids whose messages all have one label."""
        found = self.table.drop_nulls(COMMAND_ID).group_by(COMMAND_ID, maintain_order=True)
        return found.agg(pl.col(LABEL).unique()).filter(pl.col(LABEL).list.len() == 1).explode(LABEL)

    def apply(self, events: pl.DataFrame, align: AlignConfig | None = None) -> pl.DataFrame:
        """`events` with each item_id replaced by its label; rows, columns and their order stay.

        A message that the dictionary does not hold goes by the label of its command id, which `align` (of the profile)
        says how to find, where all known messages of that id have one label. Others stay as they are.
        """
        return self.apply_counted(events, align)[0]

    def apply_counted(self, events: pl.DataFrame, align: AlignConfig | None = None) -> tuple[pl.DataFrame, int]:
        """`apply`, and the number of events without a label: neither their message nor its command id has one."""
        names = events[ITEM_ID].drop_nulls().value_counts(name=_COUNT)
        known = names.join(self.labels, left_on=ITEM_ID, right_on=MESSAGE, how="left")
        if align is not None and align.id_pattern is not None:
            ids = CommandIds(align)
            unseen = known.filter(pl.col(LABEL).is_null()).drop(LABEL)
            found = pl.Series(COMMAND_ID, [ids.of(name) for name in unseen[ITEM_ID].to_list()], dtype=pl.String)
            by_id = unseen.with_columns(found).join(self.ids, on=COMMAND_ID, how="left").drop(COMMAND_ID)
            known = pl.concat([known.drop_nulls(LABEL), by_id])
        renamed = known.filter(pl.col(LABEL) != pl.col(ITEM_ID))
        replaced = events.with_columns(pl.col(ITEM_ID).replace(renamed[ITEM_ID], renamed[LABEL]))
        return replaced, int(known.filter(pl.col(LABEL).is_null())[_COUNT].sum())


def _text(*names: str) -> dict[str, type[pl.String]]:
    return dict.fromkeys(names, pl.String)


@dataclass(frozen=True)
class Given:
    """A label that a file gives to a message."""

    label: str
    row: int


def labels_of(rows: list[Row], path: Path) -> dict[str, Given]:
    """Label and row of each message.

    Raises:
        InputError: two labels for one message.
    """
    given: dict[str, Given] = {}
    for number, row in rows:
        found = given.setdefault(row[MESSAGE], Given(row[LABEL], number))
        if found.label != row[LABEL]:
            raise InputError(
                f"{path}: row {number}: message '{row[MESSAGE]}' has the label '{row[LABEL]}' here and '{found.label}' "
                f"in row {found.row}; leave one of the two"
            )
    return given


def require_known(given: Mapping[str, Given], known: Iterable[str], path: Path, fix: str) -> None:
    """Refuse a label that is none of `known`, and show the nearest one."""
    known = known if isinstance(known, (dict, set, frozenset)) else set(known)
    for label in given.values():
        if label.label not in known:
            hint = nearest_message(label.label, known)
            raise InputError(f"{path}: row {label.row}: label '{label.label}' is not known{hint}; {fix}")


def nearest_message(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` or nothing; of very many names only those with an equal start or end are compared."""
    names = list(known)
    if len(names) > _COMPARED:
        names = [n for n in names if n[:12] == name[:12] or n[-6:] == name[-6:]][:_COMPARED]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _followed(message: str, given: Mapping[str, Given], path: Path) -> str:
    passed = {message: None}  # in order
    at = message
    while given[at].label != at:
        at = given[at].label
        if at in passed:
            raise circle(list(passed)[list(passed).index(at) :], given, path)
        passed[at] = None
    return at


def circle(names: list[str], given: Mapping[str, Given], path: Path) -> InputError:
    """The error for messages whose labels lead in a circle."""
    first = min(names, key=lambda name: given[name].row)
    start = names.index(first)
    way = [*names[start:], *names[:start], first]
    shown = " -> ".join(f"'{name}'" for name in way[:6]) + (" -> ..." if len(way) > 6 else "")
    return InputError(
        f"{path}: row {given[first].row}: labels lead in a circle: {shown}; let one of them be its own label"
    )

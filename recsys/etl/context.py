"""Columns with one value a sequence: that they have one, and where not."""

from dataclasses import dataclass

import polars as pl

from recsys.errors import InputError
from recsys.etl.events import Events
from recsys.schema import SESSION_ID, USER_ID

_ROW = "row"


@dataclass(frozen=True)
class Change:
    """A sequence in which a column has more than one value."""

    sequence: str
    column: str


class VaryingContext(InputError):
    """A column of `etl.context` changes within a sequence. Sorted rows do not tell which row of which file that is."""

    change: Change

    @classmethod
    def of(cls, change: Change, source: object) -> "VaryingContext":
        """Without a row."""
        error = cls(_message(change, source, ""))
        error.change = change  # kept by pickle, since workers may be other processes
        return error

    def placed(self, row: int | None, source: object) -> "VaryingContext":
        """The same with the row of `source` that differs from the rows before it."""
        error = type(self)(_message(self.change, source, "" if row is None else f", row {row}"))
        error.change = self.change
        return error


def _message(change: Change, source: object, row: str) -> str:
    return (
        f"{source}: column '{change.column}'{row}: another value than before in '{change.sequence}', and etl.context "
        "says that it is one a sequence; fill it in alike, or take it out of etl.context"
    )


def require_constant(frame: pl.DataFrame, column: str, source: object) -> None:
    """Raise VaryingContext where neighbouring rows of one session have different values (null is one)."""
    same = pl.col(SESSION_ID) == pl.col(SESSION_ID).shift(1)
    changed = frame.filter(same & pl.col(column).ne_missing(pl.col(column).shift(1)))
    if changed.height:
        raise VaryingContext.of(Change(str(changed[SESSION_ID][0]), column), source)


def changes(rows: pl.DataFrame, change: Change, first_row: int = 1) -> int | None:
    """Number of the first of `rows` (as given) whose value is not that of the sequence's first row."""
    own = rows.with_row_index(_ROW, first_row).filter(pl.col(SESSION_ID).cast(pl.String) == change.sequence)
    other = own.filter(pl.col(change.column).ne_missing(pl.col(change.column).first()))
    return int(other[_ROW][0]) if other.height else None


def locate(events: Events, error: VaryingContext, *, merge: bool = False) -> VaryingContext:
    """The same error with file and row, found by reading the events again.

    merge: sequences are users.
    """
    change, first = error.change, None
    names = [SESSION_ID, *([USER_ID] if merge else []), change.column]
    for columns, source, row in events.parts(names):
        rows = pl.DataFrame({n: c if isinstance(c, pl.Series) else pl.from_arrow(c) for n, c in columns.items()})
        if merge:
            users = pl.coalesce(pl.col(USER_ID).cast(pl.String), pl.format("session {}", SESSION_ID))
            rows = rows.with_columns(users.alias(SESSION_ID))
        rows = rows.select(pl.col(SESSION_ID).cast(pl.String), change.column)
        own = rows.filter(pl.col(SESSION_ID) == change.sequence)
        if not own.height:
            continue
        first = own.head(1) if first is None else first
        seen = pl.concat([first, rows], how="vertical_relaxed")
        found = changes(seen, change, row - 1)
        if found is not None:
            return error.placed(found, source)
    return error

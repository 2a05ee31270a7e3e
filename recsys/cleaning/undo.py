"""A true undo/redo stack per session, fed row by row: batch cleaning and a live tail share it.

- An event (`Kind.EVENT`) goes on the undo stack and clears the redo stack. It owns the Tool or Menu row that began
  it: the last one since the event before, rows that begin nothing (`UndoConfig.not_starters`) and, where
  `UndoConfig.starter_seconds` says so, rows of longer ago left aside. Where a row of `Kind.HIDDEN` came after that
  one, it began the event, and there is no row to take along.
- An undo takes back the newest event of its name that is not undone, with the row that began it; a redo brings back
  the newest undone event of its name, with that row; ``Undo and Remove`` takes back for good.
- Undo and redo rows themselves always leave; those that find nothing are counted as unmatched.
"""

from collections.abc import Iterable
from itertools import repeat

import polars as pl

from recsys.cleaning.parser import KIND, Kind
from recsys.cleaning.profile import Profile
from recsys.schema import ITEM_ID, TIMESTAMP

NAME = "name"
FOLLOWS_HIDDEN = "follows_hidden"  # rows right after one of `Kind.HIDDEN`
UNDONE = "undone event"
STARTER = "began an undone event"
UNDO_ROW = "undo row"
REDO_ROW = "redo row"
UNMATCHED_UNDO = "undo row without an event"
UNMATCHED_REDO = "redo row without an undone event"

_Event = tuple[int, int | None]  # row of the event, row that began it
Change = tuple[int, str | None]  # a row and why it leaves; None: it is there again
_NOTHING: tuple[Change, ...] = ()


class UndoStack:
    """The stack of one session. Feed it every row that is not noise, in order; `removed` says which rows are gone.

    Each step takes constant time. A row may leave `removed` again (redo), so read it when an answer is wanted, or
    follow what `feed` returns.
    """

    def __init__(self, starters: bool = True, starter_seconds: float | None = None) -> None:
        """`starters`: an undone event takes along the Tool or Menu row that began it, at most `starter_seconds` old."""
        self.removed: dict[int, str] = {}  # row -> why
        self._starters = starters
        self._longest = None if starter_seconds is None else round(starter_seconds * 1_000_000)
        self._starter: tuple[int, int] | None = None  # row, time
        # Of each name its own stack: undo and redo name what they mean, and in each the newest is on top.
        self._done: dict[str, list[_Event]] = {}
        self._undone: dict[str, list[_Event]] = {}

    def feed(self, row: int, kind: int, name: str, time: int = 0, follows_hidden: bool = False) -> tuple[Change, ...]:
        """Take the next row and say what it changed: at most three rows, itself included.

        Args:
            row: its number.
            kind: its `Kind`.
            name: what undo rows share with the events they mean.
            time: microseconds; only compared where there is a limit of seconds.
            follows_hidden: whether the row before it was of `Kind.HIDDEN`.
        """
        if follows_hidden:
            self._starter = None
        if kind == Kind.EVENT:
            self._done.setdefault(name, []).append((row, self._began(time)))
            self._starter = None
            self._undone.clear()
        elif kind == Kind.STARTER:
            if self._starters:
                self._starter = (row, time)
        elif kind in (Kind.UNDO, Kind.REMOVE):
            return self._note(self._undo(row, kind, name))
        elif kind == Kind.REDO:
            return self._note(self._redo(row, name))
        return _NOTHING

    def _began(self, time: int) -> int | None:
        if self._starter is None or (self._longest is not None and time - self._starter[1] > self._longest):
            return None
        return self._starter[0]

    def _undo(self, row: int, kind: int, name: str) -> tuple[Change, ...]:
        events = self._done.get(name)
        if not events:
            return ((row, UNMATCHED_UNDO),)
        event, starter = events.pop()
        if kind == Kind.UNDO:
            self._undone.setdefault(name, []).append((event, starter))
        changes = ((row, UNDO_ROW), (event, UNDONE))
        return changes if starter is None else (*changes, (starter, STARTER))

    def _redo(self, row: int, name: str) -> tuple[Change, ...]:
        events = self._undone.get(name)
        if not events:
            return ((row, UNMATCHED_REDO),)
        event, starter = events.pop()
        self._done.setdefault(name, []).append((event, starter))
        changes = ((row, REDO_ROW), (event, None))
        return changes if starter is None else (*changes, (starter, None))

    def _note(self, changes: tuple[Change, ...]) -> tuple[Change, ...]:
        for row, why in changes:
            if why is None:
                del self.removed[row]
            else:
                self.removed[row] = why
        return changes


def removed_by_undo(
    sessions: Iterable[int],
    kinds: Iterable[int],
    names: Iterable[str],
    starters: bool,
    times: Iterable[int] | None = None,
    starter_seconds: float | None = None,
    follows_hidden: Iterable[bool] | None = None,
) -> dict[int, str]:
    """Feed rows of many sessions, each contiguous, to one stack a session; returns row position -> why it leaves.

    `times` (microseconds) are needed where `starter_seconds` is given.
    """
    removed: dict[int, str] = {}
    stack = UndoStack(starters, starter_seconds)
    current: int | None = None
    # zip stops at the shortest: repeat has no end
    more = (repeat(0) if times is None else times, repeat(False) if follows_hidden is None else follows_hidden)
    rows = zip(zip(sessions, kinds, names, strict=True), *more, strict=False)
    for row, ((session, kind, name), time, follows) in enumerate(rows):
        if session != current:
            removed.update(stack.removed)
            stack, current = UndoStack(starters, starter_seconds), session
        stack.feed(row, kind, name, time, follows)
    removed.update(stack.removed)
    return removed


def stack_name(profile: Profile) -> pl.Expr:
    """The column ``name`` of rows: what undo rows share with the events they mean."""
    name = pl.col(ITEM_ID).str.replace(r"^[^:]*: ", "") if profile.grammar == "vectorworks" else pl.lit("")
    return name.alias(NAME)


def undo_reasons(frame: pl.DataFrame, session: str, profile: Profile) -> pl.Series:
    """Why each row of `frame` leaves (null: it stays), given whole sessions in order and numbered by `session`."""
    nothing = pl.Series("reason", [], dtype=pl.String).extend_constant(None, frame.height)
    if profile.undo.mode == "keep" or not (frame[KIND] >= Kind.UNDO.value).any():
        return nothing
    if profile.undo.mode == "none":
        is_redo = pl.col(KIND) == Kind.REDO.value
        leaves = pl.when(is_redo).then(pl.lit(REDO_ROW)).when(pl.col(KIND) >= Kind.UNDO.value).then(pl.lit(UNDO_ROW))
        return frame.select(leaves.alias("reason")).to_series()
    # Only sessions with an undo row, and in them only rows that the stack looks at.
    limit = profile.undo.starter_seconds
    columns = [session, ITEM_ID, KIND, *([] if limit is None else [TIMESTAMP])]
    counts = pl.col(KIND) != Kind.PLAIN.value
    if FOLLOWS_HIDDEN in frame.columns:
        columns.append(FOLLOWS_HIDDEN)
        counts |= pl.col(FOLLOWS_HIDDEN)
    touched = (
        frame.select(columns)
        .with_row_index("row")
        .filter((pl.col(KIND) >= Kind.UNDO.value).any().over(session), counts)
        .with_columns(stack_name(profile))
    )
    removed = removed_by_undo(
        *(touched[session], touched[KIND], touched[NAME], profile.undo.starters),
        times=None if limit is None else touched[TIMESTAMP],
        starter_seconds=limit,
        follows_hidden=touched[FOLLOWS_HIDDEN] if FOLLOWS_HIDDEN in columns else None,
    )
    if not removed:
        return nothing
    rows = touched["row"].gather(list(removed))
    return nothing.scatter(rows, pl.Series(list(removed.values())))

"""A true undo/redo stack per session, fed row by row: batch cleaning and a live tail share it.

- An event (`Kind.EVENT`) goes on the undo stack and clears the redo stack. It owns the Tool or Menu row that began
  it: the last one since the event before.
- An undo takes back the newest event of its name that is not undone, with the row that began it; a redo brings back
  the newest undone event of its name, with that row; ``Undo and Remove`` takes back for good.
- Undo and redo rows themselves always leave; those that find nothing are counted as unmatched.
"""

from collections.abc import Iterable

import polars as pl

from recsys.cleaning.parser import KIND, Kind
from recsys.cleaning.profile import Profile
from recsys.schema import ITEM_ID

UNDONE = "undone event"
STARTER = "began an undone event"
UNDO_ROW = "undo row"
REDO_ROW = "redo row"
UNMATCHED_UNDO = "undo row without an event"
UNMATCHED_REDO = "redo row without an undone event"

_Event = tuple[int, int | None]  # row of the event, row that began it


class UndoStack:
    """The stack of one session. Feed it every row that is not noise, in order; `removed` says which rows are gone.

    Each step takes constant time. A row may leave `removed` again (redo), so read it when an answer is wanted.
    """

    def __init__(self, starters: bool = True) -> None:
        """`starters`: an undone event takes along the Tool or Menu row that began it."""
        self.removed: dict[int, str] = {}  # row -> why
        self._starters = starters
        self._starter: int | None = None
        # Of each name its own stack: undo and redo name what they mean, and in each the newest is on top.
        self._done: dict[str, list[_Event]] = {}
        self._undone: dict[str, list[_Event]] = {}

    def feed(self, row: int, kind: int, name: str) -> None:
        """Take the next row: its number, its `Kind`, and the name that undo rows share with events."""
        if kind == Kind.EVENT:
            self._done.setdefault(name, []).append((row, self._starter))
            self._starter = None
            self._undone.clear()
        elif kind == Kind.STARTER:
            if self._starters:
                self._starter = row
        elif kind in (Kind.UNDO, Kind.REMOVE):
            self._undo(row, kind, name)
        elif kind == Kind.REDO:
            self._redo(row, name)

    def _undo(self, row: int, kind: int, name: str) -> None:
        events = self._done.get(name)
        if not events:
            self.removed[row] = UNMATCHED_UNDO
            return
        event = events.pop()
        self.removed[row] = UNDO_ROW
        self.removed[event[0]] = UNDONE
        if event[1] is not None:
            self.removed[event[1]] = STARTER
        if kind == Kind.UNDO:
            self._undone.setdefault(name, []).append(event)

    def _redo(self, row: int, name: str) -> None:
        events = self._undone.get(name)
        if not events:
            self.removed[row] = UNMATCHED_REDO
            return
        event = events.pop()
        self.removed[row] = REDO_ROW
        del self.removed[event[0]]
        if event[1] is not None:
            del self.removed[event[1]]
        self._done.setdefault(name, []).append(event)


def removed_by_undo(
    sessions: Iterable[int], kinds: Iterable[int], names: Iterable[str], starters: bool
) -> dict[int, str]:
    """Feed rows of many sessions, each contiguous, to one stack a session; returns row position -> why it leaves."""
    removed: dict[int, str] = {}
    stack = UndoStack(starters)
    current: int | None = None
    for row, (session, kind, name) in enumerate(zip(sessions, kinds, names, strict=True)):
        if session != current:
            removed.update(stack.removed)
            stack, current = UndoStack(starters), session
        stack.feed(row, kind, name)
    removed.update(stack.removed)
    return removed


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
    touched = frame.with_row_index("row").filter(
        (pl.col(KIND) >= Kind.UNDO.value).any().over(session), pl.col(KIND) != Kind.PLAIN.value
    )
    named = profile.grammar == "vectorworks"
    name = pl.col(ITEM_ID).str.replace(r"^[^:]*: ", "") if named else pl.lit("")
    names = touched.with_columns(name.alias("name"))["name"]
    removed = removed_by_undo(touched[session], touched[KIND], names, profile.undo.starters)
    if not removed:
        return nothing
    rows = touched["row"].gather(list(removed))
    return nothing.scatter(rows, pl.Series(list(removed.values())))

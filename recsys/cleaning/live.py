"""Cleaning of a log that grows: after any number of lines the same events as batch cleaning of those lines.

What one row says is read by the functions of batch cleaning, a batch of lines at a time. What depends on the rows
before it (jumps of the wall clock, time within the second, gaps, undo) is a small state a session, advanced row by
row in constant time. A row whose time lies before rows already taken is put in its place and its session (without a
session column: its user) is replayed, once a call of `LiveCleaner.feed`. Repeats, names and fitted rules are applied
when events are asked for, by the functions of batch cleaning.

Memory grows with the rows that carry a command or an undo, also with those that are undone, since a late row may
change what an undo meant. `LiveCleaner.forget` gives it back, and `LiveCleaner.last_times` tells who is idle.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from recsys.cleaning.funnel import Funnel
from recsys.cleaning.lines import LineReader
from recsys.cleaning.parser import CLOCK, KIND, MESSAGE, Kind, MessageParser
from recsys.cleaning.pipeline import select_rows
from recsys.cleaning.profile import Profile
from recsys.cleaning.rules import NO_RULES, Rules, apply_rules
from recsys.cleaning.sessions import FIRST, HASH, NUMBER, SECOND, add_hash, finish_sessions, key_column
from recsys.cleaning.tables import require
from recsys.cleaning.undo import NAME, REDO_ROW, UNDO_ROW, UndoStack, stack_name
from recsys.schema import CATEGORY, ITEM_ID, SESSION_ID, TIMESTAMP

LATE = "a late row changed it"


@dataclass(frozen=True)
class Change:
    """One row that came or went, before repeats collapse and before fitted rules (which `LiveCleaner.events` applies).

    added: a new event row; retracted: it is gone (`why`: an undo, or a late row); restored: a redo brought it back.
    Rows that never were events (undo, redo, noise) do not show up.
    """

    what: Literal["added", "retracted", "restored"]
    session_id: str
    item_id: str
    timestamp: int  # microseconds UTC
    why: str = ""


@dataclass(slots=True)
class _Row:
    values: tuple[str | None, ...]  # the columns that are text
    item: str
    kind: int
    name: str
    second: int  # as logged, jumps of the wall clock mended
    clock: int | None
    time: int = 0
    number: int = 0  # of the session within the key
    reason: str | None = None  # why it is gone
    shown: tuple[int, int] | None = None  # (number, time) under which changes announced it; None: gone or never shown
    known: tuple[int, int] | None = None  # the same, kept while it is gone


class _Order:
    """Mends the wall clock in the order of the log: the plain twin of `sessions._in_order`."""

    def __init__(self) -> None:
        self.time: int | None = None
        self.clock: int | None = None
        self.jump = 0

    def mend(self, time: int, clock: int | None) -> int:
        """The time of the next row of the log."""
        if self.time is not None and time < self.time and clock is not None and self.clock is not None:
            counted = (clock - self.clock) // SECOND * SECOND
            if counted >= 0:
                self.jump += self.time - time + counted
        self.time, self.clock = time, clock
        return time + self.jump


class _Within:
    """The time within the second from the process clock: the plain twin of `sessions._with_clock`."""

    def __init__(self) -> None:
        self.second: int | None = None
        self.clock: int | None = None
        self.offset: int | None = None
        self.latest = 0

    def time(self, second: int, clock: int | None) -> int:
        """The time of the next row by second."""
        if clock is not None and self.clock is not None and clock < self.clock:
            self.offset = None
        within = 0
        if clock is not None:
            known = second - clock
            self.offset = known if self.offset is None else max(self.offset, known)
            within = min(max(clock + self.offset - second, 0), SECOND - 1)
        self.latest = max(self.latest, within) if second == self.second else within
        self.second, self.clock = second, clock
        return second + self.latest


@dataclass
class _Key:
    """Everything of one session, or of one user where sessions come from gaps."""

    hash: int
    order: _Order = field(default_factory=_Order)
    rows: list[_Row] = field(default_factory=list)  # by second; equal ones in the order of the log
    within: _Within = field(default_factory=_Within)
    stack: UndoStack = field(default_factory=UndoStack)
    last: _Row | None = None  # the newest row that is not hidden
    late: bool = False  # rows wait for a replay


class LiveCleaner:
    """Cleans a growing log of any number of sessions, users and clients.

    Args:
        profile: the rules of cleaning.
        rules: fitted rules of a run; None drops nothing for being rare.
        source: what errors call the log.
    """

    def __init__(self, profile: Profile, rules: Rules = NO_RULES, source: str = "live log") -> None:
        self.profile, self.rules = profile, rules
        self.reader = LineReader(profile, source)  # its `rejected` and `rejected_count` tell what could not be read
        self.funnel = Funnel()  # of the stages that look at single rows: read, category, noise
        self._parser = MessageParser(profile)
        self._key = key_column(profile)
        self._gap = None if profile.gap_minutes is None else round(profile.gap_minutes * 60 * SECOND)
        self._keys: dict[str, _Key] = {}
        self._columns: list[str] = []  # text columns of the rows, in the order of `_Row.values`

    def feed(self, lines: Iterable[str] | pl.DataFrame) -> list[Change]:
        """Take the next lines of the log, or a frame with the columns of `RAW_COLUMNS`, and say what they changed.

        A line that cannot be read is counted in ``reader.rejected_count`` and the newest are kept in
        ``reader.rejected`` as errors that name the log and the line; the other lines are taken.

        Raises:
            InputError: the header of a CSV log, or the frame, lacks a column.
        """
        frames = [self._checked(lines)] if isinstance(lines, pl.DataFrame) else self.reader.read(lines)
        changes: list[Change] = []
        for frame in frames:
            changes += self._take(select_rows(frame, self.profile, self.funnel, self._parser))
        return changes

    def events(self, session_id: str | None = None) -> pl.DataFrame:
        """What `clean_logs` gives for the lines so far: all events, or those of one session (empty: none is known).

        Where batch cleaning raises because no event is left, the table is empty.
        """
        if session_id is None:
            chosen = sorted(self._keys, key=lambda key: (self._keys[key].hash, key))
        else:
            key = session_id if self._gap is None else session_id.rpartition("-")[0]
            chosen = [key] if key in self._keys else []
        rows, reasons = self._table(chosen)
        funnel = Funnel()
        events = finish_sessions(rows, reasons, self.profile, funnel)
        if self.rules is not None:
            events = apply_rules(events, self.profile, self.rules, funnel)
        return events if session_id is None else events.filter(pl.col(SESSION_ID) == session_id)

    def last_times(self) -> dict[str, int]:
        """The newest time (microseconds UTC) of each session, or user where sessions come from gaps."""
        return {key: entry.rows[-1].time for key, entry in self._keys.items()}

    def forget(self, key: str) -> None:
        """Drop all that is kept of a session, or user where sessions come from gaps (unknown: nothing happens).

        Rows of it that come later start anew: an undo among them cannot reach what was forgotten.
        """
        self._keys.pop(key, None)

    def _take(self, frame: pl.DataFrame) -> list[Change]:
        special = (ITEM_ID, KIND, TIMESTAMP, CLOCK)
        self._add_columns([c for c in frame.columns if c not in special])
        if not frame.height:
            return []
        hashes = add_hash(frame.select(self._key), self.profile)[HASH]
        names = frame.with_columns(stack_name(self.profile))[NAME]
        plain = (frame[self._key], hashes, frame[ITEM_ID], frame[KIND], names, frame[TIMESTAMP])
        empty = pl.Series([None]).new_from_index(0, frame.height)
        texts = (frame[c] if c in frame.columns else empty for c in (CLOCK, *self._columns))
        table = zip(*(column.to_list() for column in (*plain, *texts)), strict=True)
        changes: list[Change] = []
        late: dict[str, _Key] = {}
        for key, number, item, kind, name, time, clock, *values in table:
            entry = self._keys.get(key) or self._new(key, number)
            second = entry.order.mend(time, clock)
            row = _Row(tuple(values), item, kind, name, second, clock)
            if entry.late or (entry.rows and second < entry.rows[-1].second):
                entry.rows.insert(bisect_right(entry.rows, second, key=lambda r: r.second), row)
                entry.late = True
                late[key] = entry
            else:
                entry.rows.append(row)
                stepped = self._step(entry, len(entry.rows) - 1)
                changes += self._show(key, [(entry.rows[at], why) for at, why in stepped])
        for key, entry in late.items():
            changes += self._replay(key, entry)
        return changes

    def _checked(self, frame: pl.DataFrame) -> pl.DataFrame:
        category = [] if self.profile.categories is None else [CATEGORY]
        for column in (self._key, MESSAGE, TIMESTAMP, *category, *self.profile.columns.keep):
            require([column], frame.columns, "frame")
        return frame

    def _add_columns(self, names: list[str]) -> None:
        """Columns that came later (another file) are null in rows taken before."""
        new = [c for c in names if c not in self._columns]
        self._columns += new
        if new and self._keys:
            for entry in self._keys.values():
                for row in entry.rows:
                    row.values += (None,) * len(new)

    def _new(self, key: str, number: int) -> _Key:
        entry = self._keys[key] = _Key(number, stack=self._stack())
        return entry

    def _stack(self) -> UndoStack:
        return UndoStack(self.profile.undo.starters, self.profile.undo.starter_seconds)

    def _step(self, entry: _Key, at: int) -> list[tuple[int, str | None]]:
        """Advance the state of a key by its row `at`; returns that row and all others that came or went, with why."""
        row = entry.rows[at]
        row.time = entry.within.time(row.second, row.clock)
        if row.kind == Kind.HIDDEN:
            return []
        before, entry.last = entry.last, row
        row.number = before.number if before else 1
        if before is not None and self._gap is not None and row.time - before.time > self._gap:
            row.number += 1
            entry.stack = self._stack()
        changed: dict[int, str | None] = {at: None}
        mode = self.profile.undo.mode
        if mode == "stack":
            follows_hidden = at > 0 and entry.rows[at - 1].kind == Kind.HIDDEN
            changed.update(entry.stack.feed(at, row.kind, row.name, row.time, follows_hidden))
        elif mode == "none" and row.kind >= Kind.UNDO:
            changed[at] = REDO_ROW if row.kind == Kind.REDO else UNDO_ROW
        for other, why in changed.items():
            entry.rows[other].reason = why
        return list(changed.items())

    def _replay(self, key: str, entry: _Key) -> list[Change]:
        entry.late, entry.last, entry.within, entry.stack = False, None, _Within(), self._stack()
        for at in range(len(entry.rows)):
            self._step(entry, at)
        return self._show(key, [(row, row.reason) for row in entry.rows if row.kind != Kind.HIDDEN])

    def _show(self, key: str, rows: Sequence[tuple[_Row, str | None]]) -> list[Change]:
        """What changed since rows were last announced."""
        changes = []
        for row, why in rows:
            now = (row.number, row.time) if why is None else None
            if now == row.shown:
                continue
            if row.shown is not None:
                changes.append(self._change("retracted", key, row.item, row.shown, why or LATE))
            if now is not None:
                again = row.known == now and row.shown is None
                changes.append(self._change("restored" if again else "added", key, row.item, now, ""))
                row.known = now
            row.shown = now
        return changes

    def _change(
        self, what: Literal["added", "retracted", "restored"], key: str, item: str, at: tuple[int, int], why: str
    ) -> Change:
        session = key if self._gap is None else f"{key}-{at[0]}"
        return Change(what, session, item, at[1], why)

    def _table(self, keys: list[str]) -> tuple[pl.DataFrame, pl.Series]:
        """All rows of keys as `finish_sessions` takes them, and why rows are gone."""
        rows: list[_Row] = []
        numbers: list[int] = []
        firsts: list[int] = []
        for key in keys:
            base = numbers[-1] if numbers else 0
            taken = [row for row in self._keys[key].rows if row.kind != Kind.HIDDEN]
            rows += taken
            numbers += [base + row.number for row in taken]
            firsts += [base + 1] * len(taken)
        text = {name: [row.values[i] for row in rows] for i, name in enumerate(self._columns or [self._key])}
        whole = {TIMESTAMP: [row.time for row in rows], NUMBER: numbers, FIRST: firsts}
        schema = dict.fromkeys([*text, ITEM_ID], pl.String) | dict.fromkeys(whole, pl.Int64)
        frame = pl.DataFrame({**text, ITEM_ID: [row.item for row in rows], **whole}, schema=schema)
        return frame, pl.Series("reason", [row.reason for row in rows], dtype=pl.String)

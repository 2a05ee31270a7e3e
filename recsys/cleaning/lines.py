"""Lines of a growing log to the frames that cleaning reads; a line that cannot be read is kept aside, not lost."""

import io
from collections import deque
from collections.abc import Iterable, Sequence

import polars as pl

from recsys.cleaning.profile import Profile
from recsys.cleaning.sources import choose_columns, raw_frame
from recsys.cleaning.streams import Budget, Format, Table
from recsys.cleaning.tables import read_frames
from recsys.errors import InputError

SHOWN = 100  # rejected lines that are kept for people; all are counted
_KEY_LINES = 100  # lines of a JSON-lines log whose keys may still add an optional column, as for a finished file
_LONGEST = 1 << 16  # characters after which an open quote is an error

Record = tuple[int, str]  # number of its (first) line, text


class LineReader:
    """Reads one log, line by line or many at a time, through the same functions as a finished file.

    Takes JSON lines or CSV, whichever the first line says. The header of a CSV log is its first line; where it comes
    again (a new file after rotation) it is passed over. A quoted CSV value may hold newlines.
    """

    def __init__(self, profile: Profile, source: str) -> None:
        """`source`: what errors call the log."""
        self.rejected: deque[InputError] = deque(maxlen=SHOWN)  # newest last; name source, line and what is wrong
        self.rejected_count = 0
        self.lines = 0  # taken so far
        self._profile, self._source = profile, source
        self._format: Format | None = None
        self._header = ""
        self._open: list[Record] = []  # lines of a CSV row whose quote is not closed yet
        self._open_size = 0  # their characters
        self._at = 0  # line that the piece being read begins with
        self._found: dict[str, str] = {}  # column of RAW_COLUMNS -> name in the log

    def read(self, lines: Iterable[str]) -> list[pl.DataFrame]:
        """The frames of complete lines (with or without their newline), in order.

        Raises:
            InputError: the header of a CSV log lacks a column.
        """
        numbered = []
        for line in lines:
            self.lines += 1
            text = line.rstrip("\r\n")
            numbered.append((self.lines, text.removeprefix("\ufeff") if self._format is None else text))
        records = self._records(numbered)
        return self._frames(records) if records else []

    def _records(self, lines: list[Record]) -> list[Record]:
        records: list[Record] = []
        for number, text in lines:
            if self._open:
                records += self._continue(number, text)
            elif not text.strip():
                continue
            elif self._format is None and not text.lstrip().startswith("{"):
                self._start_csv(text)
            elif self._format is None or self._format == "jsonl":
                self._format = "jsonl"
                records.append((number, text))
            elif text.count('"') % 2:
                self._open, self._open_size = [(number, text)], len(text)
            elif text != self._header:
                records.append((number, text))
        return records

    def _start_csv(self, header: str) -> None:
        frames = read_frames(self._table(header + "\n", "csv"), self._choose, Budget())
        try:
            next(frames)  # stops at the missing row, after the columns were chosen
        except InputError:
            if not self._found:
                raise
        self._format, self._header = "csv", header

    def _continue(self, number: int, text: str) -> list[Record]:
        """One more line of a row whose quote is open."""
        self._open.append((number, text))
        self._open_size += len(text)
        if text.count('"') % 2:
            row = (self._open[0][0], "\n".join(t for _, t in self._open))
            self._open = []
            return [row]
        if self._open_size <= _LONGEST:
            return []
        (first, _), *rest = self._open
        self._open = []
        self._reject(InputError(f'{self._source}: line {first}: a quote (") is never closed'))
        return self._records(rest)

    def _frames(self, records: list[Record]) -> list[pl.DataFrame]:
        """All records at once; where that fails, halves, so that what cannot be read is found in few steps."""
        try:
            return [self._frame(records)]
        except InputError as error:
            if len(records) == 1:
                self._reject(error)
                return []
        half = len(records) // 2
        return self._frames(records[:half]) + self._frames(records[half:])

    def _frame(self, records: list[Record]) -> pl.DataFrame:
        text = "\n".join([self._header, *(t for _, t in records)] if self._header else [t for _, t in records])
        self._at = records[0][0]
        name = f"{self._source}: line {self._at}"
        table = self._table(text + "\n", self._format or "jsonl", name)
        frame = pl.concat(read_frames(table, self._choose, Budget()))
        if frame.height != len(records):
            raise InputError(f"{name}: holds {frame.height} rows where one was expected")
        return raw_frame(frame, self._found, self._profile, name)

    def _table(self, text: str, form: Format, name: str | None = None) -> Table:
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{name or self._source}: not text that UTF-8 can hold: {error.reason}") from error
        return Table(name or self._source, "log", form, io.BytesIO(data), None)

    def _choose(self, present: Sequence[str]) -> list[str]:
        """Columns to read: as for a finished file, but what was found once stays, whatever a piece happens to lack."""
        more = self._at <= _KEY_LINES or not self._found
        self._found = choose_columns(self._profile, present, self._source, self._found, more)
        return list(dict.fromkeys(self._found.values()))

    def _reject(self, error: InputError) -> None:
        self.rejected_count += 1
        self.rejected.append(InputError(str(error).replace(": row 1: ", ": ", 1)))

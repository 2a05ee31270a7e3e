"""Lines of logs to histories of sessions, with the cleaning that a run was trained with."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from deployment.web.board import History
from deployment.web.notes import Notes
from deployment.web.tailing import MOST_FILES, Lines, Watch
from recsys.cleaning.lines import LineReader
from recsys.cleaning.live import LiveCleaner
from recsys.cleaning.parser import MESSAGE
from recsys.cleaning.profile import Profile, load_profile
from recsys.cleaning.rules import Rules
from recsys.cleaning.sessions import key_column
from recsys.errors import InputError, one_line
from recsys.schema import DESCRIPTION, ITEM_ID, SESSION_ID, TIMESTAMP, USER_ID

SENT = 2048
"""Events of a history that are sent; the model reads fewer, and of one more the time."""
_FAILURES = (pl.exceptions.PolarsError, pl.exceptions.PanicException, RecursionError, ArithmeticError)
"""What parsers raise on lines that nobody thought of. A hostile line must not end the app."""
_TRIES = 20  # lines of a call that may turn out to be the header of a CSV log


@dataclass(frozen=True)
class Cleaning:
    """Profile and fitted rules of a run.

    Attributes:
        profile: how its logs are read and cleaned.
        rules: what was learned from the training groups.
        folder: where both stand.
    """

    profile: Profile
    rules: Rules
    folder: Path

    @classmethod
    def load(cls, holder: Path) -> "Cleaning":
        """Of a run or a bundle, in its folder ``cleaning``, or of such a folder itself.

        Raises:
            InputError: there is none.
        """
        if not holder.is_dir():
            raise InputError(f"{holder}: no such folder; give a run, a bundle or a cleaning folder")
        folder = holder if (holder / "profile.yaml").is_file() else holder / "cleaning"
        if not (folder / "profile.yaml").is_file():
            what = "this bundle" if (holder / "manifest.json").is_file() else "it"
            fix = "give the run that was trained on cleaned logs as --run RUN"
            raise InputError(f"{holder}: {what} holds no cleaning/profile.yaml, so raw logs cannot be cleaned; {fix}")
        return cls(load_profile(folder / "profile.yaml"), Rules.load(folder), folder)


@dataclass(frozen=True)
class News:
    """What a poll found.

    Attributes:
        histories: of sessions that changed; none before all is read that is there.
        behind: whether more can be read at once.
    """

    histories: list[History]
    behind: bool


@dataclass
class _Refused:
    """A file that does not begin as a log, and the lines before the log in it."""

    reason: str
    lines: int = 0


class Feed:
    """Follows logs and cleans them; for one thread.

    All files are one log, as a folder is for batch cleaning: a session may go on in another file. Each file has its own
    format and header.

    Args:
        paths: files and folders to follow.
        cleaning: of the run that answers.
        most_files: that are followed at the same time.
        tell: takes lines for people.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        cleaning: Cleaning,
        most_files: int = MOST_FILES,
        tell: Callable[[str], None] = print,
    ) -> None:
        self._tell: Callable[[str], None] = Notes(tell)
        self.watch = Watch(paths, cleaning.profile, most_files, self._tell)
        self.cleaner = LiveCleaner(cleaning.profile, cleaning.rules)
        self._profile = cleaning.profile
        self._key = key_column(cleaning.profile)
        self._readers: dict[Path, LineReader] = {}
        self._files: dict[str, str] = {}  # key -> name of the file that told of it last
        self._changed: dict[str, bool] = {}  # session -> whether anything was taken back
        self._begun: set[Path] = set()  # files whose format is known
        self._refused: dict[Path, _Refused] = {}
        self._rows: Counter[Path] = Counter()
        self._lines = 0
        self._incomplete = 0  # rows without a session, or user, or message
        self._failed = 0  # lines that made a parser fail
        self._known: dict[str, set[str]] = {}  # key -> its sessions that were given

    def counts(self) -> dict[str, int]:
        """Lines that were read, and those that were left out, by reason."""
        readers = self._readers.values()
        rejected = sum(r.rejected_count for r in readers) + sum(r.lines for r in self._refused.values()) + self._failed
        found = {"lines": self._lines, "unreadable": rejected, "incomplete": self._incomplete}
        return {**found, **self.watch.counts()}

    def first(self) -> News:
        """As `poll`, for the first time.

        Raises:
            InputError: not one line can be read of a file that was named and holds some, so that it is no log of this
                profile. One in a folder is only told of.
        """
        told: list[str] = []
        tell, self._tell = self._tell, told.append
        try:
            news = self.poll()
        finally:
            self._tell = tell
        for path, reader in self._readers.items():
            if path in self.watch.named and not self._rows[path]:
                if path in self._refused and path not in self._begun:
                    raise InputError(self._refused[path].reason)
                if reader.rejected_count:
                    said = str(reader.rejected[-1]).removeprefix(f"{path}: ")
                    raise InputError(f"{path}: not one line can be read; {said}")
        for text in told:
            tell(text)
        return news

    def poll(self) -> News:
        """Read what is new."""
        for found in self.watch.poll():
            self._take(found)
        if self.watch.behind:
            return News([], True)
        changed, self._changed = self._changed, {}
        return News([self._history(session, back) for session, back in changed.items()], False)

    def forget(self, sessions: Sequence[str]) -> None:
        """Give back what is kept of sessions; lines of them that come later begin anew."""
        for session in sessions:
            key = self._key_of(session)
            left = self._known.get(key, set())
            left.discard(session)
            self._changed.pop(session, None)
            if not left:
                self.cleaner.forget(key)
                self._known.pop(key, None)
                self._files.pop(key, None)

    def close(self) -> None:
        """Close all files."""
        self.watch.close()

    def _take(self, found: Lines) -> None:
        name = str(found.path)
        reader = self._readers.get(found.path) or LineReader(self._profile, name)
        self._readers[found.path] = reader
        before = reader.rejected_count
        lines = list(found.lines)
        self._lines += len(lines)
        frames = self._begin(found.path, reader, lines) + self._read(reader, lines)
        if reader.rejected_count and not before:
            self._tell(f"{reader.rejected[-1]}; lines like this one are left out and counted")
        for rows in frames:
            self._rows[found.path] += rows.height
            frame = rows.drop_nulls([self._key, MESSAGE]).rechunk()  # Polars 2.1 panics on chunks that rows have left
            self._incomplete += rows.height - frame.height
            if not frame.height:
                continue  # a frame of no rows is nothing that cleaning takes
            for key in frame[self._key].drop_nulls().unique():
                self._files[key] = found.path.name
            for change in self.cleaner.feed(frame):
                back = change.what == "retracted"
                self._changed[change.session_id] = self._changed.get(change.session_id, False) or back

    def _read(self, reader: LineReader, lines: list[str]) -> list[pl.DataFrame]:
        """What the reader makes of lines; those that it fails on are set aside, which takes few tries."""
        rejected, taken = reader.rejected_count, reader.lines
        try:
            return reader.read(lines)
        except _FAILURES as error:
            reader.rejected_count, reader.lines = rejected, taken  # they come again
            if len(lines) == 1:
                self._failed += 1
                self._tell(f"a line that fails to be read is left out: {type(error).__name__}: {one_line(error)}")
                return []
        half = len(lines) // 2
        return self._read(reader, lines[:half]) + self._read(reader, lines[half:])

    def _begin(self, path: Path, reader: LineReader, lines: list[str]) -> list[pl.DataFrame]:
        """Take from `lines` what stands before the first row or header of the file, which may be anything."""
        tries = 0
        while lines and path not in self._begun:
            line = lines.pop(0)
            is_json = line.lstrip("\ufeff \t").startswith("{")
            if line.strip() and (is_json or tries < _TRIES):
                tries += 1
                try:
                    frames = self._read(reader, [line])
                except InputError as error:
                    if path not in self._refused:
                        self._tell(f"{error}; its lines are left out")
                    self._refused.setdefault(path, _Refused(str(error))).lines += 1
                else:
                    self._begun.add(path)
                    return frames
            elif line.strip():
                self._refused[path].lines += 1
        return []

    def _history(self, session: str, taken_back: bool) -> History:
        key = self._key_of(session)
        self._known.setdefault(key, set()).add(session)
        events = self.cleaner.events(session)
        commands = list(zip(events[ITEM_ID].to_list(), events[TIMESTAMP].to_list(), strict=True))
        users = events[USER_ID].drop_nulls() if USER_ID in events.columns else pl.Series(dtype=pl.String)
        user = str(users[-1]) if len(users) else ""
        columns = events.tail(SENT).to_dict(as_series=False)
        return History(session, self._files.get(key, ""), user, commands, columns, taken_back)

    def _key_of(self, session: str) -> str:
        return session if self._key == SESSION_ID else session.rpartition("-")[0]


def read_descriptions(holder: Path) -> Callable[[str], str]:
    """What tells the description of a command, from a run or a bundle; empty where there is none.

    Raises:
        InputError: the tables of items cannot be read.
    """
    if (holder / "items.json").is_file():
        return _describe(*_of_bundle(holder))
    table = holder / "workflow" / "items.parquet"
    if table.is_file():
        items = pl.read_parquet(table)
        texts = items[DESCRIPTION].to_list() if DESCRIPTION in items.columns else []
        return _describe(items[ITEM_ID].to_list(), texts)
    return lambda _: ""


def _of_bundle(bundle: Path) -> tuple[list[Any], list[Any]]:
    from recsys.serving.transform import Transform

    try:
        texts = json.loads((bundle / "items.json").read_text(encoding="utf-8")).get(DESCRIPTION, [])
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{bundle / 'items.json'}: cannot be read: {error}; export the bundle again") from error
    return list(Transform.load(bundle).names), texts


def _describe(names: Sequence[Any], texts: Sequence[Any]) -> Callable[[str], str]:
    known = {name: text for name, text in zip(names, texts, strict=False) if name is not None and text}
    return lambda name: known.get(name, "")

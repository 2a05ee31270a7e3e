"""Plays a recorded log into a file, line by line, at the pace of its own times."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from recsys.cleaning.lines import LineReader
from recsys.cleaning.profile import Profile
from recsys.cleaning.streams import Budget, Patterns, open_tables
from recsys.errors import InputError
from recsys.schema import TIMESTAMP

_AT_ONCE = 64  # lines whose times are read together
_PIECE = 1 << 16
_LONGEST = 1 << 24
_SECOND = 1_000_000


@dataclass(frozen=True)
class Timed:
    """A line with its newline, and the seconds that pass before it is written."""

    line: bytes
    pause: float


class Replay:
    """Plays a log in a thread of its own while it is entered as a context.

    Args:
        log: a file of JSON lines or CSV, plain or packed (gz, xz, zst).
        folder: where the file that is written stands, and an unpacked copy of a log that is packed.
        profile: reads the times.
        speed: how many times as fast as it was.
        longest: seconds that a pause lasts at most, after `speed`.
        tell: takes lines for people.

    Raises:
        InputError: no such log, one that is damaged, or one that is not of the profile.
    """

    def __init__(
        self,
        log: Path,
        folder: Path,
        profile: Profile,
        speed: float = 1.0,
        longest: float = 5.0,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.log, self.profile, self.speed, self.longest, self._tell = log, profile, speed, longest, tell
        self._plain = unpack(log, profile, folder / "unpacked")
        _check(self._plain, profile, log)
        self.file = folder / (_plain_name(log.name) or "replay")
        self.file.touch()
        self.lines = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, name="replay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all is played; False where the time is over before."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _play(self) -> None:
        due = time.monotonic()
        try:
            with self.file.open("ab", buffering=0) as out:
                for timed in timed_lines(self._plain, self.profile, self.speed, self.longest):
                    due = max(due + timed.pause, time.monotonic() - self.longest)
                    if self._stop.wait(max(0.0, due - time.monotonic())):
                        return
                    out.write(timed.line)
                    self.lines += 1
        except InputError as error:
            self._tell(f"{error}; the replay ends here")
        else:
            self._tell(f"{self.log}: played to its end, {self.lines:,} lines")


def unpack(log: Path, profile: Profile, copy: Path) -> Path:
    """The log as a plain file: itself, or a copy of what is in it.

    Raises:
        InputError: there is none, it is damaged, or holds no lines.
    """
    if not log.is_file():
        raise InputError(f"{log}: {'a folder; name one file of it' if log.is_dir() else 'no such file'}")
    patterns = Patterns(profile.files.logs, profile.metadata.files, profile.files.skip)
    with copy.open("wb") as out:
        for table in open_tables([(log, "log")], patterns, Budget(), []):
            if table.format == "parquet":
                raise InputError(f"{table.name}: a Parquet file has no lines; play the log as JSON lines or CSV")
            if table.path is not None:
                return log
            while table.role == "log" and (piece := table.stream.read(_PIECE)):
                out.write(piece)
    return copy


def timed_lines(log: Path, profile: Profile, speed: float = 1.0, longest: float = 5.0) -> Iterator[Timed]:
    """The lines of a plain log with the pauses between them.

    A line without a time of its own (a header, one that cannot be read) comes right after the one before it, and so
    does one whose time lies before it.

    Raises:
        InputError: a line that is too long to be one.
    """
    reader = LineReader(profile, str(log))
    last: int | None = None
    for lines in _chunks(log):
        for line, moment in zip(lines, _times(reader, lines), strict=True):
            pause = 0.0 if last is None or moment is None else max(0, moment - last) / _SECOND / speed
            last = moment if moment is not None else last
            yield Timed(line, min(pause, longest))


def _times(reader: LineReader, lines: list[bytes]) -> list[int | None]:
    """Microseconds of each line; where some cannot be read, those around them stand for them."""
    texts = [line.decode("utf-8", "replace").rstrip("\r\n") for line in lines]
    moments: list[int | None] = [t for frame in reader.read(texts) for t in frame[TIMESTAMP].to_list()]
    if len(moments) == len(lines) or not moments:
        return moments or [None] * len(lines)
    return [moments[at * len(moments) // len(lines)] for at in range(len(lines))]


def _chunks(log: Path) -> Iterator[list[bytes]]:
    """Lines with their newlines, `_AT_ONCE` at a time; the last gets one if it has none."""
    rest, chunk = b"", list[bytes]()
    with log.open("rb") as file:
        while piece := file.read(_PIECE):
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                chunk.append(line + b"\n")
                if len(chunk) == _AT_ONCE:
                    yield chunk
                    chunk = []
            if len(rest) > _LONGEST:
                raise InputError(f"{log}: a line of more than {_LONGEST:,} bytes; is it a log?")
    if rest:
        chunk.append(rest + b"\n")
    if chunk:
        yield chunk


def _check(plain: Path, profile: Profile, log: Path) -> None:
    """Refuse what cannot be read before anything is played."""
    reader = LineReader(profile, str(log))
    first = next(_chunks(plain), [])
    frames = reader.read([line.decode("utf-8", "replace") for line in first])
    if not frames:
        said = f": {reader.rejected[-1]}" if reader.rejected else ""
        raise InputError(f"{log}: not one of its first lines can be read{said}")


def _plain_name(name: str) -> str:
    for suffix in (".gz", ".xz", ".zst", ".tar"):
        name = name.removesuffix(suffix)
    return name

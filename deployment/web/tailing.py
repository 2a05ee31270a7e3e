"""New lines of files and folders: `recsys.cleaning.tail.LogTail` for each file, with a bound on lines and on files."""

import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from recsys.cleaning.profile import Profile
from recsys.cleaning.streams import Patterns
from recsys.cleaning.tail import LogTail
from recsys.errors import InputError

LONGEST_LINE = 1 << 18
MOST_FILES = 256
_A_CALL = 1 << 20  # bytes of a file that a call reads
_LOOK = 2.0  # seconds between looks into folders
_HEAD = 1 << 13
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1": "Parquet",
    b"PK\x03\x04": "zip",
}
_ROTATED = re.compile(r"[._~-](\d[\dT:._-]*|old|bak|orig|prev)(\.(gz|xz|zst|bz2))?")
Inode = tuple[int, int]


class BoundedTail(LogTail):
    """A `LogTail` that drops lines longer than `longest` bytes instead of holding them, and counts them."""

    def __init__(self, path: Path, encoding: str = "utf-8", longest: int = LONGEST_LINE) -> None:
        """`longest`: bytes of a line, without its newline."""
        super().__init__(path, encoding, _A_CALL)
        self.longest = longest
        self.too_long = 0
        self._skips = False  # the line being read was dropped; its end is still to come

    @property
    def inode(self) -> Inode | None:
        """Which file is open; None: none is."""
        return None if self._file is None else _inode(os.fstat(self._handle()))

    @property
    def behind(self) -> bool:
        """Whether more can be read at once."""
        return self._file is not None and not self._at_end()

    def close(self) -> None:
        """Close the file; a later `poll` would start anew."""
        super().close()
        self._skips = False

    def _check_truncated(self) -> None:
        before = self._position
        super()._check_truncated()
        if self._position < before:
            self._skips = False

    def _read(self, most: int) -> list[str]:
        lines = super()._read(most)
        if len(self._rest) > self.longest:
            self.too_long += not self._skips
            self._skips = True
            self._rest.clear()
        return lines

    def _text(self, lines: list[bytes]) -> list[str]:
        """Of a line that was dropped the end comes first."""
        if self._skips:
            self._skips = False
            lines = lines[1:]
            self.lines += 1
        fits = [line for line in lines if len(line) <= self.longest]
        self.too_long += len(lines) - len(fits)
        self.lines += len(lines) - len(fits)
        return super()._text(fits)


@dataclass(frozen=True)
class Lines:
    """Lines that one file has more; the name tells people which."""

    path: Path
    lines: list[str]


class Watch:
    """Follows files, and those that are or appear in folders.

    Of a folder those files are read that batch cleaning reads, but for parts that were rotated away: a file that was
    followed under another name, one whose first two lines are those of another, or one named after another (``log.1``,
    ``log-20250131.gz``). Packed files are not followed. Where a folder has more than `most` files, the newest are.

    Args:
        paths: files and folders, which exist.
        profile: names and encoding of logs.
        most: files that are followed at the same time.
        tell: takes lines for people on what is not followed, the same one again and again.
    """

    def __init__(
        self, paths: Sequence[Path], profile: Profile, most: int = MOST_FILES, tell: Callable[[str], None] = print
    ) -> None:
        self._folders: list[Path] = []
        self._patterns = Patterns(profile.files.logs, profile.metadata.files, profile.files.skip)
        self._encoding, self._most, self._tell = profile.files.encoding, most, tell
        self.tails: dict[Path, BoundedTail] = {}
        self.named: set[Path] = set()
        """Files that were given, not found in a folder."""
        self._read: set[Inode] = set()  # files that were or are followed
        self._passed: dict[Path, Inode] = {}  # files of folders that are not
        self._beginnings: set[bytes] = set()  # of files that were or are followed
        self._looked = -_LOOK
        for path in paths:
            self._add(path.absolute())

    def _add(self, path: Path) -> None:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            fix = "name the folder that it will appear in, or start the program that writes it first"
            raise InputError(f"{path}: no such file or folder; {fix}") from error
        if stat.S_ISDIR(mode):
            self._folders.append(path)
            return
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: neither a file nor a folder; only files can be followed")
        packed = _packed(_head(path))
        if packed:
            raise InputError(f"{path}: a {packed} file, which does not grow line by line; play it with --replay {path}")
        self.named.add(path)
        self.tails[path] = BoundedTail(path, self._encoding)

    @property
    def behind(self) -> bool:
        """Whether more can be read at once."""
        return any(tail.behind for tail in self.tails.values())

    def counts(self) -> Counter[str]:
        """Lines that are no text, lines too long, lines cut by truncation; files that are followed."""
        tails = self.tails.values()
        return Counter(
            files=len(tails),
            not_text=sum(tail.rejected_count for tail in tails),
            too_long=sum(tail.too_long for tail in tails),
            cut=sum(tail.cut for tail in tails),
        )

    def poll(self) -> Iterator[Lines]:
        """New lines, file by file in the order of their names."""
        now = time.monotonic()
        if now - self._looked >= _LOOK and self._folders:
            self._looked = now
            self._look()
        for path, tail in sorted(self.tails.items()):
            before = tail.inode
            try:
                lines = tail.poll()
            except (OSError, InputError) as error:
                self._tell(f"{path}: not read for now: {error}")
                continue
            after = tail.inode
            self._read |= {inode for inode in (before, after) if inode is not None}
            if after is not None and (lines or after != before):
                self._remember(path)
            if tail.too_long:
                self._tell(f"{path}: a line of more than {tail.longest:,} bytes was dropped; such lines are counted")
            if lines:
                yield Lines(path, lines)

    def close(self) -> None:
        """Close all files."""
        for tail in self.tails.values():
            tail.close()

    def _look(self) -> None:
        """Follow files that are new in the folders."""
        found: dict[Path, os.stat_result] = {}
        for folder in self._folders:
            for place, _, names in os.walk(folder):
                for name in names:
                    if self._patterns.role(name) == "log":
                        self._consider(Path(place, name), found)
        there = {_inode(status) for status in found.values()}
        opened = {tail.inode for tail in self.tails.values()}
        self._read = {inode for inode in self._read if inode in there or inode in opened}
        gone = [p for p in self.tails if p not in found and p not in self.named and self.tails[p].inode is None]
        for path in gone:
            del self.tails[path]
        self._passed = {path: inode for path, inode in self._passed.items() if path in found}
        known = found.keys() | self.tails.keys()
        new = [path for path, status in found.items() if path not in self.tails and self._is_new(path, status, known)]
        free = max(0, self._most - len(self.tails))
        new.sort(key=lambda path: (-found[path].st_mtime, path))
        if len(new) > free:
            self._tell(f"{self._folders[0]}: more than {self._most} files; those written last are followed")
        for path in new[:free]:
            self.tails[path] = BoundedTail(path, self._encoding)

    def _consider(self, path: Path, found: dict[Path, os.stat_result]) -> None:
        try:
            status = path.stat()
        except OSError:
            return  # it went between the two calls
        if stat.S_ISREG(status.st_mode) and status.st_size:
            found[path] = status

    def _is_new(self, path: Path, status: os.stat_result, there: Container[Path]) -> bool:
        if _inode(status) in self._read or self._passed.get(path) == _inode(status):
            return False
        try:
            head = _head(path)
        except OSError as error:
            self._tell(f"{path}: not read for now: {error.strerror}")
            return False
        packed = _packed(head)
        names = (path.name[: at.start()] for at in re.finditer(r"[._~-]", path.name))
        of = next((n for n in names if path.with_name(n) in there and _ROTATED.fullmatch(path.name[len(n) :])), None)
        if packed:
            self._tell(f"{path}: a {packed} file is not followed")
        elif of is not None:
            self._tell(f"{path}: not followed, a part of {of} that was rotated away")
        if packed or of is not None or _beginning(head) in self._beginnings:
            self._passed[path] = _inode(status)
            return False
        return True

    def _remember(self, path: Path) -> None:
        """What a followed file begins with, so that a copy of it is known for one."""
        try:
            beginning = _beginning(_head(path))
        except OSError:
            return  # it was rotated away; its beginning was remembered when it was opened
        if beginning is not None:
            self._beginnings.add(beginning)


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _beginning(head: bytes) -> bytes | None:
    """What tells a file from any other that is no copy of it: its first two lines, of which one has a time."""
    lines = head.split(b"\n", 2)
    return sha256(b"\n".join(lines[:2])).digest() if len(lines) == 3 else None


def _packed(head: bytes) -> str | None:
    return next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)

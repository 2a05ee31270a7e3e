"""Files, folders and archives as a stream of tables: decompressed on the way, never unpacked to disk.

What a file is, is read from its first bytes, not from its name: gzip, xz, zstd, tar, Parquet, JSON lines, else CSV.
"""

import fnmatch
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import zstandard
from tqdm import tqdm

from recsys.errors import InputError

DEFAULT_MAX_BYTES = 256 * 10**9
_STEP = 1 << 14  # compressed bytes a step: bounds what one step can inflate to
_XZ_MEMORY = 1 << 30
_DEEPEST = 4  # archives within archives
Format = Literal["csv", "jsonl", "parquet"]
Role = Literal["log", "metadata"]


class Readable(Protocol):
    """A binary stream that can only be read forward."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, all that is left if negative, empty at the end."""


class _Decompressor(Protocol):
    """What zlib, lzma and zstandard have in common."""

    @property
    def eof(self) -> bool:
        """Whether the end of the compressed stream was reached."""

    @property
    def unused_data(self) -> bytes:
        """What follows that end."""

    def decompress(self, data: bytes, /) -> bytes:
        """Inflate a piece."""


_COMPRESSIONS: dict[bytes, tuple[str, Callable[[], _Decompressor]]] = {
    b"\x1f\x8b": ("gzip", lambda: zlib.decompressobj(wbits=31)),
    b"\xfd7zXZ\x00": ("xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)),
    b"\x28\xb5\x2f\xfd": ("zstd", lambda: zstandard.ZstdDecompressor().decompressobj()),
}


@dataclass
class Budget:
    """How many decompressed bytes may still come out of an input."""

    limit: int = DEFAULT_MAX_BYTES
    used: int = 0

    def spend(self, size: int, name: str) -> None:
        """Count `size` bytes of `name`; raise past the limit."""
        self.used += size
        if self.used > self.limit:
            raise InputError(
                f"{name}: decompresses to more than {self.limit / 1e9:g} GB; raise --max-gigabytes if that is meant"
            )


class _Pieces:
    """A forward stream over an iterator of byte pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._buffer = bytearray()

    def read(self, size: int = -1, /) -> bytes:
        while size < 0 or len(self._buffer) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._buffer += piece
        taken = bytes(self._buffer[:size] if size >= 0 else self._buffer)
        del self._buffer[: len(taken)]
        return taken


class _Peeked:
    """A stream whose first bytes were looked at."""

    def __init__(self, stream: Readable, size: int = 1024) -> None:
        self._stream = stream
        self.head = stream.read(size)
        self._left = self.head

    def read(self, size: int = -1, /) -> bytes:
        if not self._left:
            return self._stream.read(size)
        if 0 <= size <= len(self._left):
            taken, self._left = self._left[:size], self._left[size:]
            return taken
        taken, self._left = self._left, b""
        return taken + self._stream.read(size - len(taken) if size >= 0 else -1)


def _inflate(
    stream: Readable, kind: str, start: Callable[[], _Decompressor], name: str, budget: Budget
) -> Iterator[bytes]:
    """Pieces of one or more compressed streams in a row; a stream without its end is an error."""
    machine: _Decompressor | None = None
    data = b""
    while True:
        data = data or stream.read(_STEP)
        if machine is None:
            data = data.lstrip(b"\x00")  # padding between streams
            if not data:
                data = stream.read(_STEP)
                if not data:
                    return
                continue
            machine = start()
        elif not data:
            raise InputError(f"{name}: the {kind} file is cut off before its end; copy or download it again")
        try:
            piece = machine.decompress(data)
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
            raise InputError(f"{name}: the {kind} file is damaged ({error}); copy or download it again") from error
        data = b""
        if machine.eof:
            data, machine = machine.unused_data, None
        if piece:
            budget.spend(len(piece), name)
            yield piece


@dataclass
class Table:
    """One table found in an input; `stream` must be read before the next table is asked for."""

    name: str  # for people: path, and the path inside the archive
    role: Role
    format: Format
    stream: Readable
    path: Path | None  # where the table lies as a plain file
    advance: Callable[[int], object] = lambda size: None  # tells a bar of bytes that were read past `stream`


@dataclass(frozen=True)
class Patterns:
    """Which names of a folder or archive are logs and which are metadata."""

    logs: list[str]
    metadata: list[str]
    skip: list[str]

    def role(self, name: str) -> Role | None:
        """Part that the file `name` plays; None: it is not read."""
        base = name.rsplit("/", 1)[-1]
        if _matches(base, self.metadata):
            return "metadata"
        return "log" if _matches(base, self.logs) and not _matches(base, self.skip) else None


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name.lower(), pattern.lower()) for pattern in patterns)


def natural(name: str) -> list[object]:
    """Sort key that puts ``part-10`` after ``part-9``."""
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in re.split(r"(\d+)", name)]


def list_files(path: Path, patterns: Patterns, skipped: list[str]) -> list[tuple[Path, Role]]:
    """The files under `path` (file, folder or archive) and their parts, in natural order of names.

    Names that no pattern takes are added to `skipped`.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [(path, "log")]
    found = sorted((p for p in path.rglob("*") if p.is_file()), key=lambda p: natural(str(p.relative_to(path))))
    roles = [(p, patterns.role(p.name)) for p in found]
    skipped += [str(p.relative_to(path)) for p, role in roles if role is None]
    files = [(p, role) for p, role in roles if role is not None]
    if not any(role == "log" for _, role in files):
        raise InputError(f"{path}: no log file in this folder; the profile reads {', '.join(patterns.logs)}")
    return files


def open_tables(
    files: Sequence[tuple[Path, Role]], patterns: Patterns, budget: Budget, skipped: list[str]
) -> Iterator[Table]:
    """All tables in `files`, archives in their own order; `skipped` gets the names in them that no pattern takes.

    A bar shows the compressed bytes read.
    """
    total = sum(p.stat().st_size for p, _ in files)
    quiet = parent_process() is not None  # several workers' bars would write over each other
    with tqdm(total=total, desc="read", unit="B", unit_scale=True, delay=2.0, leave=False, disable=quiet) as bar:
        for file, role in files:
            try:
                raw = file.open("rb")
            except OSError as error:
                raise InputError(f"{file}: cannot be opened: {error.strerror}") from error
            with raw:
                for table in _walk(_Watched(raw, bar), str(file), role, patterns, budget, skipped, file, 0):
                    if table.format == "parquet" and table.path is not None:  # it is not read through the stream
                        table.advance = bar.update
                    yield table


class _Watched:
    """Moves the bar by what is read."""

    def __init__(self, raw: BinaryIO, bar: tqdm) -> None:
        self._raw, self._bar = raw, bar

    def read(self, size: int = -1, /) -> bytes:
        data = self._raw.read(size)
        self._bar.update(len(data))
        return data


def _walk(
    stream: Readable,
    name: str,
    role: Role,
    patterns: Patterns,
    budget: Budget,
    skipped: list[str],
    path: Path | None,
    depth: int,
) -> Iterator[Table]:
    """Tables inside one stream, whatever it is wrapped in."""
    if depth > _DEEPEST:
        raise InputError(f"{name}: archives within archives, more than {_DEEPEST} deep")
    peeked = _Peeked(stream)
    head = peeked.head
    for magic, (kind, start) in _COMPRESSIONS.items():
        if head.startswith(magic):
            inner = _Pieces(_inflate(peeked, kind, start, name, budget))
            yield from _walk(inner, name, role, patterns, budget, skipped, None, depth + 1)
            return
    if head[257:262] == b"ustar":
        yield from _walk_tar(peeked, name, patterns, budget, skipped, depth)
        return
    yield Table(name, role, _format_of(head, name), peeked, path)


def _format_of(head: bytes, name: str) -> Format:
    if not head:
        raise InputError(f"{name}: the file is empty")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        raise InputError(f"{name}: zip archives are not read; unpack it, or pack the files as tar, gz, xz or zst")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return "jsonl" if text.startswith(b"{") else "csv"


class _Member:
    """One file of a tar archive; it is read while the archive's loop waits, so it reports its own errors."""

    def __init__(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        self._stream, self._name = archive.extractfile(member), name

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._stream.read(size) if self._stream else b""
        except tarfile.TarError as error:
            raise _bad_tar(self._name, error) from error


def _bad_tar(name: str, error: tarfile.TarError) -> InputError:
    return InputError(f"{name}: the tar archive is cut off or damaged ({error}); copy or download it again")


def _walk_tar(
    stream: Readable, name: str, patterns: Patterns, budget: Budget, skipped: list[str], depth: int
) -> Iterator[Table]:
    logs = 0
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as archive:  # type: ignore[call-overload]
            for member in archive:
                if not member.isfile():
                    continue
                inside = member.name.removeprefix("./")
                role = patterns.role(inside)
                if role is None:
                    skipped.append(f"{name}:{inside}")
                    continue
                logs += role == "log"
                content = _Member(archive, member, name)
                yield from _walk(content, f"{name}:{inside}", role, patterns, budget, skipped, None, depth + 1)
    except tarfile.TarError as error:
        raise _bad_tar(name, error) from error
    if not logs:
        raise InputError(f"{name}: no log file in this archive; the profile reads {', '.join(patterns.logs)}")


def seekable(table: Table, budget: Budget) -> BinaryIO | Path:
    """The table as something that can be read at any place: its path, or its bytes in memory."""
    if table.path is not None:
        return table.path
    data = table.stream.read(-1)
    budget.spend(len(data), table.name)
    return io.BytesIO(data)

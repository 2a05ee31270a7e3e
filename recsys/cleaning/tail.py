"""The new lines of a log file that another process writes, without ever reading it twice."""

import codecs
import os
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from recsys.cleaning.lines import SHOWN
from recsys.errors import ConfigError, InputError

_MARK = 64  # bytes before the position that tell whether the file is still the one that was read


class LogTail:
    """Follows one file, JSON lines or CSV alike; `LiveCleaner.feed` takes what `poll` gives.

    - A last line without its newline waits for the rest, also one cut in the middle of a character.
    - No file yet: no lines. A file that goes away is read to its end first.
    - Rotation (another file under the name): the rest of the old file comes first, its last line even without a
      newline, then the new file from its start.
    - Truncation (the file is shorter, or says something else before the position): it is read from its start. What
      waited for its rest is dropped and counted in `cut`.
    - A line that is not text in `encoding` is counted in `rejected_count`; the newest are kept in `rejected` as errors
      that name file and line. (What cannot be parsed is for the reader of the lines to report.)
    """

    def __init__(self, path: Path, encoding: str = "utf-8", most: int = 1 << 26) -> None:
        """`most`: bytes a call of `poll` reads at most; the rest comes with the next call.

        Raises:
            ConfigError: an encoding whose newline is not one byte.
        """
        try:
            one_byte = "\n".encode(encoding) == b"\n" and codecs.lookup(encoding).name != "utf-7"
        except LookupError as error:
            raise ConfigError(f"encoding '{encoding}' is not known to Python") from error
        if not one_byte:
            raise ConfigError(
                f"encoding '{encoding}' cannot be followed line by line; use utf-8 or a one-byte encoding"
            )
        self.path, self.encoding, self.most = path, encoding, most
        self.rejected: deque[InputError] = deque(maxlen=SHOWN)
        self.rejected_count = 0
        self.cut = 0  # unfinished lines lost to truncation
        self.lines = 0  # complete lines of the current file
        self._file: BinaryIO | None = None
        self._position = 0
        self._mark = b""  # what stands before the position
        self._rest = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a later `poll` would start anew."""
        if self._file is not None:
            self._file.close()
        self._file, self._position, self._mark, self.lines = None, 0, b"", 0
        self._rest.clear()

    def poll(self) -> list[str]:
        """The lines completed since the last call, without their newlines."""
        if self._file is None and not self._open():
            return []
        self._check_truncated()
        lines = self._read(self.most)
        if self._at_end() and self._replaced():
            if self._rest:
                lines += self._text([bytes(self._rest)])
            self.close()
            if self._open():
                lines += self._read(self.most)
        return lines

    def _open(self) -> bool:
        try:
            self._file = self.path.open("rb", buffering=0)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from error
        return True

    def _handle(self) -> int:
        if self._file is None:
            raise AssertionError("no file is open")
        return self._file.fileno()

    def _at_end(self) -> bool:
        return self._position >= os.fstat(self._handle()).st_size

    def _replaced(self) -> bool:
        """Whether another file, or none, stands under the path."""
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self._handle()))
        except FileNotFoundError:
            return True

    def _check_truncated(self) -> None:
        handle = self._handle()
        if os.pread(handle, len(self._mark), self._position - len(self._mark)) == self._mark:
            return
        self.cut += bool(self._rest)
        self._rest.clear()
        self._position, self._mark, self.lines = 0, b"", 0

    def _read(self, most: int) -> list[str]:
        pieces = []
        while most > 0:
            piece = os.pread(self._handle(), min(most, 1 << 20), self._position)
            if not piece:
                break
            pieces.append(piece)
            self._position += len(piece)
            most -= len(piece)
        data = b"".join(pieces)
        self._mark = (self._mark + data)[-_MARK:]
        end = data.rfind(b"\n")
        if end < 0:
            self._rest += data
            return []
        whole = bytes(self._rest) + data[:end]
        self._rest = bytearray(data[end + 1 :])
        return self._text(whole.split(b"\n"))

    def _text(self, lines: list[bytes]) -> list[str]:
        found = []
        for line in lines:
            self.lines += 1
            try:
                text = line.removesuffix(b"\r").decode(self.encoding)
            except UnicodeDecodeError as error:
                self.rejected_count += 1
                around = line[max(0, error.start - 10) : error.start + 5]
                why = f"not {self.encoding} at {around!r}; name the encoding of the log"
                self.rejected.append(InputError(f"{self.path}: line {self.lines}: {why}"))
                continue
            found.append(text.removeprefix("\ufeff") if self.lines == 1 else text)
        return found

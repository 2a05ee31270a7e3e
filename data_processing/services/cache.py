"""Answers of services on disk, by content: what was paid for once is not asked again."""

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from recsys.errors import InputError

FILE_NAME = "services.sqlite"
_TABLE = "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value BLOB NOT NULL)"
_LOCK_SECONDS = 60.0  # that another process may hold the file
_KEYS_A_QUERY = 500  # SQLite allows 999 parameters in its oldest versions still in use


class Cache:
    """A table of answers in one SQLite file; several processes may use it at the same time.

    Every `put` is a transaction: a process that is killed leaves all of it or nothing, and the file stays sound.

    Args:
        path: a folder, made if missing, for ``services.sqlite``; or the file itself, by its ending ``.sqlite``.

    Raises:
        InputError: the file is there and is not such a cache, or cannot be written (names it and the fix).
    """

    def __init__(self, path: Path) -> None:
        self.path = path if path.suffix == ".sqlite" else path / FILE_NAME
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=_LOCK_SECONDS, isolation_level=None)
            self._set_up()
            self._database.execute("SELECT key, value FROM answers LIMIT 1").fetchall()
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"{self.path}: not a usable cache of service answers ({error}); "
                "if no other process uses it, delete it, or name another"
            ) from error

    def _set_up(self) -> None:
        """Two processes that make the file at the same moment: SQLite refuses one of them without the usual wait."""
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                # A killed process loses nothing; only a power cut may lose the last answers, never the file.
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=NORMAL")
                self._database.execute(_TABLE)
                return
            except sqlite3.OperationalError as error:
                # The low byte: extended codes say more of the same.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
            time.sleep(0.01)

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The values of those keys that are known."""
        wanted = list(dict.fromkeys(keys))
        found: dict[bytes, bytes] = {}
        for start in range(0, len(wanted), _KEYS_A_QUERY):
            some = wanted[start : start + _KEYS_A_QUERY]
            marks = ",".join("?" * len(some))
            found.update(self._run(f"SELECT key, value FROM answers WHERE key IN ({marks})", some))
        return found

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Store answers; on return they outlive this process."""
        self._run("BEGIN IMMEDIATE", ())
        try:
            self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", values.items())
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error
        finally:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")

    def __len__(self) -> int:
        """Number of answers."""
        return int(next(iter(self._run("SELECT count(*) FROM answers", ())))[0])

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, statement: str, values: Iterable[bytes]) -> list[tuple]:
        try:
            return self._database.execute(statement, tuple(values)).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> InputError:
        return InputError(
            f"{self.path}: the cache of service answers failed ({error}); free space on the disk, or delete the file"
        )


def key(service: str, *parts: str | None) -> bytes:
    """sha256 of the service's name and what it was asked; parts are told apart, and None from a blank text."""
    digest = hashlib.sha256()
    for part in (service, *parts):
        # surrogatepass: a log may hold half a character, which is still a text of its own
        data = b"" if part is None else part.encode("utf-8", "surrogatepass")
        digest.update(b"-" if part is None else f"{len(data)}:".encode())
        digest.update(data)
    return digest.digest()

"""How things run: seeds, atomic output, progress bars, facts of the environment."""

import argparse
import errno
import fcntl
import hashlib
import json
import math
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar

from tqdm import tqdm

from recsys.errors import InputError, RecsysError, one_line

T = TypeVar("T")
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large",
}


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False, markers: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder beside `path` that becomes `path` by rename when the block ends well.

    On an error nothing is left. An existing non-empty `path` is refused unless `replace`, and even then unless it holds
    all `markers`, the files by which the caller knows what it wrote itself. While the block runs, other runs that
    would write `path` are refused; what a run that was killed left behind is removed by the next one.

    Raises:
        InputError: `path` exists or is being written, or the disk is full.
    """
    path = path.absolute()
    _require_free(path, replace, markers)
    _make_parent(path)
    with _locked(path) as lock:
        _require_free(path, replace, markers)  # another run may have ended meanwhile
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            lock.write(work.name)
            lock.flush()
            work.chmod(0o755)
            yield work
            if path.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
                path.rename(old / path.name)
                work.rename(path)
                shutil.rmtree(old)
            else:
                work.rename(path)
        except Exception as error:
            reason = _full(error)
            if reason is None:
                raise
            raise InputError(f"{path}: cannot be written: {reason}; nothing of it is kept, free some space") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(parent for parent in path.parents if parent.exists())
        raise InputError(f"{path}: cannot be written: {file} is a file; choose another place") from error


def _require_free(path: Path, replace: bool, markers: Sequence[str]) -> None:
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        if not replace:
            raise InputError(f"{path}: exists already; choose another --out or pass --overwrite")
        strange = [name for name in markers if not (path / name).is_file()]
        if strange:
            raise InputError(f"{path}: has no {strange[0]}, so this command did not write it; choose another --out")


@contextmanager
def _locked(path: Path) -> Iterator[TextIO]:
    """Hold ``.NAME.lock`` beside `path`; yields it, to take down the name of the folder that is being written.

    The system lets go of the lock when its holder dies, so what a killed run left is found and removed here.
    """
    place = path.with_name(f".{path.name}.lock")
    while True:
        with place.open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"{path}: another run is writing it; wait for it or choose another --out") from error
            if not _is_open(lock, place):
                continue  # its last holder has just removed it
            try:
                lock.seek(0)
                left = lock.read()
                if re.fullmatch(re.escape(f".{path.name}.") + "[a-z0-9_]{8}", left):
                    shutil.rmtree(path.with_name(left), ignore_errors=True)
                lock.truncate(0)
                yield lock
            finally:
                place.unlink(missing_ok=True)
            return


def _is_open(stream: TextIO, place: Path) -> bool:
    """Whether `stream` is the file that stands at `place` now."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), place.stat())
    except FileNotFoundError:
        return False


def _full(error: BaseException) -> str | None:
    """Why nothing more can be written, if that is what `error` says; Polars puts the system's number into a text."""
    found = re.search(r"(?:os error |Errno )(\d+)", str(error))
    number = error.errno if isinstance(error, OSError) else None
    return _FULL.get(number or (int(found.group(1)) if found else 0))


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    path = path.absolute()
    _make_parent(path)
    work = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield work
        work.rename(path)
    finally:
        work.unlink(missing_ok=True)


def progress(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterable[T]:
    """Wrap `items` in a bar that shows up on standard error once the work has taken two seconds."""
    return tqdm(items, desc=what, total=total, unit=unit, delay=2.0, leave=False, file=sys.stderr)


def read_json(path: Path, kind: type[RecsysError] = InputError, fix: str = "") -> dict[str, Any]:
    """Read a JSON object; `kind` is the error for anything else, which names the file and the `fix`."""
    fix = fix and f"; {fix}"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise kind(f"{path}: not valid JSON: {one_line(error)}{fix}") from error
    if not isinstance(values, dict):
        raise kind(f"{path}: expected a JSON object, found a {type(values).__name__}{fix}")
    return values


def note(text: str) -> None:
    """Say on standard error, in one line, what a person should know of a result that is none the less good."""
    print(f"note: {text}", file=sys.stderr)


def gigabytes(text: str) -> int:
    """Bytes of the flag ``--max-gigabytes`` (10^9 bytes each), as argparse's `type`."""
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size > 0):
        raise argparse.ArgumentTypeError(f"'{text}': expected a number of gigabytes above 0")
    return round(size * 1e9)


class EntryPoint(Protocol):
    """A command: takes arguments (those of the process by default) and returns the exit status."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run and return the exit status."""


def command_line(main: Callable[[Sequence[str]], None]) -> EntryPoint:
    """Turn `main(arguments)` into an entry point: a `RecsysError`, or what the system says of a file
    (no space left, permission denied), becomes one line and exit status 2.

    ``--debug`` anywhere among the arguments shows the traceback instead. Ctrl-C leaves with 130.
    """

    @wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        given = list(sys.argv[1:] if arguments is None else arguments)
        debug = "--debug" in given
        try:
            main([a for a in given if a != "--debug"])
        except (RecsysError, OSError) as error:
            if debug:
                raise
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        return 0

    return run


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def peak_memory_gb() -> float:
    """Highest resident memory of this process so far, in GB (10^9 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def resident_memory_gb() -> float:
    """Resident memory of this process now, in GB (10^9 bytes); where the system does not tell, the highest so far."""
    table = Path("/proc/self/statm")
    if not table.is_file():
        return peak_memory_gb()
    return int(table.read_text().split()[1]) * resource.getpagesize() / 1e9


def environment() -> dict[str, str]:
    """Versions that a run depends on."""
    names = ("torch", "transformers", "accelerate", "polars", "numpy", "pyarrow")
    found = {name: metadata.version(name) for name in names}
    return {"python": platform.python_version(), "platform": platform.platform(), **found}

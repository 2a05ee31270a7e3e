"""Where the flat copy of a split lies: written by whoever needs it first, mapped by all others.

It is kept in ``DATASET/.cache/<split>-<fingerprint>/``. One process builds it under a lock while others (the ranks of a
distributed run) wait for it; it appears by rename, so it is whole or not there. When shards or schema change the
fingerprint does, and the old copy is removed. Nothing there is data of record: the folder may be deleted at any time.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from recsys.data.flatten import CONTENTS, Flat, Further, flatten, open_flat
from recsys.errors import InputError, RecsysError, one_line
from recsys.runtime import note

CACHE = ".cache"
_VERSION = 1
_FOOTER = 1 << 16
_TAG = "CACHEDIR.TAG"  # https://bford.info/cachedir: back-up programs leave such folders out
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n"


class _NotWritable(Exception):
    """The folder cannot hold a copy."""


def open_split(
    dataset: Path, split: str, files: Sequence[Path], dtypes: Mapping[str, str], further: Further | None = None
) -> Flat:
    """Flat arrays of the Parquet `files` of a split, mapped; built first where they are not there yet.

    Where the dataset's folder is read-only, the copy is kept in the system's temporary folder, which is said once.

    Args:
        dataset: the sequence dataset.
        split: name of the split.
        files: its shards, in order.
        dtypes: list columns to numpy dtypes.
        further: columns of other forms.

    Raises:
        InputError: see `flatten`; or there is no room for the copy.
    """
    further = further or Further()
    name = f"{split}-{_fingerprint(files, dtypes, further)}"
    try:
        return _open_or_build(dataset / CACHE, name, split, files, dtypes, further)
    except _NotWritable as error:
        ready = _open(dataset / CACHE / name)
        if ready is not None:
            return ready
        folder = _temporary(dataset)
        if not (folder / name / CONTENTS).is_file():
            note(f"{dataset}: is not writable ({one_line(error)}), so its flat copy is kept in {folder}")
        try:
            return _open_or_build(folder, name, split, files, dtypes, further)
        except _NotWritable as second:
            raise InputError(f"{folder}: cannot be written: {second}; set TMPDIR to a folder with room") from second


def _fingerprint(files: Sequence[Path], dtypes: Mapping[str, str], further: Further) -> str:
    """Changes when a shard does: names, sizes, times and last 64 KiB (where Parquet keeps its statistics)."""
    digest = hashlib.sha256(json.dumps([_VERSION, list(dtypes.items())]).encode())
    if further.names:
        digest.update(json.dumps([list(further.bags.items()), list(further.once.items())]).encode())
    for path in files:
        status = path.stat()
        digest.update(f"\n{path.name} {status.st_size} {status.st_mtime_ns} ".encode())
        with path.open("rb") as stream:
            stream.seek(max(0, status.st_size - _FOOTER))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def _open_or_build(
    folder: Path, name: str, split: str, files: Sequence[Path], dtypes: Mapping[str, str], further: Further
) -> Flat:
    with _locked(folder, split) as alone:
        ready = _open(folder / name)
        if ready is not None:
            return ready
        if alone:
            _remove_others(folder, split)
        try:
            work = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder))
        except OSError as error:
            raise _NotWritable(error.strerror or str(error)) from error
        try:
            work.chmod(0o755)
            flatten(files, dtypes, work, further)
            pa.default_memory_pool().release_unused()
            _publish(work, folder / name)
        except RecsysError:
            raise
        except OSError as error:
            raise InputError(f"{folder}: cannot write the flat copy of '{split}': {error}; make room there") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return open_flat(folder / name)


def _publish(work: Path, final: Path) -> None:
    try:
        work.rename(final)
    except OSError:
        if _open(final) is None:  # else a process on a machine that knows nothing of our lock was faster
            raise


def _open(folder: Path) -> Flat | None:
    """The copy in `folder`; None where there is none or it is damaged, and so must be built."""
    if not (folder / CONTENTS).is_file():
        return None
    try:
        return open_flat(folder)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        note(f"{folder}: damaged ({one_line(error)}), so it is built again")
        return None


def _remove_others(folder: Path, split: str) -> None:
    """Remove copies of other shards, damaged ones, and what killed builds left. Maps of them stay valid."""
    ours = re.compile(rf"(?:\.{re.escape(split)}-[0-9a-f]{{16}}\..*|{re.escape(split)}-[0-9a-f]{{16}})")
    for path in folder.iterdir():
        if ours.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(folder: Path, split: str) -> Iterator[bool]:
    """Hold the lock of a split's copy, for which others wait; False where the file system knows no locks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _TAG).exists():
            (folder / _TAG).write_text(_TAG_TEXT)
        stream = (folder / f"{split}.lock").open("a")
    except OSError as error:
        raise _NotWritable(error.strerror or str(error)) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)  # given back when the file is closed or the process dies
        except OSError:
            yield False
            return
        yield True


def _temporary(dataset: Path) -> Path:
    """A folder of this user's own for copies of `dataset`, the same for all of its processes."""
    base = Path(tempfile.gettempdir()) / f"recsys-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    status = base.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise InputError(f"{base}: is not a private folder of yours; remove it or set TMPDIR")
    return base / hashlib.sha256(str(dataset.resolve()).encode()).hexdigest()[:16]

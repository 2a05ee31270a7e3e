"""Whether a bundle is what `recsys export` wrote: every byte of it, and nothing beside it.

Needs the standard library only and imports nothing of `recsys`, so that this file can be copied. Hashes show that
nothing was lost or changed on the way, not who wrote it: whoever can write a bundle can write its hashes. So nothing
in a bundle is ever run as code, and what its ONNX files may make a reader open is checked here too.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST, TRANSFORM = "manifest.json", "transform.json"
FORMAT, VERSION = "recsys-bundle", 2
MOST_MANIFEST = 64 << 20
"""Bytes of manifest.json; a larger one is none."""
_OWN_HASH = "sha256"
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # wire types of protocol buffers
_CHILDREN: dict[str, dict[int, str]] = {  # where tensors can stand in an ONNX model: field number to message
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_DEEPEST = 50


class BundleError(ValueError):
    """A folder is no bundle, or not the one that was exported; one line says what differs."""


def seal(manifest: dict[str, Any]) -> str:
    """The text of manifest.json, with the SHA-256 of all the rest of it in it."""
    values = {name: value for name, value in manifest.items() if name != _OWN_HASH}
    return _as_text({**values, _OWN_HASH: hashlib.sha256(_as_text(values).encode()).hexdigest()})


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """manifest.json, whose own hash is checked.

    Raises:
        BundleError: no such folder or file, not what `seal` wrote, or of another version of this program.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder; `recsys export --run RUN --out {folder}` makes a bundle")
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{folder}: no {MANIFEST} in it, so it is no bundle; `recsys export` makes one")
    if path.stat().st_size > MOST_MANIFEST:
        raise BundleError(f"{path}: has {path.stat().st_size:,} bytes, which no manifest has; export the run again")
    try:
        text = path.read_bytes().decode("utf-8")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON; export the run again") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise BundleError(f"{path}: is no manifest of a bundle; export the run again")
    if values.get("version") != VERSION:
        raise BundleError(
            f"{path}: version {values.get('version')!r}; this program reads {VERSION}; export the run again"
        )
    if seal(values) != text:
        raise BundleError(f"{path}: was changed after the export (its hash differs); export the run again")
    return values


def check(folder: Path | str) -> dict[str, Any]:
    """The manifest of a bundle of which nothing is changed, missing or added.

    Raises:
        BundleError: what differs, the first of it.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise BundleError(f"{folder / MANIFEST}: lists no files; export the run again")
    for name in files:
        if not _is_inside(name):
            raise BundleError(f"{folder / MANIFEST}: names {name!r}, which leads out of the bundle; do not use it")
    for name in sorted(set(_present(folder)) - {*files, MANIFEST}):
        raise BundleError(f"{folder / name}: is not part of the bundle; take it out, or export the run again")
    for name, facts in files.items():
        _check_file(folder / name, facts)
    for name in files:
        if name.endswith(".onnx"):
            _check_onnx(folder, name, files)
    _check_named(folder, manifest)
    return manifest


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def external_files(model: bytes) -> set[str]:
    """The places that the tensors of an ONNX model name for their data outside of it.

    Raises:
        BundleError: the bytes are no protocol buffer.
    """
    return set(_locations(memoryview(model), "Model", 0))


def _as_text(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _is_inside(name: object) -> bool:
    """Whether a name is a plain path below the bundle."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name or ":" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and str(path) == name != "."


def _check_named(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise where a text of the bundle tells a reader to open a file outside of it."""
    named: list[tuple[str, object]] = []
    try:
        for graph in manifest.get("graphs", {}).values():
            tables = [n.removeprefix("table.") for n in graph["inputs"] if n.startswith("table.")]
            named += [(MANIFEST, name) for name in (graph["file"], *tables)]
        if TRANSFORM in manifest["files"]:
            files = json.loads((folder / TRANSFORM).read_text(encoding="utf-8"))["vocabularies"]
            named += [(TRANSFORM, name) for name in files.values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{folder}: describes its graphs or vocabularies wrongly; export the run again") from error
    for where, name in named:
        if not _is_inside(name):
            raise BundleError(f"{folder / where}: names {name!r}, which leads out of the bundle; do not use it")


def _present(folder: Path) -> Iterator[str]:
    """Relative names of all that is in the folder but folders; a link counts as a file and is never followed."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in (*files, *links):
            yield Path(parent, name).relative_to(folder).as_posix()


def _check_file(path: Path, facts: Any) -> None:
    try:
        found = path.lstat()
    except OSError:
        raise BundleError(f"{path}: is missing; copy the whole bundle, or export the run again") from None
    if not stat.S_ISREG(found.st_mode):
        raise BundleError(f"{path}: is a link or no plain file; copy the bundle with its files")
    if not isinstance(facts, dict) or found.st_size != facts.get("bytes"):
        wanted = facts.get("bytes") if isinstance(facts, dict) else None
        raise BundleError(f"{path}: has {found.st_size} bytes, the manifest says {wanted}; export the run again")
    if sha256_of(path) != facts.get("sha256"):
        raise BundleError(f"{path}: was changed after the export (its SHA-256 differs); export the run again")


def _check_onnx(folder: Path, name: str, files: dict[str, Any]) -> None:
    """Raise where an ONNX file of the bundle wants data from a file that is not one of the bundle's."""
    beside = PurePosixPath(name).parent
    try:
        places = external_files((folder / name).read_bytes())
    except BundleError as error:
        raise BundleError(f"{folder / name}: {error}") from error
    for place in sorted(places):
        if not _is_inside(place) or str(beside / place) not in files:
            raise BundleError(f"{folder / name}: reads weights from {place!r}, outside of the bundle; do not use it")


def _locations(data: memoryview, message: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise BundleError("is nested too deeply for a model")
    children = _CHILDREN[message]
    for field, value in _fields(data):
        child = children.get(field)
        if child is None or value is None:
            continue
        if child == "Entry":
            entry = {number: bytes(v) for number, v in _fields(value) if v is not None}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8", "surrogateescape")
        else:
            yield from _locations(value, child, depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Numbers and contents of a message's fields; None for those that are plain numbers."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
            yield tag >> 3, None
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_EIGHT, _FOUR):
            size = 8 if kind == _EIGHT else 4
        else:
            raise BundleError("is no ONNX model")
        if at + size > end:
            raise BundleError("is no ONNX model (cut off?)")
        yield tag >> 3, data[at : at + size] if kind == _BYTES else None
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
    raise BundleError("is no ONNX model (cut off?)")

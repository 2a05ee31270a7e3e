"""The Parquet shards of a split to flat arrays that can be mapped to memory, batch of rows by batch of rows.

::

    FOLDER/offsets.npy      int64 [S + 1], where each sequence starts
    FOLDER/column-<n>.npy   [N] over all events, one a column
    FOLDER/bag-<n>.npy      [M] values of lists, one an event; bag-<n>.offsets.npy [N + 1], where each starts
    FOLDER/once-<n>.npy     [S], a column of one value a sequence
    FOLDER/scored_from.npy  int32 [S], where the shards have it
    FOLDER/names.arrow      session_id and, where the shards have it, user_id
    FOLDER/contents.json    which columns, how many sequences and events; written last
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.bags import Bags
from recsys.data.names import Names
from recsys.errors import InputError, missing_column, one_line
from recsys.runtime import progress, read_json
from recsys.schema import SESSION_ID, USER_ID

Array = npt.NDArray[Any]
SCORED_FROM = "scored_from"
CONTENTS = "contents.json"
_NAMES = "names.arrow"
_EVENTS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Further:
    """Columns that are no plain lists, by name and numpy dtype: lists of lists, and one value a sequence."""

    bags: Mapping[str, str] = field(default_factory=dict)
    once: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of all of them."""
        return [*self.bags, *self.once]


@dataclass(frozen=True)
class Flat:
    """A split as flat arrays; see `recsys.data.dataset.SequenceDataset` for what they hold."""

    offsets: Array
    columns: dict[str, Array]
    keys: Names
    groups: Names
    scored_from: Array | None
    bags: dict[str, Bags] = field(default_factory=dict)
    once: dict[str, Array] = field(default_factory=dict)


class _Growing:
    """A one-dimensional .npy file that arrays are appended to; numpy leaves room in its header for the final size."""

    def __init__(self, path: Path, dtype: str) -> None:
        self._stream = path.open("wb")
        self._dtype = np.dtype(dtype)
        self._count = 0
        self._write_header()

    def append(self, values: Array) -> None:
        data = np.ascontiguousarray(values, dtype=self._dtype)
        if data.size:
            self._stream.write(data.data.cast("B"))
            self._count += data.size

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._count,)}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.seek(0)
        self._write_header()
        self._stream.close()


class _GrowingBags:
    """The two files of a column of lists."""

    def __init__(self, folder: Path, number: int, dtype: str) -> None:
        self._values = _Growing(folder / f"bag-{number}.npy", dtype)
        self._offsets = _Growing(folder / f"bag-{number}.offsets.npy", "int64")
        self._offsets.append(np.zeros(1, dtype=np.int64))
        self._end = 0

    def append(self, values: Array, lengths: Array) -> None:
        self._values.append(values)
        self._offsets.append(self._end + np.cumsum(lengths, dtype=np.int64))
        self._end += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._values.__exit__()
        self._offsets.__exit__()


def flatten(files: Sequence[Path], dtypes: Mapping[str, str], folder: Path, further: Further | None = None) -> None:
    """Write the list columns `dtypes` (name to numpy dtype) of Parquet `files`, and `further`, into the empty `folder`.

    Memory is bounded by a batch of rows of about a quarter of a million events, or by the longest sequence.

    Raises:
        InputError: a file is damaged, lacks a column that another has, or holds values that do not fit; names it.
    """
    extra, further = _extra_columns(files[0]), further or Further()
    names = [SESSION_ID, *(c for c in (USER_ID,) if c in extra)]
    has_scores = SCORED_FROM in extra
    fields = pa.schema([(name, pa.large_string()) for name in names])
    events = sequences = 0
    with ExitStack() as stack:
        flat = {
            name: stack.enter_context(_Growing(folder / f"column-{i}.npy", dtype))
            for i, (name, dtype) in enumerate(dtypes.items())
        }
        bags = {n: stack.enter_context(_GrowingBags(folder, i, t)) for i, (n, t) in enumerate(further.bags.items())}
        once = {
            name: stack.enter_context(_Growing(folder / f"once-{i}.npy", dtype))
            for i, (name, dtype) in enumerate(further.once.items())
        }
        offsets = stack.enter_context(_Growing(folder / "offsets.npy", "int64"))
        offsets.append(np.zeros(1, dtype=np.int64))
        scores = stack.enter_context(_Growing(folder / f"{SCORED_FROM}.npy", "int32")) if has_scores else None
        texts = stack.enter_context(pa.OSFile(str(folder / _NAMES), "wb"))
        writer = stack.enter_context(pa.ipc.new_file(texts, fields))
        wanted = [*dtypes, *further.names, *names, *([SCORED_FROM] if has_scores else [])]
        for rows in _row_batches(files, wanted, extra):
            lengths = rows.append_events(flat, dtypes)
            for name, lists in bags.items():
                rows.append_lists(lists, name, further.bags[name], lengths)
            for name, growing in once.items():
                growing.append(rows.single(name, further.once[name]))
            offsets.append(events + np.cumsum(lengths, dtype=np.int64))
            events += int(lengths.sum())
            writer.write_batch(pa.record_batch([rows.text(name) for name in names], schema=fields))
            if scores is not None:
                scores.append(rows.scored_from())
            sequences += len(lengths)
    contents = {"columns": list(dtypes), "names": names, "scored_from": has_scores}
    contents |= {"sequences": sequences, "events": events, "bags": list(bags), "once": list(once)}
    (folder / CONTENTS).write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def open_flat(folder: Path) -> Flat:
    """Map what `flatten` wrote. Raises OSError, ValueError or KeyError where it is damaged."""
    contents = read_json(folder / CONTENTS)
    columns = {name: _mapped(folder / f"column-{i}.npy") for i, name in enumerate(contents["columns"])}
    bags = {
        name: Bags(_mapped(folder / f"bag-{i}.npy"), _mapped(folder / f"bag-{i}.offsets.npy"))
        for i, name in enumerate(contents.get("bags", []))
    }
    once = {name: _mapped(folder / f"once-{i}.npy") for i, name in enumerate(contents.get("once", []))}
    offsets = _mapped(folder / "offsets.npy")
    scored_from = _mapped(folder / f"{SCORED_FROM}.npy") if contents["scored_from"] else None
    table = pa.ipc.open_file(pa.memory_map(str(folder / _NAMES))).read_all()
    keys = Names(table[SESSION_ID])
    groups = Names(table[USER_ID]) if USER_ID in contents["names"] else keys
    sequences, events = contents["sequences"], contents["events"]
    sizes = {len(offsets) - 1, len(keys), len(groups), *(() if scored_from is None else (len(scored_from),))}
    sizes |= {len(values) for values in once.values()}
    counts = {len(values) for values in columns.values()} | {len(bag.offsets) - 1 for bag in bags.values()}
    torn = any(bag.offsets[-1] != len(bag.values) for bag in bags.values())
    if sizes != {sequences} or counts - {events} or offsets[-1] != events or torn:
        raise ValueError(f"{folder}: files do not belong together")
    return Flat(offsets, columns, keys, groups, scored_from, bags, once)


def _mapped(path: Path) -> Array:
    """A plain array over a mapped file (np.memmap's own indexing is slower)."""
    array: Array = np.asarray(np.load(path, mmap_mode="r"))
    return array


def list_values(values: pa.Array, name: str, dtype: str, where: object) -> tuple[Array, Array]:
    """Values ``[n]`` of a list column one after the other, and the length of each list."""
    kind = values.type
    if not _is_list(kind):
        raise InputError(f"{where}: column '{name}' is {kind}, not a list a sequence; preprocess again")
    flat = values.flatten()
    if values.null_count or flat.null_count:
        raise InputError(f"{where}: column '{name}' holds nulls; preprocess again")
    return single_values(flat, name, dtype, where), np.diff(values.offsets.to_numpy())


def single_values(values: pa.Array, name: str, dtype: str, where: object) -> Array:
    """Plain values ``[n]`` without nulls as a numpy array."""
    try:
        cast = values.cast(pa.from_numpy_dtype(np.dtype(dtype)))
    except pa.ArrowException as error:
        raise InputError(f"{where}: column '{name}': {one_line(error)}; preprocess again") from error
    array: Array = cast.to_numpy(zero_copy_only=False)
    return array


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def check_scored_from(values: pa.Array, first_row: int, where: object) -> Array:
    """The column as int32 ``[S]``; refuses nulls and places below 0. `first_row`: how many rows stand before these."""
    bad = pc.fill_null(pc.less(values, 0), True)
    if pc.any(bad).as_py():
        row = pc.index(bad, True).as_py()
        found = f"row {first_row + row + 1}: '{SCORED_FROM}' is {values[row].as_py()}, not a place in the sequence"
        raise InputError(f"{where}: {found}; preprocess again")
    array: Array = values.cast(pa.int32()).to_numpy(zero_copy_only=False)
    return array


@dataclass(frozen=True)
class _Rows:
    """Some rows of a shard, and how many it has before them."""

    file: Path
    first: int
    batch: pa.RecordBatch

    def append_events(self, flat: Mapping[str, _Growing], dtypes: Mapping[str, str]) -> Array:
        """Append each list column's values; returns the lengths, which all columns share."""
        lengths: Array | None = None
        for name, growing in flat.items():
            values, found = list_values(self.batch.column(name), name, dtypes[name], self.file)
            if lengths is not None and not np.array_equal(lengths, found):
                first = next(iter(flat))
                raise InputError(f"{self.file}: lists of '{name}' and '{first}' differ in length; preprocess again")
            growing.append(values)
            lengths = found
        return np.zeros(self.batch.num_rows, dtype=np.int64) if lengths is None else lengths

    def append_lists(self, growing: _GrowingBags, name: str, dtype: str, lengths: Array) -> None:
        """Append a column whose events' values are lists; sequences have so many events as `lengths` says."""
        column = self.batch.column(name)
        inner = column.type.value_type if _is_list(column.type) else None
        if inner is None or not _is_list(inner):
            found = f"is {column.type}, not a list of lists a sequence"
            raise InputError(f"{self.file}: column '{name}' {found}; preprocess again")
        if column.null_count:
            raise InputError(f"{self.file}: column '{name}' holds nulls; preprocess again")
        if not np.array_equal(np.diff(column.offsets.to_numpy()), lengths):
            raise InputError(f"{self.file}: lists of '{name}' and of other columns differ in length; preprocess again")
        growing.append(*list_values(column.flatten(), name, dtype, self.file))

    def single(self, name: str, dtype: str) -> Array:
        """A column of one value a sequence."""
        column = self.batch.column(name)
        if _is_list(column.type) or column.null_count:
            found = f"is {column.type}" if _is_list(column.type) else "holds nulls"
            raise InputError(f"{self.file}: column '{name}' {found}, not one value a sequence; preprocess again")
        return single_values(column, name, dtype, self.file)

    def text(self, name: str) -> pa.Array:
        return self.batch.column(name).cast(pa.large_string())

    def scored_from(self) -> Array:
        return check_scored_from(self.batch.column(SCORED_FROM), self.first, self.file)


def _row_batches(files: Sequence[Path], columns: list[str], extra: set[str]) -> Iterator[_Rows]:
    for path in progress(files, "Map", total=len(files), unit="file"):
        with _opened(path) as file:
            present = set(file.schema_arrow.names)
            for name in columns:
                if name not in present:
                    raise missing_column(path, name, file.schema_arrow.names)
            if present & {USER_ID, SCORED_FROM} != extra:
                differ = sorted((present & {USER_ID, SCORED_FROM}) ^ extra)[0]
                raise InputError(f"{path}: column '{differ}' is here and not in {files[0].name}; preprocess again")
            first = 0
            try:
                for batch in file.iter_batches(_batch_rows(file.metadata), columns=columns):
                    yield _Rows(path, first, batch)
                    first += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(path, error) from error


def _extra_columns(path: Path) -> set[str]:
    """Which optional columns a shard has; all of a split's shards must have the same."""
    with _opened(path) as file:
        return set(file.schema_arrow.names) & {USER_ID, SCORED_FROM}


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not readable as Parquet: {one_line(error)}; preprocess again")


def _batch_rows(meta: pq.FileMetaData) -> int:
    """Rows that hold about `_EVENTS_AT_ONCE` events."""
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    events = sum(max(g.column(j).num_values for j in range(g.num_columns)) for g in groups)
    return max(1, min(_EVENTS_AT_ONCE, _EVENTS_AT_ONCE * meta.num_rows // max(1, events)))

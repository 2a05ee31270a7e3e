"""Events spread over session-hash buckets on disk: what every pass of the ETL reads, a bucket at a time.

Text is spread as numbers: the values of the `coded` columns are numbered once for all buckets, in the order in which
they are met; sessions and users, of which there is no bound, within the batch that was read. `Buckets.load` gives them
back as Enum columns, so that sorting, comparing and counting work on small integers.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc

from recsys.buckets import bucket_of
from recsys.errors import InputError
from recsys.etl.users import ORIGIN, as_users
from recsys.schema import SESSION_ID, TIMESTAMP, USER_ID

LOCAL = (SESSION_ID, USER_ID, ORIGIN)  # columns whose values are numbered within a batch
_SLICERS = 2  # batches in work at once


@dataclass(frozen=True)
class Batch:
    """Rows as they were read, normalised: names and classes as dictionaries, times and numbers, other text."""

    words: dict[str, pa.DictionaryArray]
    numbers: dict[str, np.ndarray | pa.Array]

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.words[SESSION_ID])

    def as_users(self) -> "Batch":
        """The same with users for sessions (see `as_users`)."""
        names = {n: pl.Series(n, pl.from_arrow(self.words[n].dictionary_decode())) for n in (SESSION_ID, USER_ID)}
        merged = as_users(pl.DataFrame({n: s.cast(pl.String) for n, s in names.items()}))
        found = {n: dictionary_of(merged[n].to_arrow()) for n in (SESSION_ID, ORIGIN)}
        return Batch(self.words | found, self.numbers)


def dictionary_of(values: pa.Array) -> pa.DictionaryArray:
    """Values of any plain kind as a dictionary of text, as Polars spells them; null stays null."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not pa.types.is_dictionary(values.type):
        if pa.types.is_string_view(values.type) or pa.types.is_null(values.type):
            values = values.cast(pa.large_string())
        values = values.dictionary_encode()
    kind = values.dictionary.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if pa.types.is_signed_integer(values.indices.type):
            return values
        return pa.DictionaryArray.from_arrays(values.indices.cast(pa.int32()), values.dictionary)
    text = pl.Series(pl.from_arrow(values.dictionary)).cast(pl.String)
    return pa.DictionaryArray.from_arrays(values.indices.cast(pa.int32()), text.to_arrow().cast(pa.large_string()))


def _indices(column: pa.DictionaryArray) -> np.ndarray:
    """[rows] places in the dictionary, -1 for null."""
    indices = column.indices.fill_null(-1) if column.indices.null_count else column.indices
    return indices.to_numpy(zero_copy_only=False)


class Coder:
    """Numbers the values of one column in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._lock = Lock()

    def codes(self, column: pa.DictionaryArray) -> np.ndarray:
        """[rows] Int32 numbers, -1 for null."""
        known = self._numbers
        with self._lock:
            found = [-1 if v is None else known.setdefault(v, len(known)) for v in column.dictionary.to_pylist()]
        table = np.array([*found, -1], dtype=np.int32)
        return table[_indices(column)]  # the last entry, at -1, is null's

    def values(self) -> pl.Series:
        """What the numbers stand for, as Enum."""
        values = pl.Series(list(self._numbers), dtype=pl.String)
        return values.cast(pl.Enum(values))


@dataclass(frozen=True)
class Buckets:
    """Files of whole sessions, in the order in which their rows were read."""

    name: str  # of what was read, for messages
    columns: list[str]
    paths: list[Path]
    values: dict[str, pl.Series]  # of the coded columns (Enum), by number

    def load(self, path: Path, wanted: Collection[str] | None = None) -> pl.DataFrame:
        """One bucket: session_id, user_id and coded columns as Enum, timestamp Int64, numbers Float64, text.

        Args:
            wanted: only these of the columns.
        """
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_stream(file).read_all()
        columns = []
        for name in self.columns:
            if wanted is not None and name not in wanted:
                continue
            if name in LOCAL:
                columns.append(_local(name, table.column(name)))
            elif name in self.values:
                columns.append(_enum(name, self.values[name], table.column(name).to_numpy()))
            else:
                columns.append(pl.Series(name, pl.from_arrow(table.column(name))).rechunk())
        return pl.DataFrame(columns)

    def save_sorted(self, path: Path, frame: pl.DataFrame) -> None:
        """Keep the sorted rows of the bucket `path`, for `load_sorted`."""
        names = {name: frame[name].dtype for name in frame.columns if name in LOCAL}
        for name, kind in names.items():
            assert isinstance(kind, pl.Enum)
            kind.categories.to_frame(name).write_ipc(path.with_suffix(f".{name}"), compression="uncompressed")
        plain = frame.with_columns(pl.col(pl.Enum).to_physical().cast(pl.UInt32))
        plain.write_ipc(path.with_suffix(".sorted"), compression="uncompressed")

    def load_sorted(self, path: Path) -> pl.DataFrame:
        """What `save_sorted` was given."""
        frame = pl.read_ipc(path.with_suffix(".sorted"))
        columns = []
        for series in frame.get_columns():
            if series.name in LOCAL:
                names = pl.read_ipc(path.with_suffix(f".{series.name}")).to_series()
                series = names.cast(pl.Enum(names)).gather(series)
            elif series.name in self.values:
                series = self.values[series.name].gather(series).alias(series.name)
            columns.append(series)
        return pl.DataFrame(columns)

    def frames(self) -> Iterator[pl.DataFrame]:
        """Every bucket, with text for Enum."""
        for path in self.paths:
            yield self.load(path).with_columns(pl.col(pl.Enum).cast(pl.String))

    def times(self) -> Iterator[pl.Series]:
        """The times of every bucket."""
        for path in self.paths:
            yield self.load(path, [TIMESTAMP])[TIMESTAMP]


def _enum(name: str, categories: pl.Series, codes: np.ndarray) -> pl.Series:
    if len(codes) and codes.min() < 0:
        places = pl.Series(pl.from_arrow(pa.array(codes, mask=codes < 0))).cast(pl.UInt32)
    else:
        places = pl.Series(codes).cast(pl.UInt32)
    return categories.gather(places).alias(name)


def _local(name: str, column: pa.ChunkedArray) -> pl.Series:
    """Batches with a dictionary each to one Enum, whose order is that of the names."""
    names = pl.concat([pl.Series(pl.from_arrow(chunk.dictionary)).cast(pl.String) for chunk in column.chunks])
    ranks = np.append(names.rank("dense").cast(pl.Int32).to_numpy() - 1, -1)
    codes, first = [], 0
    for chunk in column.chunks:
        places = _indices(chunk)
        codes.append(ranks[np.where(places < 0, -1, places + first)])
        first += len(chunk.dictionary)
    distinct = names.unique().sort()
    return _enum(name, distinct.cast(pl.Enum(distinct)), np.concatenate(codes))


def spread(
    batches: Iterable[Batch], rows: int, bucket_rows: int, most: int, work: Path, name: str, *, merge: bool = False
) -> Buckets:
    """Write rows to one file a bucket of sessions, in the order read.

    Args:
        rows: about how many there are.
        bucket_rows: about what a bucket should hold.
        most: buckets at most.
        work: an existing folder for the files.
        name: of what is read, for messages.
        merge: buckets are of users (see `as_users`).

    Raises:
        InputError: there is no row.
    """
    count = min(most, max(1, -(-rows // bucket_rows)))
    coders: dict[str, Coder] = defaultdict(Coder)
    columns: list[str] = []
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    try:
        for records in _sliced(batches, count, coders, merge):
            for bucket, record in records:
                columns = record.schema.names
                if bucket not in writers:
                    writers[bucket] = pa.ipc.new_stream(str(_file(work, bucket)), record.schema)
                writers[bucket].write_batch(record)
    finally:
        for writer in writers.values():
            writer.close()
        pa.default_memory_pool().release_unused()  # else what reading held stays beside what the passes need
    if not writers:
        raise InputError(f"{name}: a header and no rows")
    values = {column: coder.values() for column, coder in coders.items()}
    return Buckets(name, columns, [_file(work, bucket) for bucket in sorted(writers)], values)


def _file(work: Path, bucket: int) -> Path:
    return work / f"bucket-{bucket:05d}.arrow"


def _sliced(
    batches: Iterable[Batch], count: int, coders: dict[str, Coder], merge: bool
) -> Iterator[list[tuple[int, pa.RecordBatch]]]:
    """The slices of each batch, made while the next batches are read."""
    running: deque[Future[list[tuple[int, pa.RecordBatch]]]] = deque()
    with ThreadPoolExecutor(_SLICERS) as pool:
        for batch in _ahead(batches):
            for name in batch.words.keys() - set(LOCAL):
                coders[name]  # made here, where there is one thread
            running.append(pool.submit(_slices, batch, count, coders, merge))
            if len(running) > _SLICERS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same, each read while the one before is worked on."""
    iterator = iter(batches)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, iterator, None)
        while (batch := waiting.result()) is not None:
            waiting = pool.submit(next, iterator, None)
            yield batch


def _slices(batch: Batch, count: int, coders: dict[str, Coder], merge: bool) -> list[tuple[int, pa.RecordBatch]]:
    """The rows of each bucket that has any, in their order."""
    batch = batch.as_users() if merge else batch
    session = batch.words[SESSION_ID]
    names = session.dictionary
    bucket_of_name = np.fromiter(
        (bucket_of(n or "", count) for n in names.to_pylist()), dtype=np.uint16, count=len(names)
    )
    by_bucket = np.argsort(bucket_of_name, kind="stable")  # so that a bucket's names are a slice of the dictionary
    place = np.empty(len(names), dtype=np.int32)
    place[by_bucket] = np.arange(len(names), dtype=np.int32)
    names = names.take(pa.array(by_bucket))
    indices = _indices(session)
    bucket_of_row = bucket_of_name[indices]
    order = np.argsort(bucket_of_row, kind="stable")
    ends = np.cumsum(np.bincount(bucket_of_row, minlength=count))
    name_ends = np.cumsum(np.bincount(bucket_of_name, minlength=count))
    columns = _ordered(batch, place[indices], order, coders)
    found, start, first_name = [], 0, 0
    for bucket, (end, name_end) in enumerate(zip(ends.tolist(), name_ends.tolist(), strict=True)):
        if end > start:
            rows = {n: c[start:end] for n, c in columns.items()}
            own = pa.array(rows[SESSION_ID] - first_name, type=pa.int32())
            arrays = [pa.DictionaryArray.from_arrays(own, names.slice(first_name, name_end - first_name))]
            for column, values in rows.items():
                if column == SESSION_ID:
                    continue
                arrays.append(_compact(batch.words[column], values) if column in LOCAL else pa.array(values))
            found.append((bucket, pa.record_batch(arrays, names=list(rows))))
        start, first_name = end, name_end
    return found


def _ordered(
    batch: Batch, session: np.ndarray, order: np.ndarray, coders: dict[str, Coder]
) -> dict[str, np.ndarray | pa.Array]:
    """All columns in bucket order, session first: numbers of names and values, times, numbers, text."""
    columns: dict[str, np.ndarray | pa.Array] = {SESSION_ID: session[order]}
    for name, words in batch.words.items():
        if name in LOCAL:
            columns.setdefault(name, _indices(words)[order])
        else:
            columns[name] = coders[name].codes(words)[order]
    rows = pa.array(order)
    for name, values in batch.numbers.items():
        columns[name] = values[order] if isinstance(values, np.ndarray) else values.take(rows)
    return columns


def _compact(words: pa.DictionaryArray, places: np.ndarray) -> pa.DictionaryArray:
    """Only the values that occur."""
    used, codes = np.unique(places, return_inverse=True)
    nulls = int(used[0] < 0)
    indices = pa.array(codes.astype(np.int32) - nulls, mask=codes < nulls)
    return pa.DictionaryArray.from_arrays(indices, words.dictionary.take(pa.array(used[nulls:])))

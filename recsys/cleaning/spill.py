"""Rows on disk in hash buckets, so that all rows of a session come back together in bounded memory.

Each frame becomes one Arrow file with one record batch a fine bucket. Buckets are ranges of the key's hash; ranges
are joined until a group has about `ROWS_A_GROUP` rows, so memory depends neither on the number of rows nor on that
of sessions (a single session or user must fit).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.cleaning.sessions import HASH, HASHES

ROWS_A_FILE = 1 << 17
ROWS_A_GROUP = 1 << 17
FEWEST, MOST = 1 << 8, 1 << 14  # fine buckets


def fine_buckets(input_bytes: int) -> int:
    """Fine buckets for an input of this size on disk: enough that one of them is small beside a group."""
    fine = FEWEST
    while fine < MOST and fine << 22 < input_bytes:
        fine <<= 1
    return fine


@dataclass(frozen=True)
class Spilled:
    """Rows on disk: Arrow files in the order of the rows, and how many rows each fine bucket has. Small, picklable."""

    files: list[Path]
    counts: np.ndarray  # [fine buckets] Int64

    def __add__(self, after: "Spilled") -> "Spilled":
        """The rows of both, those of `after` behind."""
        return Spilled([*self.files, *after.files], self.counts + after.counts)

    def ranges(self, rows: int = ROWS_A_GROUP) -> list[tuple[int, int]]:
        """Half-open ranges of fine buckets with about `rows` rows each."""
        found, first, total = [], 0, 0
        for bucket, count in enumerate(self.counts.tolist()):
            if total and total + count > rows:
                found.append((first, bucket))
                first, total = bucket, 0
            total += count
        return [*found, (first, len(self.counts))]

    def read(self, first: int, last: int) -> pl.DataFrame | None:
        """All rows of the fine buckets `first` to `last` (not included), in the order in which they were added."""
        parts = [pl.DataFrame(t) for t in (_read(p, first, last) for p in self.files) if t.num_rows]
        return pl.concat(parts) if parts else None


class Spill:
    """Takes frames with the column `HASH`; `finish` gives them back grouped by ranges of it, the order of rows kept."""

    def __init__(self, folder: Path, schema: dict[str, pl.DataType], fine: int = FEWEST) -> None:
        """`fine`: how many fine buckets (see `fine_buckets`)."""
        self._folder, self._schema, self._fine = folder, schema, fine
        self._waiting: list[pl.DataFrame] = []
        self._files: list[Path] = []
        self._counts = np.zeros(fine, dtype=np.int64)

    def add(self, frame: pl.DataFrame) -> None:
        """Take rows; columns of the schema that `frame` lacks are null."""
        lacking = [pl.lit(None, dtype=t).alias(c) for c, t in self._schema.items() if c not in frame.columns]
        chosen = frame.with_columns(lacking).select(*self._schema)
        # By way of Arrow: a filtered frame keeps all text of the file's piece alive, of rows that left long ago too.
        self._waiting.append(pl.DataFrame(chosen.to_arrow(compat_level=pl.CompatLevel.oldest())))
        if sum(f.height for f in self._waiting) >= ROWS_A_FILE:
            self._flush()

    def finish(self) -> Spilled:
        """Write what is left and say where everything lies."""
        if self._waiting:
            self._flush()
        return Spilled(self._files, self._counts)

    def _flush(self) -> None:
        frame = pl.concat(self._waiting)
        self._waiting = []
        bucket = (pl.col(HASH).cast(pl.UInt64) * self._fine // HASHES).cast(pl.UInt32).alias("bucket")
        frame = frame.with_columns(bucket).sort("bucket", maintain_order=True)
        counts = np.bincount(frame["bucket"].to_numpy(), minlength=self._fine)
        ends = np.cumsum(counts)
        path = self._folder / f"rows-{len(self._files):05d}.arrow"
        table = frame.drop("bucket").rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            for end, count in zip(ends.tolist(), counts.tolist(), strict=True):
                batches = table.slice(end - count, count).to_batches()
                writer.write_batch(batches[0] if batches else _empty(table.schema))
        self._files.append(path)
        self._counts += counts


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema], schema=schema)


def _read(path: Path, first: int, last: int) -> pa.Table:
    with pa.OSFile(str(path), "rb") as source:
        file = pa.ipc.open_file(source)
        return pa.Table.from_batches([file.get_batch(i) for i in range(first, last)], file.schema)

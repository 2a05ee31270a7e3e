"""Session-hash buckets: rows of one session meet in one bucket, so memory is bounded by a bucket.

The hash is stable over processes, machines and versions of Polars (it is ours, not the library's).
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar
from zlib import crc32

import numpy as np
import polars as pl

In = TypeVar("In")
Out = TypeVar("Out")


def bucket_of(key: str, buckets: int) -> int:
    """The bucket of one key: CRC-32 of its UTF-8 bytes, modulo `buckets`."""
    return crc32(key.encode()) % buckets


def bucket_column(keys: pl.Series, buckets: int) -> pl.Series:
    """The bucket of every row; each distinct key is hashed once. Null counts as the empty string."""
    text = keys.cast(pl.String).fill_null("")
    distinct = text.unique()
    numbers = np.fromiter((bucket_of(k, buckets) for k in distinct), dtype=np.uint32, count=len(distinct))
    return text.replace_strict(distinct, pl.Series(numbers), return_dtype=pl.UInt32).alias("bucket")


def run_buckets(task: Callable[[In], Out], buckets: Sequence[In], workers: int = 1) -> Iterable[Out]:
    """Run `task` on every bucket, in order, in this process or in `workers` others.

    `task` and what it takes and returns must be picklable by multiprocessing when `workers` is above 1.
    """
    if workers <= 1 or len(buckets) <= 1:
        yield from map(task, buckets)
        return
    # spawn: Polars' threads do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(task, buckets)

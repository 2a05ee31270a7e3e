"""Session-hash buckets: rows of one session meet in one bucket, so memory is bounded by a bucket.

The hash is stable over processes, machines and versions of Polars (it is ours, not the library's).
"""

from zlib import crc32

import numpy as np
import polars as pl


def bucket_of(key: str, buckets: int) -> int:
    """The bucket of one key: CRC-32 of its UTF-8 bytes, modulo `buckets`."""
    return crc32(key.encode()) % buckets


def bucket_column(keys: pl.Series, buckets: int) -> pl.Series:
    """The bucket of every row; each distinct key is hashed once. Null counts as the empty string."""
    text = keys.cast(pl.String).fill_null("")
    distinct = text.unique()
    numbers = np.fromiter((bucket_of(k, buckets) for k in distinct), dtype=np.uint32, count=len(distinct))
    return text.replace_strict(distinct, pl.Series(numbers), return_dtype=pl.UInt32).alias("bucket")

"""Values of a categorical column and their ids: fitted on train by count, or given as a file."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.buckets import bucket_column
from recsys.schema import FIRST_ID, NULL_ID, OOV_ID

COUNT = "count"


def count_values(values: pl.Series, weights: pl.Series | None = None) -> pl.DataFrame:
    """How often each value (null too) occurs: columns `value` String and `count` Int64, in no order."""
    if isinstance(values.dtype, pl.Enum) and weights is None:
        return _count_categories(values, values.dtype.categories)
    weight = pl.lit(1, dtype=pl.Int64) if weights is None else pl.Series("weight", weights, dtype=pl.Int64)
    frame = pl.DataFrame([values.cast(pl.String).alias("value")]).with_columns(weight.alias(COUNT))
    return frame.group_by("value").agg(pl.col(COUNT).sum())


def _count_categories(values: pl.Series, names: pl.Series) -> pl.DataFrame:
    places = values.to_physical().cast(pl.Int64).fill_null(len(names)).to_numpy()
    counts = np.bincount(places, minlength=len(names) + 1)
    frame = pl.DataFrame({"value": pl.concat([names, pl.Series([None], dtype=pl.String)]), COUNT: counts})
    return frame.filter(pl.col(COUNT) > 0)


def merge_counts(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Add up what `count_values` gave for several parts."""
    empty = pl.DataFrame(schema={"value": pl.String, COUNT: pl.Int64})
    return pl.concat([empty, *parts]).group_by("value").agg(pl.col(COUNT).sum())


@dataclass(frozen=True)
class Vocabulary:
    """Values of one column in id order, the first with id 3; ids 0, 1, 2 are padding, null, unknown.

    With `hash_buckets`, a value that is not among them has one of so many further ids instead of 2: CRC-32 of its
    UTF-8 bytes, modulo `hash_buckets`, counted from the id after the last value's.
    """

    values: pl.Series  # String
    counts: pl.Series  # Int64, in train
    null_count: int = 0  # rows of train without a value
    oov_count: int = 0  # rows of train whose value has no id of its own
    hash_buckets: int = 0

    @classmethod
    def fit(
        cls,
        counts: pl.DataFrame,
        min_count: int = 1,
        dropped: Iterable[str] = (),
        *,
        top_k: int | None = None,
        hash_buckets: int = 0,
    ) -> "Vocabulary":
        """Order by descending count, equal counts by value (code points).

        Values seen less than `min_count` times, those in `dropped` and those behind the first `top_k` get no id of
        their own.
        """
        known = counts.filter(pl.col("value").is_not_null() & (pl.col(COUNT) > 0))
        leave = pl.Series("leave", list(dropped), dtype=pl.String)
        kept = known.filter((pl.col(COUNT) >= min_count) & ~pl.col("value").is_in(leave.implode()))
        kept = kept.sort([COUNT, "value"], descending=[True, False])
        kept = kept if top_k is None else kept.head(top_k)
        return cls._of(kept, counts, hash_buckets)

    @classmethod
    def given(cls, values: pl.Series, counts: pl.DataFrame, hash_buckets: int = 0) -> "Vocabulary":
        """These distinct values in this order, with their counts in train (0 for those it does not hold)."""
        kept = pl.DataFrame([values.alias("value")]).join(counts, on="value", how="left", maintain_order="left")
        return cls._of(kept.with_columns(pl.col(COUNT).fill_null(0)), counts, hash_buckets)

    def extended(
        self, counts: pl.DataFrame, min_count: int = 1, dropped: Iterable[str] = (), *, top_k: int | None = None
    ) -> "Vocabulary":
        """The same ids, then those of new values as `fit` orders them; counts are those of before plus `counts`.

        `min_count` and `top_k` apply to the new values alone. With hash buckets there are no new values: those that
        share a bucket go on sharing it, since ids behind it would have to move.
        """
        before = pl.DataFrame([self.values.alias("value"), self.counts.cast(pl.Int64).alias("before")])
        known = before.join(counts, on="value", how="left", maintain_order="left")
        summed = known.select(pl.col("before") + pl.col(COUNT).fill_null(0)).to_series()
        others = counts.join(before, on="value", how="anti")  # nulls are among them
        tail = Vocabulary.fit(others, min_count, dropped, top_k=0 if self.hash_buckets else top_k)
        return Vocabulary(
            pl.concat([known["value"], tail.values]),
            pl.concat([summed.alias(COUNT), tail.counts]),
            self.null_count + tail.null_count,
            self.oov_count + tail.oov_count,
            self.hash_buckets,
        )

    def counted(self, counts: pl.DataFrame) -> "Vocabulary":
        """The same ids; counts are those of before plus `counts`."""
        return self.extended(counts, top_k=0)

    @classmethod
    def _of(cls, kept: pl.DataFrame, counts: pl.DataFrame, hash_buckets: int) -> "Vocabulary":
        nulls = int(counts.filter(pl.col("value").is_null())[COUNT].sum())
        total = int(counts[COUNT].sum())
        return cls(kept["value"], kept[COUNT], nulls, total - nulls - int(kept[COUNT].sum()), hash_buckets)

    @property
    def cardinality(self) -> int:
        """How many ids there are: the three reserved ones, the values', the hash buckets."""
        return FIRST_ID + len(self.values) + self.hash_buckets

    @property
    def sha256(self) -> str:
        """Hex digest of the values in id order."""
        text = json.dumps(self.values.to_list(), ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def encode(self, column: str) -> pl.Expr:
        """Ids (Int32) of `column`: null 1, unknown 2 or a hash bucket."""
        return pl.col(column).map_batches(self.ids, return_dtype=pl.Int32, is_elementwise=True)

    def ids(self, values: pl.Series) -> pl.Series:
        """Ids (Int32) of `values`; those of an Enum are looked up once a category."""
        if isinstance(values.dtype, pl.Enum):
            return self.ids(values.dtype.categories).gather(values.to_physical()).fill_null(NULL_ID)
        text = values.cast(pl.String)
        if len(self.values):
            numbers = pl.int_range(FIRST_ID, FIRST_ID + len(self.values), dtype=pl.Int32, eager=True)
            known = text.replace_strict(self.values, numbers, default=None, return_dtype=pl.Int32)
        else:
            known = pl.Series([None], dtype=pl.Int32).new_from_index(0, len(text))
        other = self._hashed(text) if self.hash_buckets else pl.Series([OOV_ID], dtype=pl.Int32)
        ids = pl.select(pl.when(text.is_null()).then(NULL_ID).otherwise(pl.coalesce(known, other)).cast(pl.Int32))
        return ids.to_series().alias(values.name)

    def decode(self) -> list[str | None]:
        """The value of every id; null for reserved ids and hash buckets."""
        return [None] * FIRST_ID + self.values.to_list() + [None] * self.hash_buckets

    def _hashed(self, values: pl.Series) -> pl.Series:
        first = FIRST_ID + len(self.values)
        return bucket_column(values, self.hash_buckets).cast(pl.Int32) + first

"""Numbers to intervals, with boundaries that are given or are quantiles of train.

Quantiles come from exact counts of the values cut (towards minus infinity) to 14 binary digits behind the leading
one: numbers of up to 15 binary digits (whole numbers to 32767 among them) are exact, others within 1/16384 of their
size. Cutting looks at a value alone and counts add up, so the result is the same for any parts in any order; and at
most 16384 counts are kept for each factor of two in size. A boundary is a cut value, so cutting moves no value across.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.etl.operators.vocabulary import COUNT
from recsys.schema import FIRST_ID, NULL_ID

_CUT_BITS = np.uint64(52 - 14)  # of a double's 52 binary digits behind the leading one
_REST = np.uint64((1 << 38) - 1)
_KEYS: dict[str, pl.DataType] = {"value": pl.Float64(), COUNT: pl.Int64()}


def cut(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Finite values with 14 binary digits behind the leading one, towards minus infinity."""
    bits = (np.asarray(values, dtype=np.float64) + 0.0).view(np.uint64)  # + 0.0: no negative zero
    size = np.where(np.signbit(values), bits + _REST, bits)  # away from zero where negative
    return np.maximum((size >> _CUT_BITS << _CUT_BITS).view(np.float64), -np.finfo(np.float64).max)


def count_numbers(values: pl.Series) -> pl.DataFrame:
    """How often each cut value occurs: columns `value` Float64 (null: not finite) and `count` Int64, in no order."""
    numbers = values.cast(pl.Float64)
    finite = numbers.filter(numbers.is_finite().fill_null(False)).to_numpy()
    keys, counts = np.unique(cut(finite), return_counts=True)
    missing = len(numbers) - len(finite)
    frame = pl.DataFrame({"value": keys, COUNT: counts}, schema=_KEYS)
    return pl.concat([frame, pl.DataFrame({"value": [None], COUNT: [missing]}, schema=_KEYS)]) if missing else frame


def merge_numbers(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Add up what `count_numbers` gave for several parts."""
    return pl.concat([pl.DataFrame(schema=_KEYS), *parts]).group_by("value").agg(pl.col(COUNT).sum())


def quantile_boundaries(counts: pl.DataFrame, quantiles: int) -> list[float]:
    """Boundaries of about equally full buckets, from `count_numbers`.

    Of n sorted values (from 0), boundary k is value number ``ceil(k n / quantiles)``, k = 1 .. quantiles - 1. Equal
    boundaries are one, and one that no value lies below is none: fewer buckets are left where values repeat.
    """
    known = counts.drop_nulls("value").sort("value")
    values, ends = known["value"].to_list(), known[COUNT].cum_sum()
    total = int(ends[-1]) if len(ends) else 0
    places = [-(-k * total // quantiles) for k in range(1, quantiles)]
    rows = sorted({int(ends.search_sorted(place, side="right")) for place in places if place < total})
    return [values[row] for row in rows if row > 0]


@dataclass(frozen=True)
class Buckets:
    """Intervals ``[low, high)`` between ascending boundaries; the first and the last are open to infinity."""

    boundaries: Sequence[float]

    @property
    def labels(self) -> pl.Series:
        """Names of the intervals in id order, such as ``1.0..2.5`` for 1 <= x < 2.5."""
        edges = ["-inf", *(repr(float(b)) for b in self.boundaries), "inf"]
        return pl.Series("value", [f"{low}..{high}" for low, high in pairwise(edges)])

    def encode(self, column: str, name: str) -> pl.Expr:
        """Ids (Int32) of the intervals of `column`, as column `name`: 1 for null and not finite, 3 for the first."""
        value = pl.col(column).cast(pl.Float64)
        edges = pl.lit(pl.Series("boundaries", list(self.boundaries), dtype=pl.Float64))
        ids = edges.search_sorted(value, side="right").cast(pl.Int32) + FIRST_ID
        known = value.is_finite().fill_null(False)
        return pl.when(known).then(ids).otherwise(pl.lit(NULL_ID, dtype=pl.Int32)).alias(name)


def count_labels(ids: pl.Series, labels: Sequence[str]) -> pl.DataFrame:
    """How often each label occurs, as `count_values` gives it, of ids that start with 3 (1: null)."""
    return _labelled(pl.DataFrame([ids.alias("id")]).group_by("id").len(COUNT), labels)


def label_counts(counts: pl.DataFrame, buckets: Buckets) -> pl.DataFrame:
    """Counts of numbers (`count_numbers`) as counts of the intervals that they lie in."""
    ids = counts.select(buckets.encode("value", "id"), COUNT).group_by("id").agg(pl.col(COUNT).sum())
    return _labelled(ids, buckets.labels.to_list())


def _labelled(ids: pl.DataFrame, labels: Sequence[str]) -> pl.DataFrame:
    names = [None if number < FIRST_ID else labels[number - FIRST_ID] for number in ids["id"]]
    return pl.DataFrame({"value": names, COUNT: ids[COUNT]}, schema={"value": pl.String, COUNT: pl.Int64})

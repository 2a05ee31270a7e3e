"""What is fitted of one column, as sums that merge, and what it does to new rows, as an expression.

* Vocabulary: how often each value occurs in train.
* Moments: number, mean and sum of squared differences (n, mean, M2), merged by Chan, Golub and LeVeque's rule
  (1979); from them the population's standard deviation.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from recsys.schema import FIRST_ID, INTERVAL, NULL_ID, OOV_ID, SESSION_ID, TIMESTAMP

COUNT = "count"
MICROSECONDS = 1_000_000  # in a second
DIGITS = 12  # of a stored statistic: sums over other part sizes differ behind them


def count_values(values: pl.Series, weights: pl.Series | None = None) -> pl.DataFrame:
    """How often each value (null too) occurs: columns `value` String and `count` Int64, in no order."""
    weight = pl.lit(1, dtype=pl.Int64) if weights is None else pl.Series("weight", weights, dtype=pl.Int64)
    frame = pl.DataFrame([values.cast(pl.String).alias("value")]).with_columns(weight.alias(COUNT))
    return frame.group_by("value").agg(pl.col(COUNT).sum())


def merge_counts(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Add up what `count_values` gave for several parts."""
    empty = pl.DataFrame(schema={"value": pl.String, COUNT: pl.Int64})
    return pl.concat([empty, *parts]).group_by("value").agg(pl.col(COUNT).sum())


@dataclass(frozen=True)
class Vocabulary:
    """Values of one column in id order, the first with id 3; ids 0, 1, 2 are padding, null, unknown."""

    values: pl.Series  # String
    counts: pl.Series  # Int64, in train
    null_count: int = 0  # rows of train without a value
    oov_count: int = 0  # rows of train whose value has no id

    @classmethod
    def fit(cls, counts: pl.DataFrame, min_count: int = 1, dropped: Iterable[str] = ()) -> "Vocabulary":
        """Order by descending count, equal counts by value (code points).

        Values seen less than `min_count` times and those in `dropped` get no id.
        """
        known = counts.filter(pl.col("value").is_not_null() & (pl.col(COUNT) > 0))
        total = int(known[COUNT].sum())
        leave = pl.Series("leave", list(dropped), dtype=pl.String)
        kept = known.filter((pl.col(COUNT) >= min_count) & ~pl.col("value").is_in(leave.implode()))
        kept = kept.sort([COUNT, "value"], descending=[True, False])
        nulls = int(counts.filter(pl.col("value").is_null())[COUNT].sum())
        return cls(kept["value"], kept[COUNT], nulls, total - int(kept[COUNT].sum()))

    @property
    def cardinality(self) -> int:
        """How many ids there are, the three reserved ones included."""
        return FIRST_ID + len(self.values)

    @property
    def sha256(self) -> str:
        """Hex digest of the values in id order."""
        text = json.dumps(self.values.to_list(), ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def encode(self, column: str) -> pl.Expr:
        """Ids (Int32) of `column`: null 1, unknown 2."""
        text = pl.col(column).cast(pl.String)
        if len(self.values) == 0:
            ids = pl.lit(OOV_ID, dtype=pl.Int32)
        else:
            numbers = pl.int_range(FIRST_ID, self.cardinality, dtype=pl.Int32, eager=True)
            ids = text.replace_strict(self.values, numbers, default=OOV_ID, return_dtype=pl.Int32)
        return pl.when(text.is_null()).then(pl.lit(NULL_ID, dtype=pl.Int32)).otherwise(ids).alias(column)

    def decode(self) -> list[str | None]:
        """The value of every id; null for the reserved ones."""
        return [None] * FIRST_ID + self.values.to_list()


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared differences from the mean; they merge in any grouping."""

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0
    missing: int = 0  # values that were null or not finite

    @classmethod
    def of(cls, values: pl.Series) -> "Moments":
        """Of one part."""
        numbers = values.cast(pl.Float64).rechunk()
        finite = numbers.filter(numbers.is_finite().fill_null(False)).to_numpy()
        if not len(finite):
            return cls(missing=len(numbers))
        mean = float(np.mean(finite))
        return cls(len(finite), mean, float(np.sum((finite - mean) ** 2)), len(numbers) - len(finite))

    def merge(self, other: "Moments") -> "Moments":
        """Of both parts together."""
        n = self.n + other.n
        missing = self.missing + other.missing
        if n == 0:
            return Moments(missing=missing)
        delta = other.mean - self.mean
        mean = self.mean + delta * other.n / n
        return Moments(n, mean, self.m2 + other.m2 + delta**2 * self.n * other.n / n, missing)

    @property
    def std(self) -> float:
        """Standard deviation of the population."""
        return math.sqrt(self.m2 / self.n) if self.n else 0.0


@dataclass(frozen=True)
class Scaling:
    """What turns a column of numbers into a model's input: log1p, z-score, both or neither.

    Nulls and values that are not finite become the mean of train (0 after a z-score).
    """

    transforms: Sequence[str] = field(default_factory=list)
    mean: float = 0.0  # of train, after log1p where that is used
    std: float = 1.0  # population

    @classmethod
    def fit(cls, transforms: Sequence[str], moments: Moments) -> "Scaling":
        """From the moments of train (after log1p where that is used)."""
        return cls(list(transforms), _rounded(moments.mean), _rounded(moments.std))

    @property
    def is_constant(self) -> bool:
        """Whether train held a single value (its z-score is 0)."""
        return self.std <= 1e-12 * abs(self.mean)

    def apply(self, column: str) -> pl.Expr:
        """Float32 values of `column`."""
        value = before_scaling(column, self.transforms)
        value = pl.when(value.is_finite()).then(value).otherwise(self.mean)
        if "zscore" in self.transforms:
            value = pl.lit(0.0) * value if self.is_constant else (value - self.mean) / self.std
        return value.cast(pl.Float32).alias(column)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def before_scaling(column: str, transforms: Sequence[str]) -> pl.Expr:
    """The values that statistics are taken of: Float64, after log1p where that is used."""
    value = pl.col(column).cast(pl.Float64)
    return value.log1p() if "log1p" in transforms else value


def interval() -> pl.Expr:
    """Seconds since the session's previous event, 0 for its first; rows sorted by session and time."""
    goes_on = pl.col(SESSION_ID) == pl.col(SESSION_ID).shift(1)
    gap = pl.when(goes_on).then(pl.col(TIMESTAMP).diff()).otherwise(0)
    return (gap / MICROSECONDS).alias(INTERVAL)

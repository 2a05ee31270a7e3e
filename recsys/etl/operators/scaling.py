"""Statistics of a column of numbers, as sums that merge, and its scaling.

Moments are number, mean and sum of squared differences (n, mean, M2), merged by Chan, Golub and LeVeque's rule
(1979); from them the population's standard deviation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

DIGITS = 12  # of a stored statistic: sums over other part sizes differ behind them


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared differences from the mean; they merge in any grouping."""

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0
    missing: int = 0  # values that were null or not finite
    infinite: int = 0  # of these, the infinite ones

    @classmethod
    def of(cls, values: pl.Series) -> "Moments":
        """Of one part."""
        numbers = values.cast(pl.Float64).rechunk()
        finite = numbers.filter(numbers.is_finite().fill_null(False)).to_numpy()
        infinite = int(numbers.is_infinite().sum())
        if not len(finite):
            return cls(missing=len(numbers), infinite=infinite)
        with np.errstate(over="ignore", invalid="ignore"):  # sums of huge values are infinite; the fit refuses them
            mean = float(np.mean(finite))
            m2 = float(np.sum((finite - mean) ** 2))
        return cls(len(finite), mean, m2, len(numbers) - len(finite), infinite)

    def merge(self, other: "Moments") -> "Moments":
        """Of both parts together."""
        n = self.n + other.n
        missing, infinite = self.missing + other.missing, self.infinite + other.infinite
        if n == 0:
            return Moments(missing=missing, infinite=infinite)
        delta = other.mean - self.mean
        mean = self.mean + delta * other.n / n
        m2 = self.m2 + other.m2 + delta * delta * self.n * other.n / n
        return Moments(n, mean, m2, missing, infinite)

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
    missing: int = 0  # rows of train without a finite value
    infinite: int = 0  # of these, the infinite ones

    @classmethod
    def fit(cls, transforms: Sequence[str], moments: Moments) -> "Scaling":
        """From the moments of train (after log1p where that is used)."""
        mean, std = _rounded(moments.mean), _rounded(moments.std)
        return cls(list(transforms), mean, std, moments.missing, moments.infinite)

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

"""Columns whose value is a list: read as lists of text, counted value by value, turned into lists of ids.

A missing list is one missing value (id 1, whose vector is learned); an empty list has no value and stays empty. Values
keep their order, and one that stands twice counts twice.
"""

from collections.abc import Collection

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.errors import InputError
from recsys.etl.operators import Vocabulary, count_values
from recsys.schema import ITEM_ID, SESSION_ID, TIMESTAMP, USER_ID

LISTS = pl.List(pl.String)


def as_lists(series: pl.Series, source: object, delimiter: str | None) -> pl.Series:
    """A column as it was read as lists of text (``List(String)``); null stays null.

    Args:
        source: of the rows, for messages.
        delimiter: between the values where a list is written as text. Nothing between two of them is a missing value.

    Raises:
        InputError: the column holds no lists, or lists of something else than plain values.
    """
    kind, name = series.dtype, series.name
    if isinstance(kind, pl.List | pl.Array):
        inner = kind.inner
        if inner.is_nested() or inner in (pl.Binary, pl.Object):
            raise InputError(f"{source}: column '{name}' is {kind}; lists of plain values are needed")
        return series.cast(pl.List(inner)).cast(LISTS)
    if kind == pl.Null:
        return series.cast(LISTS)
    if kind in (pl.String, pl.Categorical, pl.Enum) and delimiter is not None:
        return _divided(series.cast(pl.String), delimiter)
    where = f"{source}: column '{name}' is {kind}, and etl.categorical.{name} says multi_valued"
    if kind in (pl.String, pl.Categorical, pl.Enum):
        raise InputError(f"{where}; say what divides the text (delimiter), or take multi_valued out")
    raise InputError(f"{where}; a list a row is needed, or take multi_valued out")


def _divided(text: pl.Series, delimiter: str) -> pl.Series:
    """Texts as lists; one without a character is an empty list, and nothing between delimiters is null."""
    parts = text.str.split(delimiter)
    if (text == "").any():
        parts = pl.select(pl.when(text == "").then(pl.lit([], LISTS)).otherwise(parts)).to_series()
    if (parts.explode(empty_as_null=False) == "").any():
        parts = parts.to_frame("a").select(pl.col("a").list.eval(pl.element().replace({"": None}))).to_series()
    return parts.cast(LISTS).alias(text.name)


def not_plain(source: object, name: str, kind: pl.DataType, numbers: Collection[str] = ()) -> str:
    """The message for a column of lists where one value a row is declared, a number in the columns `numbers`."""
    can_be = isinstance(kind, pl.List) and name not in (SESSION_ID, USER_ID, ITEM_ID, TIMESTAMP, *numbers)
    fix = f"; lists are read where etl.categorical.{name} says multi_valued: true" if can_be else ""
    return f"{source}: column '{name}' is {kind}; one plain value a row is needed{fix}"


def values_of(lists: pl.Series) -> pl.Series:
    """All values (String), one after the other; a missing list is one null."""
    return _filled(lists).explode(empty_as_null=False)


def count_list_values(lists: pl.Series, weights: pl.Series | None = None) -> pl.DataFrame:
    """`count_values` of all values; `weights`: of each list."""
    if weights is None:
        return count_values(values_of(lists))
    return count_values(values_of(lists), weights.gather(_owners(_filled(lists))))


def encode_lists(vocabulary: Vocabulary, column: str) -> pl.Expr:
    """Lists of ids (``List(Int32)``) of `column`: a missing list or value 1, unknown ones 2 or a hash bucket."""

    def ids(lists: pl.Series) -> pl.Series:
        return list_ids(vocabulary, lists)

    return pl.col(column).map_batches(ids, return_dtype=pl.List(pl.Int32), is_elementwise=True)


def list_ids(vocabulary: Vocabulary, lists: pl.Series) -> pl.Series:
    """Lists of ids of lists of values."""
    filled = _filled(lists)
    flat = vocabulary.ids(filled.explode(empty_as_null=False)) if len(filled) else pl.Series([], dtype=pl.Int32)
    return regrouped(flat, filled.list.len()).alias(lists.name)


def regrouped(flat: pl.Series, lengths: pl.Series) -> pl.Series:
    """Lists of the given lengths, whose values stand one after the other."""
    offsets = np.concatenate(([0], np.cumsum(lengths.to_numpy(), dtype=np.int64)))
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(offsets), flat.rechunk().to_arrow())))


def weighted_ids(lists: pl.Series, weights: pl.Series) -> tuple[pl.Series, pl.Series]:
    """All ids of lists without nulls, and the weight of each one's list."""
    return lists.explode(empty_as_null=False), weights.gather(_owners(lists))


def _owners(lists: pl.Series) -> pl.Series:
    """The row that each value stands in."""
    lengths = lists.list.len().to_numpy()
    return pl.Series(np.repeat(np.arange(len(lists)), lengths), dtype=pl.Int64)


def _filled(lists: pl.Series) -> pl.Series:
    """A missing list as a list of one missing value."""
    if not lists.null_count():
        return lists
    missing = pl.lit(pl.Series([[None]], dtype=LISTS))
    return pl.select(pl.when(lists.is_null()).then(missing).otherwise(lists)).to_series().alias(lists.name)

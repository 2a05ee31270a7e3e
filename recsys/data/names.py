"""Names of many sequences without a Python object for each."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Self, overload

import numpy.typing as npt
import polars as pl
import pyarrow as pa

_AT_ONCE = 1 << 16


class Names(Sequence[str | None]):
    """A read-only list of strings (None where unknown) in one Arrow column, which may lie in a file mapped to memory.

    Compares equal to any sequence of the same strings. Indexing and iterating make Python strings one at a time; `take`
    and `series` give many at once.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    @classmethod
    def of(cls, names: Iterable[str | None] | pl.Series) -> Self:
        """Names in memory; values of a series that are not text are written as text."""
        if isinstance(names, cls):
            return names
        series = names if isinstance(names, pl.Series) else pl.Series(list(names), dtype=pl.String)
        array = series.cast(pl.String).to_arrow()
        return cls(pa.chunked_array([array.cast(pa.large_string())]))

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str | None: ...

    @overload
    def __getitem__(self, index: slice) -> "Names": ...

    def __getitem__(self, index: int | slice) -> "str | Names | None":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return Names(self._column.take(pa.array(range(start, stop, step), pa.int64())))
            return Names(self._column.slice(start, max(0, stop - start)))
        name: str | None = self._column[int(index)].as_py()
        return name

    def __iter__(self) -> Iterator[str | None]:
        for at in range(0, len(self), _AT_ONCE):
            yield from self._column.slice(at, _AT_ONCE).to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return bool(self._column.equals(other._column))
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(repr(name) for name in self[:3])
        return f"Names([{shown}{', ...' if len(self) > 3 else ''}], {len(self)})"

    def take(self, rows: npt.ArrayLike) -> pl.Series:
        """The names at ``rows [P]``, in that order."""
        taken = self._column.take(pa.array(rows, pa.int64()))
        return pl.Series(pl.from_arrow(taken), dtype=pl.String)

    def series(self) -> pl.Series:
        """All names."""
        return pl.Series(pl.from_arrow(self._column), dtype=pl.String)

"""Sequences of a split as flat arrays with offsets; windows are gathered without a Python loop per row.

A split on disk is mapped, not read (see `recsys.data.cache`), and its pages are handed back (see `recsys.data.pages`):
what it takes of memory does not depend on its size.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.data.cache import open_split
from recsys.data.flatten import SCORED_FROM, check_scored_from
from recsys.data.names import Names
from recsys.data.pages import Pages
from recsys.errors import InputError, one_line
from recsys.schema import SESSION_ID, TIMESTAMP, USER_ID, Column, Kind, Schema, Scope

Array = npt.NDArray[Any]
_DTYPES: dict[Kind, tuple[str, type[pl.DataType]]] = {
    Kind.CATEGORICAL: ("int32", pl.Int32),
    Kind.CONTINUOUS: ("float32", pl.Float32),
}


@dataclass(frozen=True)
class Windows:
    """Pieces of sequences: events ``[start, stop)`` counted over the flat arrays, and the row each was cut from.

    Attributes:
        row, start, stop: ``[W]`` each.
        label_from: ``[W]`` flat index of the first event that counts as a label; those before it are context only.
            None: every event but a window's first.
        draw: numbers that seed what is drawn for these windows (masking); None: torch's own generator draws.
    """

    row: Array
    start: Array
    stop: Array
    label_from: Array | None = None
    draw: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, chosen: Array | slice) -> "Windows":
        label_from = None if self.label_from is None else self.label_from[chosen]
        return Windows(self.row[chosen], self.start[chosen], self.stop[chosen], label_from, self.draw)

    @property
    def lengths(self) -> Array:
        """Events of each window."""
        return self.stop - self.start


@dataclass(frozen=True)
class SequenceDataset:
    """One split of a sequence dataset.

    Attributes:
        schema: what the columns are.
        offsets: ``[S + 1]`` where each sequence starts in the flat arrays.
        columns: event-scope columns, each ``[N]`` over all events: int32 ids, float32 numbers. Read-only where mapped.
        item_columns: item-scope categorical columns, each ``[V]`` by item id.
        keys: session id of each sequence.
        groups: what the split and the bootstrap go by: the user where there is one, else `keys` itself.
        scored_from: int32 ``[S]``, place in its sequence of the first event that validation and evaluation score; those
            before it are context. None where the data do not say: every event but the first is scored.
        times: int64 ``[N]``, microseconds of each event; None unless they were asked for.
    """

    schema: Schema
    offsets: Array
    columns: dict[str, Array]
    item_columns: dict[str, Array]
    keys: Names
    groups: Names
    scored_from: Array | None = None
    times: Array | None = None
    _pages: Pages = field(default_factory=Pages, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        """``[S]`` events of each sequence."""
        return np.diff(self.offsets)

    @property
    def first_scored(self) -> Array:
        """``[S]`` place of the first event that is scored, at least 1 (an event with nothing before it never is)."""
        if self.scored_from is None:
            return np.broadcast_to(np.int64(1), len(self))
        return np.maximum(self.scored_from.astype(np.int64), 1)

    @property
    def items(self) -> Array:
        """``[N]`` item ids of all events."""
        return self.columns[self.schema.item().name]

    @classmethod
    def load(cls, dataset: Path, split: str, times: bool = False) -> Self:
        """Map ``DATASET/<split>/*.parquet``, with the schema and the item table beside it, and the times if asked for.

        The first call on a split writes its flat copy (``DATASET/.cache``); later ones open it.
        """
        if not (dataset / "schema.json").is_file():
            raise InputError(f"{dataset}: is no sequence dataset (no schema.json); `recsys preprocess` writes one")
        files = sorted((dataset / split).glob("*.parquet"))
        if not files:
            raise InputError(
                f"{dataset}: no split '{split}'; `recsys preprocess --out {dataset}` writes train, val, test"
            )
        schema = Schema.load(dataset / "schema.json")
        items = _read(dataset / "workflow" / "items.parquet")
        wanted = {c.name: _DTYPES[c.kind][0] for c in _event_columns(schema)}
        flat = open_split(dataset, split, files, {**wanted, TIMESTAMP: "int64"} if times else wanted)
        columns = {name: flat.columns[name] for name in wanted}
        when = flat.columns[TIMESTAMP] if times else None
        item_columns = _item_columns(schema, items)
        return cls(schema, flat.offsets, columns, item_columns, flat.keys, flat.groups, flat.scored_from, when)

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, schema: Schema, items: pl.DataFrame, times: bool = False) -> Self:
        """Sequences in memory as `Workflow.transform` gives them, with the workflow's item table."""
        lengths = frame.get_column(TIMESTAMP).list.len().to_numpy()
        offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        columns = {c.name: _flat(frame, c, int(offsets[-1])) for c in _event_columns(schema)}
        keys = Names.of(frame.get_column(SESSION_ID))
        groups = Names.of(frame.get_column(USER_ID)) if USER_ID in frame.columns else keys
        scored_from = None
        if SCORED_FROM in frame.columns:
            scored_from = check_scored_from(frame.get_column(SCORED_FROM).to_arrow(), 0, "sequences")
        when = frame.get_column(TIMESTAMP).explode(empty_as_null=False).to_numpy() if times else None
        return cls(schema, offsets, columns, _item_columns(schema, items), keys, groups, scored_from, when)

    def gather(self, windows: Windows) -> tuple[dict[str, Array], Array]:
        """Event columns of the windows, right-padded with zeros: each ``[B, T]``, and lengths ``[B]``."""
        lengths = windows.lengths
        steps = np.arange(int(lengths.max(initial=0)))
        padding = steps[None, :] >= lengths[:, None]  # [B, T]
        # Padding reads a window's own last event again: no other page of a mapped file is touched for it.
        index = np.minimum(windows.start[:, None] + steps[None, :], windows.stop[:, None] - 1)
        padded = {}
        for name, values in self.columns.items():
            padded[name] = np.take(values, index, mode="clip") if index.size else np.zeros(index.shape, values.dtype)
            np.copyto(padded[name], 0, where=padding)
        self._pages.note(self.columns.values())
        return padded, lengths

    def gather_times(self, windows: Windows) -> Array | None:
        """Times of the windows' events, int64 ``[B, T]``, padded with each last one; None where none were loaded."""
        if self.times is None:
            return None
        steps = np.arange(int(windows.lengths.max(initial=0)))
        index = np.minimum(windows.start[:, None] + steps[None, :], windows.stop[:, None] - 1)
        times: Array = np.take(self.times, index, mode="clip") if index.size else np.zeros(index.shape, np.int64)
        self._pages.note([self.times])
        return times


def _event_columns(schema: Schema) -> list[Column]:
    return [c for c in schema.columns if c.scope is Scope.EVENT and c.kind in _DTYPES]


def _item_columns(schema: Schema, items: pl.DataFrame) -> dict[str, Array]:
    attributes = schema.select(kind=Kind.CATEGORICAL, scope=Scope.ITEM)
    single = [c for c in attributes if not items.schema[c.name].is_nested()]  # several values an item are no label
    return {c.name: items.get_column(c.name).to_numpy().astype(np.int64) for c in single}


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not readable as Parquet: {one_line(error)}; preprocess again") from error


def _flat(frame: pl.DataFrame, column: Column, events: int) -> Array:
    """A list column's values, one after the other (empty lists contribute nothing)."""
    name = column.name
    if name not in frame.columns:
        raise InputError(f"sequence dataset: column '{name}' of the schema is missing; preprocess again")
    values = frame.get_column(name).explode(empty_as_null=False)
    if len(values) != events or values.null_count():
        found = f"{len(values) - values.null_count()} values for {events} events"
        raise InputError(f"sequence dataset: column '{name}' has {found}; preprocess again")
    return np.ascontiguousarray(values.cast(_DTYPES[column.kind][1]).to_numpy())

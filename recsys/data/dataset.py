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

from recsys.data.bags import OFFSETS, Bags
from recsys.data.cache import open_split
from recsys.data.flatten import SCORED_FROM, Further, check_scored_from
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
        bags: event-scope columns whose value is a list.
        context: columns of scope `sequence`, each ``[S]``: int32 ids, float32 numbers.
    """

    schema: Schema
    offsets: Array
    columns: dict[str, Array]
    item_columns: dict[str, Array]
    keys: Names
    groups: Names
    scored_from: Array | None = None
    times: Array | None = None
    bags: dict[str, Bags] = field(default_factory=dict)
    context: dict[str, Array] = field(default_factory=dict)
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
        wanted, lists, once = (
            {c.name: _DTYPES[c.kind][0] for c in found}
            for found in (_event_columns(schema), _list_columns(schema), _context_columns(schema))
        )
        dtypes = {**wanted, TIMESTAMP: "int64"} if times else wanted
        flat = open_split(dataset, split, files, dtypes, Further(lists, once))
        columns = {name: flat.columns[name] for name in wanted}
        when = flat.columns[TIMESTAMP] if times else None
        item_columns = _item_columns(schema, items)
        known = (flat.keys, flat.groups, flat.scored_from, when, flat.bags, flat.once)
        return cls(schema, flat.offsets, columns, item_columns, *known)

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
        bags = {c.name: _bags(frame, c, int(offsets[-1])) for c in _list_columns(schema)}
        context = {c.name: _single(frame, c) for c in _context_columns(schema)}
        known = (keys, groups, scored_from, when, bags, context)
        return cls(schema, offsets, columns, _item_columns(schema, items), *known)

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

    def gather_bags(self, windows: Windows, ahead: bool = False) -> dict[str, tuple[Array, Array]]:
        """Lists of the windows' events, by column: ids int64 ``[K]`` and offsets ``[B * T + 1]``, row by row.

        What pads a window has empty lists. ahead: without each window's last event, T being one less.
        """
        if not self.bags:
            return {}
        lengths = windows.lengths - ahead
        steps = np.arange(max(0, int(lengths.max(initial=0))))
        index = np.minimum(windows.start[:, None] + steps[None, :], windows.stop[:, None] - 1)  # [B, T]
        keep = (steps[None, :] < lengths[:, None]).ravel()
        taken = {name: bag.take(index.ravel(), keep) for name, bag in self.bags.items()}
        self._pages.note([array for bag in self.bags.values() for array in (bag.values, bag.offsets)])
        return taken

    def events(self, events: Array) -> dict[str, Array]:
        """All that a model reads of `events` ``[U]`` (flat indices), as one row of a batch.

        Columns ``[1, U]``, those of their sequences among them; of lists ids ``[K]`` and offsets ``[U + 1]``.
        """
        found = {name: self.cast(name, values[events])[None] for name, values in self.columns.items()}
        if self.context:
            rows = np.searchsorted(self.offsets, events, side="right") - 1
            found |= {name: self.cast(name, values[rows])[None] for name, values in self.context.items()}
        for name, bag in self.bags.items():
            found[name], found[name + OFFSETS] = bag.take(events)
        return found

    def cast(self, name: str, values: Array) -> Array:
        """Values of a column as a model reads them: int64 ids, float32 numbers."""
        return values.astype(np.int64 if self.schema[name].kind is Kind.CATEGORICAL else np.float32)

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
    return [c for c in schema.columns if c.scope is Scope.EVENT and c.kind in _DTYPES and not c.multi_valued]


def _list_columns(schema: Schema) -> list[Column]:
    return [c for c in schema.columns if c.scope is Scope.EVENT and c.multi_valued]


def _context_columns(schema: Schema) -> list[Column]:
    return [c for c in schema.columns if c.scope is Scope.SEQUENCE and c.kind in _DTYPES]


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
    _require(frame, name)
    values = frame.get_column(name).explode(empty_as_null=False)
    if len(values) != events or values.null_count():
        found = f"{len(values) - values.null_count()} values for {events} events"
        raise InputError(f"sequence dataset: column '{name}' has {found}; preprocess again")
    return np.ascontiguousarray(values.cast(_DTYPES[column.kind][1]).to_numpy())


def _bags(frame: pl.DataFrame, column: Column, events: int) -> Bags:
    """A column of lists of lists."""
    name = column.name
    _require(frame, name)
    lists = frame.get_column(name).explode(empty_as_null=False)
    values = lists.explode(empty_as_null=False)
    if len(lists) != events or lists.null_count() or values.null_count():
        found = f"{len(lists) - lists.null_count()} lists for {events} events, {values.null_count()} values missing"
        raise InputError(f"sequence dataset: column '{name}' has {found}; preprocess again")
    offsets = np.concatenate(([0], np.cumsum(lists.list.len().to_numpy(), dtype=np.int64)))
    return Bags(np.ascontiguousarray(values.cast(_DTYPES[column.kind][1]).to_numpy()), offsets)


def _single(frame: pl.DataFrame, column: Column) -> Array:
    """A column of one value a sequence."""
    _require(frame, column.name)
    values = frame.get_column(column.name)
    if values.dtype.is_nested() or values.null_count():
        found = f"is {values.dtype}" if values.dtype.is_nested() else "holds nulls"
        raise InputError(
            f"sequence dataset: column '{column.name}' {found}, not one value a sequence; preprocess again"
        )
    return np.ascontiguousarray(values.cast(_DTYPES[column.kind][1]).to_numpy())


def _require(frame: pl.DataFrame, name: str) -> None:
    if name not in frame.columns:
        raise InputError(f"sequence dataset: column '{name}' of the schema is missing; preprocess again")

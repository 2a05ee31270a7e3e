"""Sequences of a split as flat arrays with offsets; windows are gathered without a Python loop per row."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.errors import InputError, one_line
from recsys.schema import SESSION_ID, TIMESTAMP, USER_ID, Kind, Schema, Scope

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Windows:
    """Pieces of sequences: events ``[start, stop)`` counted over the flat arrays, and the row each was cut from."""

    row: Array
    start: Array
    stop: Array

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, chosen: Array | slice) -> "Windows":
        return Windows(self.row[chosen], self.start[chosen], self.stop[chosen])

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
        columns: event-scope columns, each ``[N]`` over all events.
        item_columns: item-scope categorical columns, each ``[V]`` by item id.
        keys: session id of each sequence.
        groups: what the split and the bootstrap go by: the user where there is one, else the session.
    """

    schema: Schema
    offsets: Array
    columns: dict[str, Array]
    item_columns: dict[str, Array]
    keys: list[str]
    groups: list[str]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        """``[S]`` events of each sequence."""
        return np.diff(self.offsets)

    @property
    def items(self) -> Array:
        """``[N]`` item ids of all events."""
        return self.columns[self.schema.item().name]

    @classmethod
    def load(cls, dataset: Path, split: str) -> Self:
        """Read ``DATASET/<split>/*.parquet`` with the schema and the item table beside it."""
        if not (dataset / "schema.json").is_file():
            raise InputError(f"{dataset}: is no sequence dataset (no schema.json); `recsys preprocess` writes one")
        files = sorted((dataset / split).glob("*.parquet"))
        if not files:
            raise InputError(
                f"{dataset}: no split '{split}'; `recsys preprocess --out {dataset}` writes train, val, test"
            )
        schema = Schema.load(dataset / "schema.json")
        items = _read(dataset / "workflow" / "items.parquet")
        return cls.from_frame(_read(dataset / split, files), schema, items)

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, schema: Schema, items: pl.DataFrame) -> Self:
        """Sequences as `Workflow.transform` gives them, with the workflow's item table."""
        lengths = frame.get_column(TIMESTAMP).list.len().to_numpy()
        offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        columns = {
            c.name: _flat(frame, c.name)
            for c in schema.columns
            if c.scope is Scope.EVENT and c.kind in (Kind.CATEGORICAL, Kind.CONTINUOUS)
        }
        attributes = schema.select(kind=Kind.CATEGORICAL, scope=Scope.ITEM)
        item_columns = {c.name: items.get_column(c.name).to_numpy().astype(np.int64) for c in attributes}
        keys = frame.get_column(SESSION_ID).cast(pl.String).to_list()
        groups = frame.get_column(USER_ID).cast(pl.String).to_list() if USER_ID in frame.columns else keys
        return cls(schema, offsets, columns, item_columns, keys, groups)

    def gather(self, windows: Windows) -> tuple[dict[str, Array], Array]:
        """Event columns of the windows, right-padded with zeros: each ``[B, T]``, and lengths ``[B]``."""
        lengths = windows.lengths
        steps = np.arange(int(lengths.max(initial=0)))
        valid = steps[None, :] < lengths[:, None]  # [B, T]
        index = np.where(valid, windows.start[:, None] + steps[None, :], 0)
        padded = {name: np.where(valid, values[index], 0) for name, values in self.columns.items()}
        return padded, lengths


def _read(path: Path, files: list[Path] | None = None) -> pl.DataFrame:
    """A table of a dataset: the file `path`, or the `files` of the folder `path`."""
    try:
        return pl.read_parquet(files or path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not readable as Parquet: {one_line(error)}; preprocess again") from error


def _flat(frame: pl.DataFrame, name: str) -> Array:
    """A list column's values, one after the other (empty lists contribute nothing)."""
    if name not in frame.columns:
        raise InputError(f"sequence dataset: column '{name}' of the schema is missing; preprocess again")
    values = frame.get_column(name).explode(empty_as_null=False)
    return np.ascontiguousarray(values.to_numpy())

"""Small sequence datasets for tests."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.dataset import SequenceDataset
from recsys.data.names import Names
from recsys.schema import Column, Kind, Schema, Scope, Tag


def make_schema(num_items: int = 12, num_classes: int = 4) -> Schema:
    """Item id, an item-scope class, an event-scope category and two real columns."""
    return Schema(
        columns=[
            Column(name="item_id", kind=Kind.CATEGORICAL, tags=[Tag.ITEM_ID], cardinality=num_items + 3),
            Column(name="classification", kind=Kind.CATEGORICAL, scope=Scope.ITEM, cardinality=num_classes + 3),
            Column(name="cat", kind=Kind.CATEGORICAL, cardinality=5),
            Column(name="timestamp_interval", kind=Kind.CONTINUOUS, dtype="float32"),
            Column(name="merge_count", kind=Kind.CONTINUOUS, dtype="float32"),
        ]
    )


def make_items(num_items: int = 12, num_classes: int = 4) -> pl.DataFrame:
    """Item table; item ``3 + n`` is called ``command n`` and has class ``3 + n % num_classes``."""
    named = range(num_items)
    return pl.DataFrame(
        {
            "id": pl.Series(range(num_items + 3), dtype=pl.Int32),
            "item_id": [None, None, None, *(f"command {n}" for n in named)],
            "count": [0, 0, 0, *(100 - n for n in named)],
            "classification": pl.Series([0, 1, 2, *(3 + n % num_classes for n in named)], dtype=pl.Int32),
        }
    )


def make_frame(lengths: list[int], seed: int = 0, num_items: int = 12) -> pl.DataFrame:
    """Random sequences of the given lengths, as `Workflow.transform` gives them."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "session_id": f"s{row}",
            "user_id": f"u{row // 2}",
            "timestamp": list(range(n)),
            "item_id": rng.integers(3, num_items + 3, n).tolist(),
            "cat": rng.integers(3, 5, n).tolist(),
            "timestamp_interval": rng.normal(size=n).tolist(),
            "merge_count": rng.normal(size=n).tolist(),
        }
        for row, n in enumerate(lengths)
    ]
    integers = pl.List(pl.Int32)
    types = {"timestamp": pl.List(pl.Int64), "item_id": integers, "cat": integers}
    types |= dict.fromkeys(("timestamp_interval", "merge_count"), pl.List(pl.Float32))
    return pl.DataFrame(rows, schema_overrides=types)


def make_dataset(lengths: list[int], seed: int = 0, num_items: int = 12) -> SequenceDataset:
    """Random sequences of the given lengths."""
    frame = make_frame(lengths, seed, num_items)
    return SequenceDataset.from_frame(frame, make_schema(num_items), make_items(num_items))


def write_dataset(folder: Path, frame: pl.DataFrame, shards: int = 2, split: str = "train") -> Path:
    """A dataset's folder whose `split` holds `frame` in several shards."""
    make_schema().save(folder / "schema.json")
    (folder / "workflow").mkdir(exist_ok=True)
    make_items().write_parquet(folder / "workflow" / "items.parquet")
    (folder / split).mkdir()
    rows = -(-max(1, frame.height) // shards)
    for shard in range(shards):
        frame[shard * rows : (shard + 1) * rows].write_parquet(folder / split / f"part-{shard:05d}.parquet")
    return folder


def select(dataset: SequenceDataset, rows: Iterable[int]) -> SequenceDataset:
    """The sequences at `rows`, in that order."""
    chosen = np.asarray(list(rows), dtype=np.int64)
    pieces = [np.arange(dataset.offsets[r], dataset.offsets[r + 1]) for r in chosen]
    index = np.concatenate([np.zeros(0, dtype=np.int64), *pieces])
    offsets = np.concatenate(([0], np.cumsum(dataset.lengths[chosen])))
    columns = {name: values[index] for name, values in dataset.columns.items()}
    keys, groups = Names.of(dataset.keys.take(chosen)), Names.of(dataset.groups.take(chosen))
    scored_from = None if dataset.scored_from is None else dataset.scored_from[chosen]
    return SequenceDataset(dataset.schema, offsets, columns, dataset.item_columns, keys, groups, scored_from)

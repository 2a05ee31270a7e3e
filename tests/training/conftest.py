"""A small sequence dataset on disk, written without the ETL, and a model small enough to train in seconds."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.config import RunConfig
from recsys.schema import Column, Kind, Schema, Scope, Tag

ITEMS = 20
CLASSES = 4


def schema(items=ITEMS):
    return Schema(
        columns=[
            Column(name="item_id", kind=Kind.CATEGORICAL, tags=[Tag.ITEM_ID], cardinality=items + 3),
            Column(name="classification", kind=Kind.CATEGORICAL, scope=Scope.ITEM, cardinality=CLASSES + 3),
            Column(name="timestamp_interval", kind=Kind.CONTINUOUS, dtype="float32"),
        ]
    )


def sequences(count, rng, longest=30, items=ITEMS):
    """Items follow one another by i -> i + 1 or i + 3, so there is something to learn; now and then unknown (2)."""
    rows = []
    for row in range(count):
        length = int(rng.integers(2, longest))
        ids = (rng.integers(items) + np.cumsum(rng.choice([1, 3], size=length))) % items + 3
        ids[rng.random(length) < 0.03] = 2
        rows.append(
            {
                "session_id": f"s{row}",
                "timestamp": list(range(length)),
                "item_id": ids.tolist(),
                "timestamp_interval": rng.standard_normal(length).astype(np.float32).tolist(),
            }
        )
    types = {
        "session_id": pl.String,
        "timestamp": pl.List(pl.Int64),
        "item_id": pl.List(pl.Int32),
        "timestamp_interval": pl.List(pl.Float32),
    }
    return pl.DataFrame(rows, schema=types)


def item_table(items=ITEMS):
    ids = range(items + 3)
    classes = [0, 1, 2] + [3 + i % CLASSES for i in range(items)]
    return pl.DataFrame({"id": ids, "classification": classes}, schema={"id": pl.Int32, "classification": pl.Int32})


def write_dataset(folder: Path, train=60, val=12, seed=0, items=ITEMS):
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val), ("test", 5)):
        (folder / split).mkdir(parents=True)
        sequences(count, rng, items=items).write_parquet(folder / split / "part-00000.parquet")
    (folder / "workflow").mkdir()
    item_table(items).write_parquet(folder / "workflow" / "items.parquet")
    schema(items).save(folder / "schema.json")
    return folder


def tiny_config(**training):
    return RunConfig.model_validate(
        {
            "model": {
                "max_length": 12,
                "inputs": {"embedding_size": 8, "fusion_size": 8, "fusion_heads": 2, "dropout": 0.1},
                "backbone": {
                    "hidden_size": 16,
                    "num_layers": 1,
                    "num_heads": 2,
                    "intermediate_size": 16,
                    "residual_dropout": 0.1,
                },
                "auxiliary": [{"column": "classification", "weight": 0.5}],
            },
            "training": {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, **training},
        }
    )


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")

"""A run that reads every kind of column, for tests of the export and of what serves it."""

from pathlib import Path

import numpy as np
import polars as pl

from recsys.config import RunConfig
from recsys.export.facts import facts_of
from recsys.export.graphs import event_columns
from recsys.inference import LoadedRun
from recsys.serving.transform import Transform
from tests.tiny_run import make_events, make_run

ETL = {
    "categorical": {
        "item_id": {},
        "classification": {},
        "target": {},
        "place": {"hash_buckets": 3, "top_k": 2},
        "tags": {"multi_valued": True},
        "version": {},
    },
    "continuous": {
        "timestamp_interval": {"transforms": []},
        "merge_count": {"transforms": ["log1p", "zscore"]},
        "size": {"transforms": ["zscore"]},
        "age": {"transforms": ["log1p"]},
        "level": {"transforms": ["zscore"]},
    },
    "bucketise": {"size": {"boundaries": [-1.0, 0.5, 3.0]}, "timestamp_interval": {"quantiles": 4}},
    "time": {"features": ["hour", "weekday", "log_gap"], "zone": "Europe/Berlin"},
    "context": ["version", "level"],
    "text": ["note"],
}
GAPS = {"timestamp_interval": {"buckets": 16, "longest": 3600.0}}
SIZES = {"hidden_size": 8, "num_layers": 1}


def make_rich_events(sessions: int = 40) -> pl.DataFrame:
    """Events of `make_events` with text that has gaps, lists, numbers and columns of whole sessions."""
    events, rng = make_events(sessions=sessions), np.random.default_rng(7)
    rows = events.height
    tags = [None if n % 11 == 0 else [f"t{t}" for t in rng.integers(0, 5, n % 4)] for n in range(rows)]
    sizes = np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows) * 3)
    by_session = events["session_id"].str.slice(1).cast(pl.Int64)
    return events.with_columns(
        pl.Series("place", [None if n % 13 == 0 else f"place {n % 5}" for n in range(rows)]),
        pl.Series("tags", tags, dtype=pl.List(pl.String)),
        pl.Series("size", sizes),
        pl.Series("age", rng.integers(0, 9, rows)),
        (pl.lit("v") + (by_session % 3).cast(pl.String)).alias("version"),
        (by_session % 4).cast(pl.Float64).alias("level"),
        pl.lit("nothing that the model reads").alias("note"),
    )


def make_rich_config(**model: object) -> RunConfig:
    """Reads all columns of `make_rich_events`."""
    inputs = {"embedding_size": 4, "fusion_size": 8, "fusion_heads": 2, "gaps": GAPS}
    backbone = {"num_heads": 2, "intermediate_size": 16, **SIZES}
    values = {"max_length": 6, "inputs": inputs, "backbone": backbone, **model}
    split = {"rule": "every_nth", "every": 3, "by": "user_id"}
    return RunConfig.model_validate({"split": split, "etl": ETL, "model": values})


def make_rich_run(folder: Path, **model: object) -> Path:
    """A run with fresh weights over every kind of column."""
    return make_run(folder, make_rich_events(), make_rich_config(**model))[1]


def transform_of(run: LoadedRun) -> Transform:
    """What a bundle of the run would transform requests with."""
    once = frozenset(c.name for c in run.schema.columns if c.scope.value == "sequence")
    facts, vocabularies = facts_of(run, event_columns(run.model.inputs, once))
    return Transform(facts, vocabularies)

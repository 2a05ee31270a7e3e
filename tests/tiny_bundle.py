"""A run that reads every kind of column, and what a bundle must answer, for tests of the export and of its servers."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.config import RunConfig
from recsys.export.facts import facts_of
from recsys.export.graphs import event_columns
from recsys.inference import LoadedRun, load, recommend
from recsys.serving.bundle import Answer, Bundle
from recsys.serving.transform import Transform
from recsys.serving.verify import difference
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


def requests_of(events: pl.DataFrame, names: list[str]) -> list[dict[str, Any]]:
    """A request for each session, which holds these columns."""
    sessions = events.partition_by("session_id", maintain_order=True)
    return [{name: session[name].to_list() for name in names} for session in sessions]


def offline_answers(run: Path, events: pl.DataFrame, k: int, seen: Any) -> list[Answer]:
    """What `recommend` lists for each session."""
    lists = recommend(load(run, device="cpu"), events, k=k, seen=seen)
    by_session = lists.partition_by("session_id", as_dict=True)
    found = [by_session[key,] for key in events["session_id"].unique(maintain_order=True)]
    return [Answer(*(rows[n].to_list() for n in ("item_id", "score", "probability"))) for rows in found]


def expect_offline_answers(run: Path, folder: Path, events: pl.DataFrame, k: int = 20) -> None:
    """Fail unless both forms of a bundle list what `recommend` does, for sessions of 1 to 9 events.

    All are asked together, in order, and each alone, its newest event first. One command is unknown to training.
    """
    number = pl.int_range(pl.len()).over("session_id")
    events = events.filter(number <= pl.col("session_id").str.slice(1).cast(pl.Int64) % 9)
    events = events.with_columns(pl.col("item_id").replace("command 03", "unknown to training"))
    for path in ("fused", "ensemble"):
        bundle = Bundle.open(folder, path)
        requests = requests_of(events, list(bundle.transform.raw))
        assert {1, bundle.transform.max_length, 9} <= {len(r["timestamp"]) for r in requests}
        for remove in (False, True):
            expected = offline_answers(run, events, k, "remove" if remove else "keep")
            together = bundle.recommend(requests, k, remove_seen=remove)
            turned = [{name: values[::-1] for name, values in request.items()} for request in requests]
            alone = [bundle.recommend([request], k, remove_seen=remove)[0] for request in turned]
            for wanted, request, *found in zip(expected, requests, together, alone, strict=True):
                assert not remove or not set(wanted.items) & set(request["item_id"])
                for answer in found:
                    assert answer.items == wanted.items
                    assert difference(answer, wanted, bundle.manifest["tolerance"]) is None
                    np.testing.assert_allclose(answer.probabilities, wanted.probabilities, rtol=1e-3, atol=1e-6)

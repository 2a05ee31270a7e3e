"""A run directory that looks real and holds drawn numbers: what the report reads, without any training."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from recsys.config import RunConfig, save_config
from recsys.metrics import bootstrap_intervals, position_metrics

NOUNS = ("Wall", "Door", "Window", "Roof", "Slab", "Stair", "Column", "Text", "Dimension", "Polyline", "Symbol")
VERBS = ("Create", "Edit", "Copy", "Move", "Delete", "Select", "Rotate", "Export")
AWKWARD = ['<script>alert("x")</script>', "Tool, with \"quotes\" & 'more'", "壁を作成 🧱", "two\nlines"]
STRENGTH = {"model": 0.40, "markov2": 0.34, "markov1": 0.30, "popularity": 0.12, "last_item": 0.08}
SCORED = ("model", "popularity", "markov1", "markov2", "last_item")


def item_table(rng: np.random.Generator) -> pl.DataFrame:
    names = AWKWARD + [f"Menu: {v} {n} ({10 * i + j})" for i, n in enumerate(NOUNS) for j, v in enumerate(VERBS)]
    counts = np.sort((40_000 / np.arange(1, len(names) + 1) ** 1.4).astype(int))[::-1]
    return pl.DataFrame(
        {
            "id": range(len(names) + 3),
            "item_id": [None, None, None, *names],
            "count": [0, 4, 250, *counts.tolist()],
        },
        schema_overrides={"id": pl.Int32, "count": pl.Int64},
    )


def prediction_table(items: pl.DataFrame, positions: int, rng: np.random.Generator) -> pl.DataFrame:
    counts = items["count"].to_numpy().astype(float)
    target = rng.choice(len(counts), size=positions, p=counts / counts.sum())
    session = np.sort(rng.integers(0, max(2, positions // 40), size=positions))
    start = np.searchsorted(session, session)
    stop = np.searchsorted(session, session, side="right")
    known = target >= 3
    ranks = {}
    for name in SCORED:
        drawn = rng.geometric(STRENGTH[name] * np.clip(np.log10(counts[target] + 2) / 4, 0.1, 1.0))
        ranks[name] = np.where(known, np.minimum(drawn, len(counts) - 3), 0)
    other = 3 + rng.geometric(0.2, size=positions) % 12
    top1 = np.where(ranks["model"] == 1, target, np.where(other == target, other + 1, other))
    return pl.DataFrame(
        {
            "row": pl.Series(session, dtype=pl.Int32),
            "session_id": [f"s{s}" for s in session],
            "group": [f"user {s // 5}" for s in session],
            "position": pl.Series(np.arange(positions) - start + 1, dtype=pl.Int32),
            "is_last": np.arange(positions) == stop - 1,
            "target": pl.Series(target, dtype=pl.Int32),
            "top1": pl.Series(top1, dtype=pl.Int32),
            **{f"rank_{n}": pl.Series(r, dtype=pl.Int32) for n, r in ranks.items()},
        }
    )


def metrics_of(predictions: pl.DataFrame, samples: int) -> dict:
    positions = {}
    for where in ("all", "last"):
        part = predictions if where == "all" else predictions.filter("is_last")
        values = {n: position_metrics(part[f"rank_{n}"].to_numpy()) for n in SCORED}
        flat = {f"{n}/{m}": v for n, metrics in values.items() for m, v in metrics.items()}
        intervals = bootstrap_intervals(flat, part["group"].to_numpy(), samples, seed=0)
        positions[where] = {
            name: {m: float(v.mean()) for m, v in metrics.items()}
            | {"coverage@10": 0.1 + STRENGTH[name]}
            | {f"{m}_interval": list(intervals[f"{name}/{m}"]) for m in metrics}
            for name, metrics in values.items()
        }
    protocol = {
        "ranking": "full catalogue, reserved ids removed",
        "catalogue": 92,
        "vocabulary": {"commands": 90, "workflows": 2},
        "ks": [1, 3, 5, 10],
        "seen": "keep",
        "max_length": 110,
        "groups": "user_id",
        "bootstrap": {"samples": samples, "level": 0.95},
        "split": {"by": "user_id", "rule": "every_nth", "every": 5, "seed": 0},
    }
    return {"protocol": protocol, "splits": {"test": {"positions": positions}}}


def history(steps: int, rng: np.random.Generator) -> dict:
    loss = 0.8 + 3.0 * np.exp(-np.arange(1, steps + 1) / (steps / 6)) + rng.normal(0, 0.05, steps)
    train = [
        {"step": s + 1, "epoch": (s + 1) / 100, "loss": 1.9 * float(v), "item_loss": float(v)}
        for s, v in enumerate(loss)
    ]
    validation = []
    for at in range(100, steps + 1, 100):
        score = 0.8 * (1 - np.exp(-at / (steps / 4)))
        row = {"step": at, "epoch": at / 100, "loss": 1.0 + 2.5 * float(np.exp(-at / (steps / 5)))}
        validation.append(row | {"recall@10": float(score), "ndcg@10": float(0.7 * score)})
    costs = {"seconds": 754.2, "cpu_seconds": 1410.9, "label_positions_per_cpu_second": 12345.6}
    return {"train": train, "validation": validation, "best_step": steps - 100, **costs}


STAGES = [
    {"stage": "parse", "rows_in": 1_000_000, "rows_out": 990_000, "removed": {"empty message": 10_000}},
    {"stage": "categories", "rows_in": 990_000, "rows_out": 700_000, "removed": {"other category": 290_000}},
    {"stage": "noise", "rows_in": 700_000, "rows_out": 500_000, "removed": {"prefix": 150_000, "view_id": 50_000}},
    {"stage": "undo", "rows_in": 500_000, "rows_out": 430_000, "removed": {"undone": 40_000, "undo row": 30_000}},
    {"stage": "collapse", "rows_in": 430_000, "rows_out": 260_000, "removed": {"repeat": 170_000},
     "kept_as": "merge_count of the first"},
    {"stage": "min_length", "rows_in": 260_000, "rows_out": 251_000, "removed": {"short session": 9_000}},
]  # fmt: skip


def dataset_report() -> dict:
    split = {"by": "user_id", "rule": "every_nth", "every": 5, "seed": 0, "uncovered": {"test": {"count": 7}}}
    sizes = {"train": (72, 200_000, 199_400), "val": (8, 21_000, 21_000), "test": (20, 30_000, 30_000)}
    splits = {
        name: {
            "groups": g,
            "events_in": i,
            "events_out": o,
            "sequences": i // 40,
            "dropped_events": {"min_length": i - o},
        }
        for name, (g, i, o) in sizes.items()
    }
    return {"splits": splits, "split": split, "warnings": ["column 'cat' has one value in train"]}


def write_json(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that writes a run of drawn numbers under a name, and returns its folder."""

    def make(name: str = "vectorworks <demo> & more", positions: int = 2_000, samples: int = 50) -> Path:
        rng = np.random.default_rng(0)
        run = tmp_path / name
        (run / "workflow").mkdir(parents=True)
        config = RunConfig(profile="vectorworks")
        config.evaluation.bootstrap_samples = samples
        save_config(config, run / "config.yaml")
        items = item_table(rng)
        items.write_parquet(run / "workflow" / "items.parquet")
        predictions = prediction_table(items, positions, rng)
        predictions.write_parquet(run / "predictions.parquet")
        write_json(run / "metrics.json", metrics_of(predictions, samples))
        write_json(run / "history.json", history(1_200, rng))
        write_json(run / "cleaning" / "report.json", {"stages": STAGES, "result": {"sessions": 3_141}})
        write_json(run / "dataset.json", dataset_report())
        write_json(run / "environment.json", {"python": "3.11.2", "versions": {"torch": "2.13.0"}, "seed": 0})
        save_file({"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float32)}, run / "model.safetensors")
        return run

    return make

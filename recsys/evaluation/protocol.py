"""Everything that a figure depends on, written beside it."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.cleaning.workflows import WORKFLOWS_FILE, Workflows
from recsys.config import EvaluationConfig
from recsys.data.dataset import SequenceDataset
from recsys.data.flatten import SCORED_FROM
from recsys.errors import InputError
from recsys.evaluation.ranking import Positions, Ranked
from recsys.inference.run import LoadedRun
from recsys.runtime import environment, read_json, sha256_file
from recsys.schema import ITEM_ID, SESSION_ID, USER_ID

LEVEL = 0.95


def groups(dataset: SequenceDataset) -> pl.Series:
    """``[S]`` what is resampled as a whole: each sequence's user, or its session where the user is not known."""
    names = dataset.groups.series()
    if not names.null_count():
        return names
    keys = dataset.keys.series()
    return pl.select(pl.coalesce(names, pl.lit("session ") + keys)).to_series()


def dataset_source(data: Path, split: str) -> dict[str, Any]:
    """Rule and hash of a sequence dataset: of the split's and the train split's files, in order."""
    rule: dict[str, Any] = {}
    report = data / "report.json"
    if report.is_file():
        values = read_json(report, fix="preprocess again")
        split_rule = values.get("split", {})
        if not isinstance(split_rule, dict):
            raise InputError(f"{report}: 'split' is no JSON object; preprocess again")
        rule = {k: v for k, v in split_rule.items() if k != "uncovered"}
        rule |= {k: values[k] for k in ("test_is_val", "chunk", "newest", "min_length") if k in values}
    hashes = {name: _hash_files(data / name) for name in dict.fromkeys((split, "train")) if (data / name).is_dir()}
    return {"rule": rule, "sha256": hashes}


def events_source(dataset: SequenceDataset) -> dict[str, Any]:
    """Hash of sequences in memory: sessions, lengths and all event columns."""
    digest = hashlib.sha256("\0".join(map(str, dataset.keys)).encode())
    digest.update(dataset.offsets.astype("<i8").tobytes())
    for name in sorted(dataset.columns):
        digest.update(np.ascontiguousarray(dataset.columns[name]).tobytes())
    for name, bag in sorted(dataset.bags.items()):
        digest.update(name.encode() + bag.offsets.astype("<i8").tobytes() + np.ascontiguousarray(bag.values).tobytes())
    for name, values in sorted(dataset.context.items()):
        digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return {"rule": {"rule": "every session of the events given"}, "sha256": {"events": digest.hexdigest()}}


def _hash_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.parquet")):
        digest.update(sha256_file(file).encode())
    return digest.hexdigest()


def describe(
    run: LoadedRun,
    dataset: SequenceDataset,
    split: str,
    config: EvaluationConfig,
    positions: Positions,
    model: Ranked,
    baselines: list[str],
    source: dict[str, Any],
) -> dict[str, Any]:
    """The `protocol` part of metrics.json."""
    item = run.schema.item()
    scored = "" if dataset.scored_from is None else f", of the events from {SCORED_FROM} on"
    return {
        "ranking": "full catalogue, reserved ids removed",
        "catalogue": item.num_values(),
        "vocabulary": _vocabulary(run),
        "ks": list(config.ks),
        "seen": config.seen,
        "max_length": run.max_length,
        "context": f"exactly the newest {run.max_length} events before each position",
        "ties": "against the model: rank = 1 + other candidates with a score at least as high",
        "unknown_targets": "misses",
        "positions": {
            "all": f"every event with at least one event before it in its session{scored}",
            "last": f"the last event of each session of at least two{scored}",
        },
        "groups": SESSION_ID if dataset.groups is dataset.keys else USER_ID,
        "bootstrap": {
            "samples": config.bootstrap_samples,
            "level": LEVEL,
            "resampled": "whole groups",
            "seed": run.config.seed,
        },
        "baselines": {"names": baselines, "fitted_on": "the train split"},
        "split": source["rule"],
        "data_sha256": source["sha256"],
        "weights_sha256": sha256_file(run.directory.weights),
        "seed": run.config.seed,
        "batch_size": config.batch_size,
        "counts": {split: _counts(dataset, config, positions, model, item.first_id, source.get("emptied", {}))},
        "versions": environment(),
    }


def _vocabulary(run: LoadedRun) -> dict[str, int]:
    """How many of the candidates are commands, and how many workflows made of commands: their figures differ."""
    names = set(run.workflow.items[ITEM_ID].drop_nulls().to_list())
    workflows: set[str] = set()
    if (run.directory.cleaning / WORKFLOWS_FILE).is_file():
        learned = Workflows.load(run.directory.cleaning)
        workflows = names & {workflow.name for workflow in learned.vocabulary()}
    return {"commands": len(names) - len(workflows), "workflows": len(workflows)}


def _counts(
    dataset: SequenceDataset,
    config: EvaluationConfig,
    positions: Positions,
    model: Ranked,
    first_id: int,
    emptied: dict[str, int],
) -> dict[str, Any]:
    unknown = positions.target < first_id
    counts: dict[str, Any] = {
        "sessions": len(dataset),
        "scored_sessions": int(positions.is_last.sum()),
        "groups": groups(dataset).n_unique(),
        "events": len(dataset.items),
        "positions": {"all": len(positions), "last": int(positions.is_last.sum())},
        "unknown_targets": {"all": int(unknown.sum()), "last": int((unknown & positions.is_last).sum())},
    }
    counts |= {f"emptied_{unit}s": number for unit, number in emptied.items()}
    if config.seen == "remove":
        removed = (model.ranks == 0) & ~unknown
        counts["seen_targets"] = {"all": int(removed.sum()), "last": int((removed & positions.is_last).sum())}
    return counts

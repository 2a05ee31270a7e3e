"""What a run notes about itself: history, environment, fingerprint of its data."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recsys.backbones.source import fingerprint
from recsys.config import RunConfig
from recsys.nn.pretrained import describe_table
from recsys.run_directory import RunDirectory, dataset_fingerprint
from recsys.runtime import environment, sha256_file


def describe_environment(config: RunConfig, dataset: Path) -> dict[str, Any]:
    """Contents of environment.json: versions, command line, seed, data; text table, first and pretrained weights."""
    named = config.model.backbone.pretrained
    base = None if named is None else {"path": named, "sha256": fingerprint(named)}
    table, first = config.model.inputs.text_table, config.training.init_from
    used = ["peft"] * config.model.peft.adapts + ["bitsandbytes"] * (config.model.peft.quantization != "none")
    return {
        "versions": environment() | {name: version(name) for name in used},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": config.seed,
        "dataset": {"path": str(dataset), "sha256": dataset_fingerprint(dataset)},
        **({"text_table": describe_table(Path(table))} if table is not None else {}),
        **({"base": base} if base is not None else {}),
        **({"init_from": {"path": first, "sha256": sha256_file(RunDirectory(Path(first)).weights)}} if first else {}),
    }


def changed_sources(noted: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What a run reads that is not what it was: names of entries with another SHA-256, the dataset's first.

    Args:
        noted: the run's environment.json.
        now: `describe_environment` of the same configuration.
    """
    theirs, ours = (
        {name: entry["sha256"] for name, entry in described.items() if isinstance(entry, dict) and "sha256" in entry}
        for described in (noted, now)
    )
    return [name for name in ours if ours[name] != theirs.get(name)]


def build_history(
    log: Sequence[Mapping[str, Any]], best_step: int | None, cost: Mapping[str, float], steps: int
) -> dict[str, Any]:
    """Contents of history.json from Trainer's log.

    `loss` of a training record is the weighted sum over heads, averaged over the steps since the record before;
    `item_loss` the item head's mean over label positions; validation `loss` is the item head's too. Costs count
    training alone, without validation and saving, from the start of the run, restarts included; what validation took
    stands beside them.
    """
    train = [dict(record) for record in log if "loss" in record]
    validation = [
        {name.removeprefix("eval_"): value for name, value in record.items()} for record in log if "eval_loss" in record
    ]
    return {
        "train": train,
        "validation": validation,
        "best_step": best_step if best_step is not None else steps,
        "steps": steps,
        "seconds": cost["seconds"],
        "cpu_seconds": cost["cpu_seconds"],
        "validation_cpu_seconds": sum(record["cpu_seconds"] for record in validation),
        "label_positions": cost["label_positions"],
        "label_positions_per_cpu_second": cost["label_positions"] / max(cost["cpu_seconds"], 1e-9),
    }

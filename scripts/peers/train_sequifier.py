"""sequifier's causal transformer as its users train it: `preprocess`, then `run_training` of a configuration."""

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import yaml
from common import BATCH, DROPOUT, HEADS, LAYERS, LEARNING_RATE, WIDTH, Meter, Sequences, main
from sequifier.config.train_config import load_train_config
from sequifier.integration.contexts import BatchPrepared, OptimizerStepCompleted
from sequifier.preprocess import preprocess
from sequifier.train import run_training


class _TimeIsUp(Exception):
    pass


class _Count:
    """An observer of sequifier's training."""

    integration_id = "count"

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.labels = 0

    def handle(self, event: Any) -> None:
        """Count the targets that are valid; end by an exception, as observers cannot ask for the end."""
        if isinstance(event, BatchPrepared):
            self.labels += int(event.metadata["target_valid_mask"].sum())
        elif isinstance(event, OptimizerStepCompleted):
            done = self.meter.count(self.labels)
            self.labels = 0
            if done:
                raise _TimeIsUp


def prepare(sequences: Sequences, length: int) -> Path:
    """Write and preprocess the events; gives sequifier's description of them."""
    Path("configs").mkdir(exist_ok=True)
    rows = sequences.rows
    positions = pl.int_range(pl.len()).over("sequenceId")
    events = pl.DataFrame({"sequenceId": rows, "item": sequences.ids}).with_columns(itemPosition=positions)
    events.write_parquet("events.parquet")
    config = {
        "project_root": ".",
        "preprocessing_data_path": "events.parquet",
        "read_format": "parquet",
        "write_format": "parquet",
        "merge_output": True,
        "selected_columns": ["item"],
        "split_ratios": [0.99, 0.01],
        "split_method": "between_sequence",
        "window_length": length + 1,
        "max_target_offset": 1,
        "window_stride": length,
        "max_rows": None,
        "n_cores": 1,
    }
    Path("configs/preprocess.yaml").write_text(yaml.safe_dump(config))
    preprocess(SimpleNamespace(config_path="configs/preprocess.yaml"), {})
    return next(Path("configs").rglob("*.json"))


def configuration(described: Path, length: int) -> dict[str, Any]:
    """sequifier's training configuration of the shape."""
    return {
        "project_root": ".",
        "model_name": "bench",
        "device": "cpu",
        "seed": 0,
        "global_training": {
            "training_objective": "causal",
            "context_length": length,
            "inference_batch_size": BATCH,
            "batch_size": BATCH,
            "learning_rate": LEARNING_RATE,
            "optimizer": {"name": "AdamW"},
            "scheduler": {"name": "StepLR", "step_size": 1, "gamma": 1.0},
            "scheduler_step_on": "epoch",
            "reset_optimization_on_phase": True,
        },
        "model": {
            "backbone": {
                "architecture": {
                    "dim_model": WIDTH,
                    "num_layers": LAYERS,
                    "attention": {"n_heads": HEADS},
                    "feed_forward": {"dim": WIDTH},
                    "dropout": DROPOUT,
                }
            },
            "interface": {
                "input_columns": ["item"],
                "target_columns": ["item"],
                "ingestion": {"type": "embedding", "output_dim": WIDTH},
                "decoder": {"type": "linear", "prediction_length": length},
            },
        },
        "dataset": {"part": {"metadata_config_path": str(described)}, "criterion": {"item": "CrossEntropyLoss"}},
        "training_plan": {"epochs": 10_000},
        "evaluation": True,
        "export_generative_model": True,
        "export_embedding_model": False,
    }


def train(sequences: Sequences, length: int, meter: Meter) -> list[str]:
    """Windows of ``length`` every ``length`` events, drawn in random order."""
    config = configuration(prepare(sequences, length), length)
    Path("configs/train.yaml").write_text(yaml.safe_dump(config))
    with contextlib.suppress(_TimeIsUp):
        run_training(load_train_config("configs/train.yaml", {}, False), integration_instances=(_Count(meter),))
    return [
        "windows cover the whole of a sequence",
        "every batch padded to the longest window",
        "logits of padded positions too, the whole [B, L, V] at once",
        "output layer of its own, not tied to the item table",
        "torch.compile, whose time falls before the measured steps",
    ]


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main(train)

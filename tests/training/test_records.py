"""What a run notes about itself, against the log that it comes from."""

import sys
from pathlib import Path

import pytest

from recsys.config import RunConfig
from recsys.run_directory import dataset_fingerprint
from recsys.training.records import build_history, changed_sources, describe_environment

LOG = [
    {"step": 5, "loss": 3.0, "item_loss": 2.0},
    {"step": 5, "eval_loss": 2.5, "eval_ndcg@10": 0.1, "eval_cpu_seconds": 1.5, "epoch": 1.0},
    {"step": 10, "loss": 2.0, "item_loss": 1.5},
    {"step": 10, "eval_loss": 2.25, "eval_ndcg@10": 0.2, "eval_cpu_seconds": 0.5, "epoch": 2.0},
    {"step": 10, "train_runtime": 3.0},
]
COST = {"seconds": 8.0, "cpu_seconds": 4.0, "label_positions": 1000}


def test_history_takes_the_log_apart() -> None:
    history = build_history(LOG, 5, COST, 10)
    assert history["train"] == [LOG[0], LOG[2]]
    assert history["validation"] == [
        {"step": 5, "loss": 2.5, "ndcg@10": 0.1, "cpu_seconds": 1.5, "epoch": 1.0},
        {"step": 10, "loss": 2.25, "ndcg@10": 0.2, "cpu_seconds": 0.5, "epoch": 2.0},
    ]
    assert (history["best_step"], history["steps"]) == (5, 10)
    assert history["label_positions_per_cpu_second"] == 250.0
    assert {name: history[name] for name in COST} == COST
    assert history["validation_cpu_seconds"] == 2.0


def test_without_validation_the_last_step_is_the_best() -> None:
    history = build_history(LOG[:1], None, {**COST, "cpu_seconds": 0.0}, 7)
    assert history["best_step"] == 7 and history["validation"] == []


def test_environment_names_command_seed_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "schema.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/recsys", "train", "--out", "a b"])
    found = describe_environment(RunConfig(seed=3), tmp_path)
    assert (found["command"], found["seed"]) == ("recsys train --out 'a b'", 3)
    assert found["dataset"] == {"path": str(tmp_path), "sha256": dataset_fingerprint(tmp_path)}
    assert found["versions"]["python"].startswith("3.")
    (tmp_path / "schema.json").write_text("{ }")
    assert describe_environment(RunConfig(), tmp_path)["dataset"]["sha256"] != found["dataset"]["sha256"]


def test_what_changed_is_told_by_its_contents() -> None:
    now = {"seed": 3, "dataset": {"path": "b", "sha256": "1"}, "base": {"path": "x", "sha256": "2"}}
    assert changed_sources({"dataset": {"path": "a", "sha256": "1"}, "base": {"sha256": "2"}}, now) == []
    assert changed_sources({"dataset": {"sha256": "9"}, "base": {"sha256": "2"}, "seed": 4}, now) == ["dataset"]
    assert changed_sources({"dataset": 3, "base": {"sha256": None}}, now) == ["dataset", "base"]

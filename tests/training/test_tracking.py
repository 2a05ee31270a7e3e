"""Trackers are switched on by the configuration alone, write below the run, and leave nothing behind."""

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from recsys.config import TrainingConfig
from recsys.errors import ConfigError
from recsys.run_directory import RunDirectory
from recsys.training.tracking import trackers, tracking


def test_trackers_are_those_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert trackers(TrainingConfig()) == []
    assert trackers(TrainingConfig(tensorboard=True)) == ["tensorboard"]
    assert trackers(TrainingConfig(tensorboard=True, wandb=True)) == ["tensorboard", "wandb"]


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert trackers(TrainingConfig()) == []
    with pytest.raises(ConfigError, match=r"training\.wandb: the package is not installed; pip install wandb"):
        trackers(TrainingConfig(wandb=True))


def test_tensorboard_writes_below_the_run_while_the_block_runs(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(KeyError, match="inside"), tracking(TrainingConfig(tensorboard=True), run, leader=True):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard")
        raise KeyError("inside")
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


@pytest.mark.parametrize("mode", [None, "online"])
def test_wandb_is_offline_unless_told_otherwise(
    mode: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = SimpleNamespace(init=Mock(), finish=Mock(), Settings=Mock())
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    run = RunDirectory(tmp_path / "mine")
    with tracking(TrainingConfig(wandb=True), run, leader=True):
        given = wandb.init.call_args.kwargs
        assert (given["mode"], given["dir"]) == (mode or "offline", str(run.path))
        assert (given["project"], given["name"]) == ("recsys", "mine")
        wandb.finish.assert_not_called()
    wandb.finish.assert_called_once()
    with tracking(TrainingConfig(wandb=True), run, leader=False):  # only one process of several reports
        pass
    wandb.init.assert_called_once()

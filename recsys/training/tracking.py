"""Trackers that a run can report to, both written below the run directory."""

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

from recsys.config import TrainingConfig
from recsys.errors import ConfigError
from recsys.run_directory import RunDirectory


def trackers(config: TrainingConfig) -> list[str]:
    """Names, for Trainer, of the trackers switched on; raises ConfigError where a package is missing."""
    wanted = [name for name, on in (("tensorboard", config.tensorboard), ("wandb", config.wandb)) if on]
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"training.{name}: the package is not installed; pip install {name}")
    return wanted


@contextmanager
def tracking(config: TrainingConfig, run: RunDirectory, leader: bool) -> Iterator[None]:
    """Point the trackers at ``RUN/tensorboard`` and ``RUN/wandb`` while the block runs.

    wandb stays offline unless WANDB_MODE says otherwise; project and name follow WANDB_PROJECT, else `recsys`.
    """
    if config.tensorboard:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.path / "tensorboard")
    wandb = importlib.import_module("wandb") if config.wandb and leader else None
    if wandb is not None:
        wandb.init(
            dir=str(run.path),
            project=os.environ.get("WANDB_PROJECT", "recsys"),
            name=run.path.name,
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True),
        )
    try:
        yield
    finally:
        if config.tensorboard:
            del os.environ["TENSORBOARD_LOGGING_DIR"]
        if wandb is not None:
            wandb.finish()

"""Training: batches of a run, `transformers.Trainer`, validation, checkpoints, run directory."""

from recsys.training.train import train

__all__ = ["train"]

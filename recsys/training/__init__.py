"""Training: batches of a run, `transformers.Trainer`, validation, checkpoints, run directory."""

import logging

# Trainer imports bitsandbytes where it is installed, which then tells every run of kernels that it did not find.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from recsys.training.train import train  # noqa: E402

__all__ = ["train"]

"""What every training script in this folder shares; needs no more than the standard library, NumPy and PyTorch.

Each script takes ``DATA --length T --seconds S``, trains the SASRec shape with its own library on one thread, and
prints one JSON line: `labels` (positions with a target, padding not counted), `seconds` (of CPU, all threads and the
system's share), `steps`, `peak_memory_gb` (while training) and `differs` (how it departs from the shape asked for).
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

WARM_STEPS = 5
WIDTH, LAYERS, HEADS, DROPOUT, BATCH, LEARNING_RATE = 64, 2, 1, 0.2, 128, 1e-3


@dataclass(frozen=True)
class Sequences:
    """Items from 0 on; sequence r is ``ids[offsets[r]:offsets[r + 1]]``."""

    offsets: np.ndarray
    ids: np.ndarray
    items: int

    @property
    def rows(self) -> np.ndarray:
        """The sequence of each event ``[E]``."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


class Meter:
    """Labels, CPU seconds and peak memory of training steps after the first few, which allocate."""

    def __init__(self, seconds: float) -> None:
        self.limit = seconds
        self.steps = -WARM_STEPS
        self.labels = 0
        self.seconds = 0.0
        self.begin = 0.0

    def __deepcopy__(self, memo: dict[int, object]) -> "Meter":
        return self  # RecTools trains with a copy of the trainer it is given

    def count(self, labels: int) -> bool:
        """Say that a step with this many labels has ended; gives whether the time is up."""
        self.steps += 1
        if self.steps == 0:
            reset_peak()
            self.begin = time.process_time()
        elif self.steps > 0:
            self.labels += labels
            self.seconds = time.process_time() - self.begin
        return self.steps > 0 and self.seconds >= self.limit


def reset_peak() -> None:
    """Forget the peak memory so far, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the peak then includes reading the data; common to all scripts on this machine


def peak_memory() -> float:
    """Highest resident memory since `reset_peak`, in GB (10^9 bytes)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024 / 1e9
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def main(train: Callable[[Sequences, int, Meter], list[str]]) -> None:
    """Run ``train(sequences, length, meter)``, which gives what differs, and print the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with np.load(options.data) as arrays:
        sequences = Sequences(arrays["offsets"], arrays["ids"], int(arrays["items"]))
    meter = Meter(options.seconds)
    differs = train(sequences, options.length, meter)
    if meter.steps <= 0:
        raise SystemExit("the training ended before its first measured step")
    found = {"labels": meter.labels, "seconds": meter.seconds, "steps": meter.steps}
    print(json.dumps({**found, "peak_memory_gb": peak_memory(), "differs": differs}), flush=True)
    os._exit(0)  # some libraries' threads outlive their training

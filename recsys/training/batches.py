"""The batches of a whole run as one deterministic stream, so that any step can be found again.

Windows are drawn anew each epoch, so epochs differ slightly in their number of batches. The trainer therefore sees one
long epoch: the stream numbers the batches of all epochs through, and a batch depends on (seed, number) alone. Rank r
of W takes the batches r, W + r, 2 W + r, ...; a run resumed at a step starts at that step's number.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys.config import TrainingConfig
from recsys.data.dataset import SequenceDataset, Windows
from recsys.data.windows import epoch_batches, training_windows
from recsys.errors import InputError


@dataclass(frozen=True)
class BatchStream:
    """Endless batches of windows, epoch after epoch."""

    dataset: SequenceDataset
    max_length: int
    config: TrainingConfig
    seed: int

    def epoch(self, number: int) -> list[Windows]:
        """The batches of one epoch, a function of (seed, number)."""
        rng = np.random.default_rng([self.seed, number])
        windows = training_windows(self.dataset, self.max_length, self.config.windows, rng)
        batches = epoch_batches(windows, rng, self.config.batch_size, self.config.batch_events)
        if not batches:
            raise InputError("split 'train': no sequence has two events, so there is nothing to predict")
        return [windows[chosen] for chosen in batches]

    def from_batch(self, start: int) -> Iterator[Windows]:
        """Batches from number `start` on, without end."""
        number = 0
        while True:
            batches = self.epoch(number)
            yield from batches[start:]
            start = max(0, start - len(batches))
            number += 1


@dataclass(frozen=True)
class Plan:
    """How many steps a run has and where its epochs end.

    Attributes:
        steps: optimizer steps of the whole run.
        step_batches: batches of one step over all ranks and accumulation.
        ends: batches up to the end of each epoch that the run touches.
    """

    steps: int
    step_batches: int
    ends: list[int]

    def epoch_at(self, step: int) -> float:
        """Epochs done after `step` steps."""
        batches = step * self.step_batches
        whole = bisect_right(self.ends, batches)
        if whole == len(self.ends):
            return float(whole)
        begin = self.ends[whole - 1] if whole else 0
        return whole + (batches - begin) / (self.ends[whole] - begin)

    def epoch_ends(self) -> list[int]:
        """The steps with which epochs end; the run's last step is always among them."""
        whole = [-(-end // self.step_batches) for end in self.ends]
        return sorted({step for step in whole if step < self.steps} | {self.steps})


def plan_run(stream: BatchStream, config: TrainingConfig, ranks: int) -> Plan:
    """Count the batches of the epochs asked for; the last step is filled up from the epoch after them."""
    step_batches = ranks * config.accumulation
    ends: list[int] = []
    if config.max_steps > 0:
        while not ends or ends[-1] < config.max_steps * step_batches:
            ends.append((ends[-1] if ends else 0) + len(stream.epoch(len(ends))))
        return Plan(config.max_steps, step_batches, ends)
    whole = int(config.epochs)
    total = 0
    for number in range(whole):
        total += len(stream.epoch(number))
        ends.append(total)
    if config.epochs > whole:
        last = len(stream.epoch(whole))
        ends.append(total + last)
        total += max(1, round((config.epochs - whole) * last))
    return Plan(-(-total // step_batches), step_batches, ends)


class RankBatches:
    """Batch sampler of one rank: its share of the stream, for the whole run."""

    def __init__(self, stream: BatchStream, batches: int, rank: int, ranks: int) -> None:
        self.stream = stream
        self.batches = batches
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Windows]:
        stream = self.stream.from_batch(self.rank)
        for _ in range(self.batches):
            yield next(stream)
            for _ in range(self.ranks - 1):
                next(stream)

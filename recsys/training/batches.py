"""The batches of a whole run as one deterministic stream, so that any step can be found again.

Windows are drawn anew each epoch, so epochs differ slightly in their number of batches. The trainer therefore sees one
long epoch: the stream numbers the batches of all epochs through, and a batch depends on (seed, number) alone. Rank r
of W takes the batches r, W + r, 2 W + r, ...; a run resumed at a step starts at that step's number.

An epoch takes memory of some 24 bytes a sequence and 4 bytes a window (12 while it is shuffled), nothing per event.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import overload

import numpy as np

from recsys.config import TrainingConfig
from recsys.data.dataset import SequenceDataset, Windows
from recsys.data.windows import Batches, EpochWindows, count_batches, epoch_batches, training_windows
from recsys.errors import InputError


@dataclass(frozen=True)
class Epoch(Sequence[Windows]):
    """The batches of one epoch, each made when it is asked for."""

    windows: EpochWindows
    batches: Batches

    def __len__(self) -> int:
        return len(self.batches)

    @overload
    def __getitem__(self, index: int) -> Windows: ...

    @overload
    def __getitem__(self, index: slice) -> "Epoch": ...

    def __getitem__(self, index: int | slice) -> "Windows | Epoch":
        if isinstance(index, slice):
            return Epoch(self.windows, self.batches[index])
        return self.windows[self.batches[index]]


@dataclass(frozen=True)
class BatchStream:
    """Endless batches of windows, epoch after epoch."""

    dataset: SequenceDataset
    max_length: int
    config: TrainingConfig
    seed: int

    def epoch(self, number: int) -> Sequence[Windows]:
        """The batches of one epoch, a function of (seed, number)."""
        windows, rng = self._windows(number)
        return Epoch(windows, epoch_batches(windows, rng, self.config.batch_size, self.config.batch_events))

    def num_batches(self, number: int) -> int:
        """``len(epoch(number))``, without shuffling where the batches' size alone decides it."""
        if self.config.batch_events is not None:
            return len(self.epoch(number))
        return count_batches(len(self._windows(number)[0]), self.config.batch_size)

    def from_batch(self, start: int, step: int = 1) -> Iterator[Windows]:
        """Every `step`-th batch from number `start` on, without end; those between are not made."""
        number = 0
        while start and start >= (size := self.num_batches(number)):
            start -= size
            number += 1
        while True:
            batches = self.epoch(number)
            taken = range(start, len(batches), step)
            for at in taken:
                yield replace(batches[at], draw=(self.seed, number, at))
            start += len(taken) * step - len(batches)
            number += 1
            del batches  # before the next epoch's are made

    def _windows(self, number: int) -> tuple[EpochWindows, np.random.Generator]:
        rng = np.random.default_rng([self.seed, number])
        windows = training_windows(self.dataset, self.max_length, self.config.windows, rng)
        if not len(windows):
            raise InputError("split 'train': no sequence has two events, so there is nothing to predict")
        return windows, rng


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
            ends.append((ends[-1] if ends else 0) + stream.num_batches(len(ends)))
        return Plan(config.max_steps, step_batches, ends)
    whole = int(config.epochs)
    total = 0
    for number in range(whole):
        total += stream.num_batches(number)
        ends.append(total)
    if config.epochs > whole:
        last = stream.num_batches(whole)
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
        yield from islice(self.stream.from_batch(self.rank, self.ranks), self.batches)

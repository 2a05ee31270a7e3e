"""How much memory a configured training will take, from shapes alone (`peft_ext.memory`)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from peft_ext.memory import Memory, Quantised, plan_memory
from recsys.build import attach_text, build_masking
from recsys.build.planned import build_planned
from recsys.config import ModelConfig, RunConfig
from recsys.data.bags import OFFSETS
from recsys.data.collate import Collator
from recsys.data.dataset import SequenceDataset
from recsys.data.windows import training_windows
from recsys.errors import ConfigError, InputError, one_line
from recsys.etl.storage import train_counts
from recsys.inputs import SequenceInputs
from recsys.nn.fusion import chunks
from recsys.recommender import Recommender
from recsys.schema import TIMESTAMP, Schema

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of each tensor of a batch."""
LOOKED_AT, SAMPLE = 512, 7
"""Sequences among which the longest are looked for, and how many make a batch that shows its tensors."""


@dataclass(frozen=True)
class Sample:
    """What batches of a run look like.

    Attributes:
        shapes: of one batch's tensors.
        sequences: B of that batch.
        events: T of that batch.
    """

    shapes: Shapes
    sequences: int
    events: int

    def resized(self, sequences: int, events: int) -> Shapes:
        """The shapes of a full batch ``[sequences, events]`` with as many labels an event as this one has."""
        growth = sequences * events / (self.sequences * self.events)
        resized: Shapes = {}
        for name, (shape, dtype) in self.shapes.items():
            if name.endswith(OFFSETS):
                resized[name] = ((sequences * events + 1,), dtype)
            elif shape and shape[0] == self.sequences and not name.startswith("labels."):
                rest = tuple(events if size == self.events else size for size in shape[1:])
                resized[name] = ((sequences, *rest), dtype)
            else:
                resized[name] = (tuple(round(size * growth) for size in shape), dtype)
        return resized


def sample_of(batch: Mapping[str, Tensor], item: str) -> Sample:
    """What a batch whose item column is `item` looks like."""
    sequences, events = batch[f"inputs.{item}"].shape
    return Sample({name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()}, sequences, events)


@dataclass(frozen=True)
class Planned:
    """A model on the meta device and which of its weights will take 4 or 8 bits."""

    model: Recommender
    quantised: Quantised | None


class Planner:
    """Plans training on one dataset, for any configuration of the model.

    Args:
        dataset: folder that `recsys preprocess` wrote.
        config: says what of it is read.

    Raises:
        ConfigError, InputError: the dataset or the text table lacks something.
    """

    def __init__(self, dataset: Path, config: RunConfig) -> None:
        self.dataset = dataset
        if not (dataset / "schema.json").is_file():
            raise InputError(f"{dataset}: is no sequence dataset (no schema.json); `recsys preprocess` writes one")
        schema = Schema.load(dataset / "schema.json")
        self.items = pl.read_parquet(dataset / "workflow" / "items.parquet")
        times = config.model.backbone.needs_times
        self.data = SequenceDataset.from_frame(_first_sequences(dataset), schema, self.items, times)
        self.schema, _ = attach_text(config.model.inputs, schema)
        self._built: tuple[ModelConfig, Planned] | None = None

    def plan(self, config: RunConfig, gpu: bool) -> Memory:
        """The memory of a step on a full batch: `training.batch_size` sequences of `model.max_length` events.

        Raises:
            ConfigError: the model cannot be built, or its pass cannot be planned.
        """
        planned = self.build(config)
        full = self._sample(config, planned.model).resized(config.training.batch_size, config.model.max_length)
        return plan_step(planned, full, config, gpu)

    def build(self, config: RunConfig) -> Planned:
        """The configured model without numbers; the last one is kept."""
        if self._built is None or self._built[0] != config.model:
            counts = partial(train_counts, self.dataset / "workflow")
            made = Planned(*build_planned(config.model, self.schema, self.items, counts))
            self._built = (config.model.model_copy(deep=True), made)
        return self._built[1]

    def _sample(self, config: RunConfig, model: Recommender) -> Sample:
        length, generator = config.model.max_length, np.random.default_rng(0)
        windows = training_windows(self.data, length, config.training.windows, generator)
        some = windows[:]
        longest = np.argsort(some.start - some.stop, kind="stable")[:SAMPLE]
        masking = build_masking(config.model.masking, config.model.masked, self.data.schema.item(), self.items)
        with torch.random.fork_rng(devices=[]):
            batch = Collator(self.data, list(model.heads), masking)(windows[longest])
        return sample_of(batch, model.item)


def _first_sequences(dataset: Path) -> pl.DataFrame:
    """Some sequences of the split `train`; read as they are, since the flat copy that training makes is a file."""
    try:
        sequences = pl.scan_parquet(dataset / "train" / "*.parquet")
        frame = sequences.filter(pl.col(TIMESTAMP).list.len() >= 2).head(LOOKED_AT).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{dataset}: split 'train' cannot be read ({one_line(error)}); make it again") from error
    if frame.is_empty():
        raise InputError(f"{dataset}: split 'train': no sequence has two events, so there is nothing to plan")
    return frame


def plan_step(planned: Planned, shapes: Shapes, config: RunConfig, gpu: bool) -> Memory:
    """The memory of a step on a batch of those shapes.

    Raises:
        ConfigError: the pass cannot be planned; says why.
    """
    precision = config.training.precision
    if precision == "auto":
        precision = "bfloat16" if gpu else "float32"
    try:
        with _chunks_of("cuda" if gpu else "cpu"):
            return plan_memory(
                planned.model.train(),
                _loss,
                shapes,
                quantised=planned.quantised,
                optimizer=config.training.optimizer,
                precision=precision,
                gpu=gpu,
                distinct=distinct_values(planned.model.inputs),
            )
    except ValueError as error:
        raise ConfigError(f"memory of training: {error}") from error


@contextmanager
def _chunks_of(device: str) -> Iterator[None]:
    """Have the fusion take chunks of that device's size: fake tensors all stand on a CPU."""
    usual = chunks.CHUNK_BYTES["cpu"]
    chunks.CHUNK_BYTES["cpu"] = chunks.CHUNK_BYTES[device]
    try:
        yield
    finally:
        chunks.CHUNK_BYTES["cpu"] = usual


def _loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    total: Tensor = model(batch).loss
    return total


def distinct_values(inputs: SequenceInputs) -> list[int]:
    """How many ids each stream of ids has at most, in the order in which the streams are looked up."""
    tables = [inputs.embeddings[name] for name in (*inputs.item_attributes, *inputs.event_categorical)]
    return [len(inputs.attributes), *(_rows(table) for table in (*tables, *inputs.gaps.values()))]


def _rows(table: nn.Module) -> int:
    """How many ids a look-up module takes: its first matrix has a row for each."""
    return next(len(t) for t in (*table.buffers(), *table.parameters()) if t.ndim == 2)

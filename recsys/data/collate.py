"""Windows of a dataset to a `Batch`: gather, mask, cut the label-only event, label every head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recsys.data.bags import OFFSETS
from recsys.data.batch import Batch
from recsys.data.dataset import Array, SequenceDataset, Windows
from recsys.schema import Kind


class Labelled(Protocol):
    """What a masking decides; `recsys.nn.masking.Masked` says what the tensors are."""

    @property
    def positions(self) -> Tensor:
        """``[P]`` into the flattened ``[B * T]`` states that predict."""

    @property
    def targets(self) -> Tensor:
        """``[P]`` ids."""

    @property
    def input_mask(self) -> Tensor | None:
        """Bool ``[B, T]``: inputs behind the mask vector."""

    @property
    def replacement_ids(self) -> Tensor | None:
        """``[B, T]`` ids with drawn ones."""

    @property
    def attention_mask(self) -> Tensor | None:
        """Bool ``[B, T, T]``: event i may see event j."""

    @property
    def events(self) -> Tensor | None:
        """``[P]`` into the flattened ids, the events that are predicted."""


class Masking(Protocol):
    """``(ids [B, T], lengths [B], generator)`` to labels and to what is hidden (see `recsys.nn.masking`)."""

    def __call__(self, ids: Tensor, lengths: Tensor, generator: torch.Generator | None, /) -> Labelled:
        """Labels of a batch, and what of it is hidden."""


@dataclass(frozen=True)
class Collator:
    """Makes batches: inputs, labels of every head at the same events, and what the masking hides.

    Under a causal masking the inputs are a window without its last event, which is label only. A masking that hides
    what it predicts has the whole window as inputs, with `input_mask`, `attention_mask` and `replacement_ids` beside.
    Events before a window's `label_from` are context only and no labels.

    Attributes:
        dataset: where the windows are cut from.
        heads: columns that are predicted; the item column first.
        masking: which events are predicted from where.
        unknown_targets: whether positions whose target is a reserved id stay (evaluation: they are misses) or leave
            (training: reserved ids are never targets).
    """

    dataset: SequenceDataset
    heads: Sequence[str]
    masking: Masking
    unknown_targets: bool = False

    def __call__(self, windows: Windows) -> Batch:
        """Batch of B windows, T = longest window, less 1 under a causal masking."""
        columns, lengths = self.dataset.gather(windows)
        length = torch.from_numpy(lengths.astype(np.int64))
        ids = torch.from_numpy(columns[self.dataset.schema.item().name].astype(np.int64))  # [B, T + 1]
        masked = self.masking(ids, length, _generator(windows))
        ahead = masked.input_mask is None and masked.attention_mask is None
        inputs = _inputs_ahead(columns, lengths) if ahead else columns
        tensors = {f"inputs.{name}": self._tensor(name, values) for name, values in inputs.items()}
        for name, values in self.dataset.context.items():
            tensors[f"inputs.{name}"] = self._tensor(name, values[windows.row])  # [B]
        for name, (values, offsets) in self.dataset.gather_bags(windows, ahead).items():
            tensors |= {f"inputs.{name}": torch.from_numpy(values)}
            tensors |= {f"inputs.{name}{OFFSETS}": torch.from_numpy(offsets)}
        tensors["lengths"] = length - 1 if ahead else length
        tensors["row_id"] = torch.from_numpy(windows.row.astype(np.int64))
        times = self.dataset.gather_times(windows)
        if times is not None:
            tensors["times"] = torch.from_numpy(times[:, :-1] if ahead else times)
        hidden = {n: getattr(masked, n) for n in ("input_mask", "replacement_ids", "attention_mask")}
        tensors |= {name: tensor for name, tensor in hidden.items() if tensor is not None}
        return Batch(tensors | self._labels(windows, columns, masked, ids.shape[1] - ahead))

    def _labels(self, windows: Windows, columns: dict[str, Array], masked: Labelled, width: int) -> dict[str, Tensor]:
        """Positions in ``[B * width]`` and targets of every head."""
        assert masked.events is not None
        time = next(iter(columns.values())).shape[1]
        rows, steps, events = masked.positions // time, masked.positions % time, masked.events % time
        targets = masked.targets
        if windows.label_from is not None:
            counted = torch.from_numpy(windows.start)[rows] + events >= torch.from_numpy(windows.label_from)[rows]
            rows, steps, events, targets = rows[counted], steps[counted], events[counted], targets[counted]
        positions, places = rows * width + steps, (rows.numpy(), events.numpy())
        labels = {}
        for head in self.heads:
            values = self._values(head, columns, places, targets)
            keep = self._keep(head, values)
            labels[f"labels.{head}.positions"] = positions[keep]
            labels[f"labels.{head}.targets"] = values[keep]
        return labels

    def _values(self, head: str, columns: dict[str, Array], places: tuple[Array, Array], targets: Tensor) -> Tensor:
        """What a head's column holds at the predicted events ``[P]``, which stand at `places` of ``[B, T + 1]``."""
        if head in self.dataset.item_columns:
            return torch.from_numpy(self.dataset.item_columns[head])[targets]
        return self._tensor(head, columns[head][places])

    def _keep(self, head: str, values: Tensor) -> Tensor:
        column = self.dataset.schema[head]
        if column.kind is not Kind.CATEGORICAL or self.unknown_targets:
            return torch.ones(len(values), dtype=torch.bool)
        return values >= column.first_id

    def _tensor(self, name: str, values: Array) -> Tensor:
        return torch.from_numpy(self.dataset.cast(name, values))


def _inputs_ahead(columns: dict[str, Array], lengths: Array) -> dict[str, Array]:
    """The columns without each window's last event: cut off, and zero where a shorter window has it."""
    inputs = {}
    for name, values in columns.items():
        inputs[name] = values[:, :-1].copy()
        label = np.arange(inputs[name].shape[1])[None, :] >= lengths[:, None] - 1  # [B, T]
        np.copyto(inputs[name], 0, where=label)
    return inputs


def _generator(windows: Windows) -> torch.Generator | None:
    """A generator that the windows' `draw` alone determines."""
    if windows.draw is None:
        return None
    (seed,) = np.random.SeedSequence(windows.draw).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed))


class WindowDataset(Dataset[Windows]):
    """Lets a DataLoader fetch whole batches: a batch sampler yields `Windows`, the collator makes the `Batch`."""

    def __init__(self, num_windows: int) -> None:
        self.num_windows = num_windows

    def __len__(self) -> int:
        return self.num_windows

    def __getitems__(self, windows: Windows) -> Windows:
        return windows


def iterate(collate: Collator, windows: Windows, batch_size: int) -> Iterator[tuple[Array, Batch]]:
    """Batches of windows in order of length (longest first, so that memory is known at once), with their indices."""
    order = np.argsort(-windows.lengths, kind="stable")
    for at in range(0, len(order), batch_size):
        chosen = order[at : at + batch_size]
        yield chosen, collate(windows[chosen])

"""Windows of a dataset to a `Batch`: gather, mask, cut the label-only event, label every head."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recsys.data.batch import Batch
from recsys.data.dataset import Array, SequenceDataset, Windows
from recsys.schema import Kind

Positions = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Collator:
    """Makes batches for a causal model: the inputs are a window without its last event, labels are the next events.

    Events before a window's `label_from` are context only and no labels.

    Attributes:
        dataset: where the windows are cut from.
        heads: columns that are predicted; the item column first.
        masking: ``(ids [B, T + 1], lengths [B])`` to label positions and targets (see `recsys.nn.masking`).
        unknown_targets: whether positions whose target is a reserved id stay (evaluation: they are misses) or leave
            (training: reserved ids are never targets).
    """

    dataset: SequenceDataset
    heads: Sequence[str]
    masking: Positions
    unknown_targets: bool = False

    def __call__(self, windows: Windows) -> Batch:
        """Batch of B windows, T = longest window - 1."""
        columns, lengths = self.dataset.gather(windows)
        item = self.dataset.schema.item()
        ids = torch.from_numpy(columns[item.name].astype(np.int64))  # [B, T + 1]
        length = torch.from_numpy(lengths.astype(np.int64))
        positions, targets = self.masking(ids, length)[:2]
        width = ids.shape[1]
        rows, steps = positions // width, positions % width
        if windows.label_from is not None:
            events = torch.from_numpy(windows.start)[rows] + steps + 1
            counted = events >= torch.from_numpy(windows.label_from)[rows]
            rows, steps, targets = rows[counted], steps[counted], targets[counted]
        trimmed = rows * (width - 1) + steps
        tensors = {f"inputs.{name}": self._tensor(name, values[:, :-1]) for name, values in columns.items()}
        tensors["lengths"] = length - 1
        tensors["row_id"] = torch.from_numpy(windows.row.astype(np.int64))
        following = (rows.numpy(), steps.numpy() + 1)  # where the predicted events stand in [B, T + 1]
        for head in self.heads:
            values = self._labels(head, columns, following, targets)
            keep = self._keep(head, values)
            tensors[f"labels.{head}.positions"] = trimmed[keep]
            tensors[f"labels.{head}.targets"] = values[keep]
        return Batch(tensors)

    def _labels(self, head: str, columns: dict[str, Array], following: tuple[Array, Array], targets: Tensor) -> Tensor:
        if head in self.dataset.item_columns:
            return torch.from_numpy(self.dataset.item_columns[head])[targets]
        return self._tensor(head, columns[head][following])

    def _keep(self, head: str, values: Tensor) -> Tensor:
        column = self.dataset.schema[head]
        if column.kind is not Kind.CATEGORICAL or self.unknown_targets:
            return torch.ones(len(values), dtype=torch.bool)
        return values >= column.first_id

    def _tensor(self, name: str, values: Array) -> Tensor:
        kind = self.dataset.schema[name].kind
        return torch.from_numpy(values.astype(np.int64 if kind is Kind.CATEGORICAL else np.float32))


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

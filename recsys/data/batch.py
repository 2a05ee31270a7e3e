"""A batch of sequences: a mapping of tensors with typed access.

Being a `Mapping`, it is moved to a device by Trainer, accelerate and DistributedDataParallel as it is.

Keys: ``inputs.<column> [B, T]`` (``[B]`` of a column of one value a sequence; of a column of lists their ids one after
the other, ``[K]``, and in ``inputs.<column>.offsets [B * T + 1]`` where each timestep's list starts), ``lengths [B]``,
``row_id [B]``, and for each head
``labels.<head>.positions [P]`` (index into the flattened ``[B * T]`` hidden states) and ``labels.<head>.targets [P]``.
"""

from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor


class Batch(Mapping[str, Tensor]):
    """Right-padded sequences; what is valid comes from `lengths`, never from an id being 0."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def lengths(self) -> Tensor:
        """``[B]`` number of valid events."""
        return self._tensors["lengths"]

    @property
    def row_id(self) -> Tensor:
        """``[B]`` row of the dataset that each sequence was cut from."""
        return self._tensors["row_id"]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Input columns by name, ``[B, T]`` unless the module says otherwise."""
        return {k.removeprefix("inputs."): v for k, v in self._tensors.items() if k.startswith("inputs.")}

    def labels(self, head: str) -> tuple[Tensor, Tensor]:
        """``(positions [P], targets [P])`` of a head."""
        return self._tensors[f"labels.{head}.positions"], self._tensors[f"labels.{head}.targets"]

    def label_heads(self) -> list[str]:
        """Names of the heads that have labels in this batch."""
        return [k.split(".")[1] for k in self._tensors if k.startswith("labels.") and k.endswith(".targets")]

    def num_labels(self, head: str) -> int:
        """P, the number of label positions of a head."""
        return int(self._tensors[f"labels.{head}.targets"].shape[0])

    def with_tensors(self, more: Mapping[str, Tensor]) -> Self:
        """A copy with further (or replaced) tensors."""
        return type(self)({**self._tensors, **more})

    def to(self, device: torch.device | str) -> Self:
        """A copy on `device`."""
        return type(self)({k: v.to(device) for k, v in self._tensors.items()})

    def pin_memory(self) -> Self:
        """A copy in page-locked memory (called by DataLoader)."""
        return type(self)({k: v.pin_memory() for k, v in self._tensors.items()})

    def __repr__(self) -> str:
        shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in self._tensors.items())
        return f"Batch({shapes})"

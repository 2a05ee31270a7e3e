"""What every fusion is: streams of distinct values in, one vector a timestep out.

Most streams take few values: items repeat, and classes, hours or buckets are a handful. So a stream is a table of its
distinct values and an index that tells each timestep's row. A fusion has two halves: `prepare` does what depends on
one stream alone (projections), once for each distinct value; `mix` brings the streams of each timestep together.
M is the number of timesteps, N of streams, U of distinct values of a stream, D the width, W that of prepared values.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Stream:
    """Values ``[U, D]`` and each timestep's row ``[M]``; index None: values are ``[M, D]``, one a timestep."""

    values: Tensor
    index: Tensor | None = None


class Fusion(nn.Module, ABC):
    """Base of the fusions. The item's own stream is the first; the order of the streams is fixed."""

    @abstractmethod
    def prepare(self, place: int, values: Tensor) -> Tensor:
        """What depends on the stream at `place` alone: values ``[U, D]`` to ``[U, W]``."""

    @abstractmethod
    def mix(self, streams: Sequence[Stream]) -> Tensor:
        """Prepared streams, values ``[U, W]`` each, to ``[M, D]``."""

    def forward(self, streams: Sequence[Stream]) -> Tensor:
        """N streams, values ``[U, D]`` and index ``[M]`` each, to ``[M, D]``."""
        return self.mix([Stream(self.prepare(place, s.values), s.index) for place, s in enumerate(streams)])


def gather(stream: Stream) -> Tensor:
    """The stream's value at each timestep, ``[M, W]``."""
    return stream.values if stream.index is None else functional.embedding(stream.index, stream.values)


def gather_sum(streams: Sequence[Stream]) -> Tensor:
    """Sum over the streams at each timestep, ``[M, W]``."""
    total = gather(streams[0])
    for stream in streams[1:]:
        total = total + gather(stream)
    return total


def stack_rows(*weights: Tensor) -> Tensor:
    """Linear maps ``[R_k, D]`` one below the other as one map ``[W, D]``, or their biases ``[R_k]`` as ``[W]``.

    Zeros fill up W to a multiple of 16: with another number of columns a product in single precision takes a quarter
    longer on a CPU.
    """
    missing = -sum(len(w) for w in weights) % 16
    return torch.cat((*weights, weights[0].new_zeros((missing, *weights[0].shape[1:]))))


def require_streams(name: str, found: int, least: int) -> None:
    """Raise ValueError where a fusion has too few streams to work on."""
    if found < least:
        raise ValueError(f"fusion '{name}' needs at least {least} streams, the data give {found}; use 'sum'")

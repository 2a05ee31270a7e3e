"""Concatenation of the streams under one linear map."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.nn.fusion.base import Fusion, Stream, gather_sum


class ConcatenationFusion(Fusion):
    r"""``h = W [f_1; ...; f_N] + b``, ``W [D, N D]`` (the `concat` aggregation of Transformers4Rec, projected to D).

    When to use: streams that say different things and whose share in the result does not depend on each other.

    Exact saving: ``W [f_1; ...; f_N] = sum_k W_k f_k``, and each ``W_k f_k`` is computed once a distinct value, so no
    matrix product is left a timestep.

    Args:
        size: D, width of the streams.
        num_streams: N.
    """

    def __init__(self, size: int, num_streams: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(num_streams * size)  # as nn.Linear(N * D, D) draws them
        self.weight = nn.Parameter(torch.empty(num_streams, size, size).uniform_(-bound, bound))  # [N, D, D]
        self.bias = nn.Parameter(torch.empty(size).uniform_(-bound, bound))

    def prepare(self, place: int, values: Tensor) -> Tensor:
        """values ``[U, D]`` to the stream's share of the result, ``[U, D]``; the first one's carries the bias."""
        return functional.linear(values, self.weight[place], self.bias if place == 0 else None)

    def mix(self, streams: Sequence[Stream]) -> Tensor:
        """N streams ``[U, D]`` with index ``[M]`` to ``[M, D]``."""
        return gather_sum(streams)

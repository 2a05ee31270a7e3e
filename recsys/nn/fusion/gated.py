"""Streams weighed by a gate that reads all of them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.nn.fusion.base import Fusion, Stream, stack_rows
from recsys.nn.fusion.chunks import mix_in_chunks


class GatedFusion(Fusion):
    r"""``g = softmax(sum_k G_k f_k + b)``, ``h = sum_k g_k V_k f_k``: one weight a stream and timestep.

    The variable selection of the Temporal Fusion Transformer (arXiv:1912.09363, section 4.2) with linear maps in the
    place of its residual networks, so that they can run once a distinct value.

    When to use: many streams of which few matter at a time; the weights can be read off.

    Exact saving: ``V_k f_k`` and each stream's share in the gate ``G_k f_k`` are computed once a distinct value, so no
    matrix product is left a timestep.

    Args:
        size: D, width of the streams.
        num_streams: N.
    """

    def __init__(self, size: int, num_streams: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(size)
        self.value = nn.Parameter(torch.empty(num_streams, size, size).uniform_(-bound, bound))  # V, [N, D, D]
        self.gate = nn.Parameter(torch.empty(num_streams, num_streams, size).uniform_(-bound, bound))  # G, [N, N, D]
        self.bias = nn.Parameter(torch.zeros(num_streams))

    def prepare(self, place: int, values: Tensor) -> Tensor:
        """values ``[U, D]`` to ``V_k f_k`` and ``G_k f_k`` side by side, ``[U, W]``."""
        return functional.linear(values, stack_rows(self.value[place], self.gate[place]))

    def mix(self, streams: Sequence[Stream]) -> Tensor:
        """N prepared streams ``[U, W]`` with index ``[M]`` to ``[M, D]``."""
        return mix_in_chunks(self._weigh, [streams], [self.bias])

    def _weigh(self, streams: Tensor, bias: Tensor) -> Tensor:
        """Prepared streams ``[N, m, W]`` to their weighted sum ``[m, D]``."""
        size, count = self.value.shape[-1], len(streams)
        value, shares, _ = streams.split(
            [size, count, streams.shape[-1] - size - count], dim=-1
        )  # [N, m, D], [N, m, N]
        gates = (shares.sum(0) + bias).softmax(-1)  # [m, N]
        return (gates.unsqueeze(1) @ value.transpose(0, 1)).squeeze(1)

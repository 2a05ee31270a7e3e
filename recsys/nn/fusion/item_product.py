"""Element-wise product of the item with the other streams."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.nn.fusion.base import Fusion, Stream, gather, gather_sum, require_streams


class ItemProductFusion(Fusion):
    r"""``h = f_item * (W o + b)``, ``o = sum of the other streams / sqrt(N - 1)``, ``*`` element by element.

    With W the identity and b zero this is Transformers4Rec's `element-wise-sum-item-multi` up to the scale; here the
    bias starts at one, so that the item passes through from the first step on and the others modulate it.

    When to use: the other streams say how an item was used (count, gap, hour) and not what it is.

    Exact saving: W is applied once a distinct value of each stream, so no matrix product is left a timestep.

    Args:
        size: D, width of the streams.
        num_streams: N, at least 2.
    """

    def __init__(self, size: int, num_streams: int) -> None:
        super().__init__()
        require_streams("item_product", num_streams, 2)
        bound = 1 / math.sqrt(size)
        self.scale = 1 / math.sqrt(num_streams - 1)
        self.weight = nn.Parameter(torch.empty(size, size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.ones(size))

    def prepare(self, place: int, values: Tensor) -> Tensor:
        """values ``[U, D]`` to ``[U, D]``: the item's as they are, the others' projected."""
        return functional.linear(values * self.scale, self.weight) if place else values

    def mix(self, streams: Sequence[Stream]) -> Tensor:
        """N streams ``[U, D]`` with index ``[M]`` to ``[M, D]``."""
        return gather(streams[0]) * (gather_sum(streams[1:]) + self.bias)

"""Attention of the item over all streams."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.nn.fusion.base import Fusion, Stream
from recsys.nn.fusion.chunks import mix_in_chunks


class CrossAttentionFusion(Fusion):
    r"""``h = MultiHead(f_item, F, F)``: the item's stream is the query, all N streams (its own too) keys and values.

    Source: multi-head attention of arXiv:1706.03762, section 3.2.2, with one query.

    When to use: the item decides which of the other streams matter; cheaper than `self_attention`, which pools what
    every stream makes of every other.

    Exact saving: query, keys and values are computed once for each distinct value of a stream.

    Args:
        size: D, width of the streams.
        num_heads: h, must divide D.
    """

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        if size % num_heads:
            raise ValueError(f"num_heads ({num_heads}) must divide size ({size})")
        self.num_heads = num_heads
        self.qkv = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)

    def prepare(self, place: int, values: Tensor) -> Tensor:
        """values ``[U, D]`` to key and value ``[U, 2D]``; the item's to query, key and value ``[U, 3D]``."""
        skip = values.shape[-1] if place else 0
        return functional.linear(values, self.qkv.weight[skip:], self.qkv.bias[skip:])

    def mix(self, streams: Sequence[Stream]) -> Tensor:
        """Prepared streams with index ``[M]`` to ``[M, D]``."""
        item, *others = streams
        query, pair = item.values.tensor_split([item.values.shape[-1] // 3], dim=-1)  # [U, D], [U, 2D]
        groups = [[Stream(query, item.index)], [Stream(pair, item.index), *others]]
        fused: Tensor = self.output(mix_in_chunks(self._attend, groups))
        return fused

    def _attend(self, query: Tensor, pairs: Tensor) -> Tensor:
        """The heads' contexts ``[m, D]`` of m timesteps: query ``[1, m, D]``, key and value ``[N, m, 2D]``."""
        heads, width = self.num_heads, query.shape[-1] // self.num_heads
        queries = query.transpose(0, 1).split(width, dim=-1)  # h of [m, 1, D/h]
        parts = pairs.transpose(0, 1).split(width, dim=-1)  # 2h of [m, N, D/h]
        contexts = []
        for query, key, value in zip(queries, parts[:heads], parts[heads:], strict=True):
            weights = (query @ key.transpose(1, 2) / math.sqrt(width)).softmax(-1)  # [m, 1, N]
            contexts.append(weights @ value)
        return torch.cat(contexts, dim=-1).squeeze(1)

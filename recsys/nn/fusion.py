"""Fusion of the streams of one timestep into one vector.

Streams come in two parts, because most depend on the item alone: `item_streams [U, N_i, D]` once for each distinct
item, `index [M]` telling each timestep's item, and `event_streams [M, N_e, D]` for what differs from event to event.
M is the number of timesteps, N = N_i + N_e.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class SumFusion(nn.Module):
    """The streams' sum over the square root of their number. No parameters."""

    def forward(self, item_streams: Tensor, index: Tensor, event_streams: Tensor | None = None) -> Tensor:
        """item_streams ``[U, N_i, D]``, index ``[M]``, event_streams ``[M, N_e, D]`` to ``[M, D]``."""
        total = functional.embedding(index, item_streams.sum(1))  # [M, D]
        count = item_streams.shape[1]
        if event_streams is not None:
            total = total + event_streams.sum(1)
            count += event_streams.shape[1]
        return total / math.sqrt(count)


class SelfAttentionFusion(nn.Module):
    r"""Multi-head self-attention over the streams, then attention pooling with a learned query.

    With F the ``[N, D]`` streams of a timestep (arXiv:2504.05319, section on feature fusion)::

        F~ = MultiHead(F, F, F)      a_i = softmax_i(F~_i . q / sqrt(D))      h = sum_i a_i F~_i

    Two savings, both exact. Q, K and V of item streams are computed once for each distinct item. The attention's output
    projection W_o is linear, so it commutes with the pooling: with c_i the heads' concatenated context,
    ``F~_i . q = c_i . (W_o^T q) + const`` and ``h = W_o sum_i a_i c_i + b_o``: it runs once a timestep, not once a
    stream.

    Args:
        size: D, width of the streams.
        num_heads: must divide D.
    """

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        if size % num_heads:
            raise ValueError(f"num_heads ({num_heads}) must divide size ({size})")
        self.num_heads = num_heads
        self.qkv = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)
        self.query = nn.Parameter(torch.randn(size) / math.sqrt(size))

    def forward(self, item_streams: Tensor, index: Tensor, event_streams: Tensor | None = None) -> Tensor:
        """item_streams ``[U, N_i, D]``, index ``[M]``, event_streams ``[M, N_e, D]`` to ``[M, D]``."""
        size = item_streams.shape[-1]
        table = self.qkv(item_streams).flatten(1)  # [U, N_i * 3D]
        qkv = functional.embedding(index, table).view(len(index), -1, 3 * size)  # [M, N_i, 3D]
        if event_streams is not None:
            qkv = torch.cat((qkv, self.qkv(event_streams)), dim=1)  # [M, N, 3D]
        heads = qkv.view(*qkv.shape[:2], 3, self.num_heads, -1)  # [M, N, 3, h, D/h]
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [M, h, N, D/h]
        # Written out, since for a handful of streams this is faster than the fused kernels for long sequences.
        weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)  # [M, h, N, N]
        context = weights @ value  # [M, h, N, D/h]
        context = context.transpose(1, 2).flatten(2)  # [M, N, D]
        pooled = attention_pool(context, self.query @ self.output.weight)  # [M, D]
        fused: Tensor = self.output(pooled)
        return fused


def attention_pool(streams: Tensor, query: Tensor) -> Tensor:
    """Mean of the streams weighted by ``softmax(stream . query / sqrt(D))``: ``[M, N, D], [D]`` to ``[M, D]``."""
    scores = streams @ query / math.sqrt(streams.shape[-1])  # [M, N]
    return torch.bmm(scores.softmax(-1).unsqueeze(1), streams).squeeze(1)

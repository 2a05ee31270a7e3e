"""Self-attention over the streams with attention pooling."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.nn.fusion.base import Fusion, Stream, stack_rows
from recsys.nn.fusion.chunks import mix_in_chunks


class SelfAttentionFusion(Fusion):
    r"""Multi-head self-attention over the streams, then attention pooling with a learned query.

    With F the ``[N, D]`` streams of a timestep (arXiv:2504.05319, section on feature fusion)::

        F~ = MultiHead(F, F, F)      a_i = softmax_i(F~_i . q / sqrt(D))      h = sum_i a_i F~_i

    When to use: several streams whose weight depends on the others (the document's model).

    Three savings, all exact:

    - Q, K and V are computed once for each distinct value of a stream.
    - The output projection W_o is linear, so it commutes with the pooling: with c_i the heads' concatenated context,
      ``F~_i . q = c_i . (W_o^T q) + const`` and ``h = W_o sum_i a_i c_i + b_o``: once a timestep, not once a stream.
    - The contexts are never formed: with w the attention weights of a head and u its part of ``W_o^T q``,
      ``c_i . u = sum_j w_ij (v_j . u)`` and ``sum_i a_i c_i = sum_j (sum_i a_i w_ij) v_j``.

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
        self.query = nn.Parameter(torch.randn(size) / math.sqrt(size))

    def prepare(self, place: int, values: Tensor) -> Tensor:
        """values ``[U, D]`` to query, key, value and each head's ``v . u`` side by side, ``[U, W]``."""
        size = values.shape[-1]
        towards = (self.query @ self.output.weight).view(self.num_heads, 1, -1)  # u, [h, 1, D/h]
        value_weight = self.qkv.weight[2 * size :].view(self.num_heads, -1, size)  # [h, D/h, D]
        weight = stack_rows(self.qkv.weight, (towards @ value_weight).squeeze(1))  # [W, D]
        value_bias = self.qkv.bias[2 * size :].view(self.num_heads, -1, 1)  # [h, D/h, 1]
        bias = stack_rows(self.qkv.bias, (towards @ value_bias).flatten())  # [W]
        return functional.linear(values, weight, bias)

    def mix(self, streams: Sequence[Stream]) -> Tensor:
        """N prepared streams ``[U, W]`` with index ``[M]`` to ``[M, D]``."""
        fused: Tensor = self.output(mix_in_chunks(self._pool, [streams]))
        return fused

    def _pool(self, streams: Tensor) -> Tensor:
        """Prepared streams ``[N, m, W]`` of m timesteps to their pooled contexts ``[m, D]``."""
        heads = self.num_heads
        width = len(self.query) // heads  # D/h
        # A head at a time: its slices need no copy. Written out, since for a handful of streams this is faster than
        # the fused kernels for long sequences.
        rest = streams.shape[-1] - 3 * len(self.query) - heads
        columns = [width] * (2 * heads) + [len(self.query), heads, rest]
        *parts, value, towards, _ = streams.transpose(0, 1).split(columns, dim=-1)  # 2h of [m, N, D/h], [m, N, D]
        products = torch.stack([parts[h] @ parts[heads + h].transpose(1, 2) for h in range(heads)], dim=2)
        shares = self.shares(products, towards.transpose(1, 2))  # [m, h, N]
        return (shares.transpose(1, 2).unsqueeze(-1) * value.unflatten(-1, (heads, width))).sum(1).flatten(1)

    def shares(self, products: Tensor, towards: Tensor) -> Tensor:
        """Of each stream's value in the result: products of queries and keys ``[m, N, h, N]`` (the second N are the
        keys) and ``v . u`` ``[m, h, N]`` to ``[m, h, N]``.
        """
        size = len(self.query)
        weights = (products / math.sqrt(size // self.num_heads)).softmax(-1)  # w, [m, N, h, N]
        # Products of so few numbers cost less element by element than as many small matrix products.
        scores = (weights * towards.unsqueeze(1)).sum((2, 3))  # c_i . u, [m, N]
        pooling = (scores / math.sqrt(size)).softmax(-1)  # a, [m, N]
        return (pooling[:, :, None, None] * weights).sum(1)

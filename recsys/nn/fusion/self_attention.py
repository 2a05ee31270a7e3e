"""Self-attention over the streams with attention pooling."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.nn.fusion.base import Fusion, Stream
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
        """values ``[U, D]`` to query, key and value ``[U, 3D]``."""
        prepared: Tensor = self.qkv(values)
        return prepared

    def mix(self, streams: Sequence[Stream]) -> Tensor:
        """N streams ``[U, 3D]`` with index ``[M]`` to ``[M, D]``."""
        pooled = mix_in_chunks(self._pool, streams, [self.query @ self.output.weight])  # [M, D]
        fused: Tensor = self.output(pooled)
        return fused

    def _pool(self, parts: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
        """Pooled contexts ``[m, D]`` of m timesteps: query, key and value ``[m, 3D]`` of each stream, ``W_o^T q``."""
        heads = torch.stack([p.unflatten(-1, (3, self.num_heads, -1)) for p in parts])  # [N, m, 3, h, D/h]
        query, key, value = heads.permute(2, 1, 3, 0, 4).unbind(0)  # each [m, h, N, D/h]
        # Written out, since for a handful of streams this is faster than the fused kernels for long sequences.
        weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)  # [m, h, N, N]
        towards = value @ shared[0].view(self.num_heads, -1, 1)  # v_j . u, [m, h, N, 1]
        size = self.num_heads * query.shape[-1]
        scores = (weights @ towards).sum(1).squeeze(-1) / math.sqrt(size)  # [m, N]
        share = scores.softmax(-1)[:, None, None] @ weights  # of each value in the result, [m, h, 1, N]
        return (share @ value).flatten(1)  # [m, D]

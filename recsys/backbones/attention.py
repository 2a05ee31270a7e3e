"""What the native backbones share: causal attention by the fused kernel, learned positions."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class CausalAttention(nn.Module):
    """Multi-head attention of each event over itself and those before it (Vaswani et al. 2017, section 3.2).

    The kernel knows causality by itself, so no ``[T, T]`` mask and no ``[B, h, T, T]`` weights are held.

    Args:
        size: H.
        num_heads: h, must divide H.
        dropout: on the attention weights.
    """

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query = nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.output = nn.Linear(size, size)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """queries ``[B, T, H]``, keys (and values) ``[B, T, H]`` to ``[B, T, H]``."""
        q = self._split(self.query(queries))  # [B, h, T, H / h]
        k, v = (self._split(part) for part in self.key_value(keys).chunk(2, dim=-1))
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        attended: Tensor = self.output(mixed.transpose(1, 2).flatten(2))  # [B, T, H]
        return attended

    def _split(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Positions(nn.Module):
    """Adds a learned vector for each place in the sequence, counted from the oldest event."""

    def __init__(self, max_length: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(max_length, size) * 0.02)

    def forward(self, vectors: Tensor) -> Tensor:
        """vectors ``[B, T, H]`` to ``[B, T, H]``; T is at most `max_length`."""
        return vectors + self.weight[: vectors.shape[1]].to(vectors.dtype)

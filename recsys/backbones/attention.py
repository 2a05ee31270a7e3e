"""What the native backbones share: causal attention by the fused kernel, learned positions."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.nn.attention import dropped_attention
from recsys.nn.dropout import is_cheap


class CausalAttention(nn.Module):
    """Multi-head attention of each event over itself and those before it (Vaswani et al. 2017, section 3.2).

    The kernel knows causality by itself, so no ``[T, T]`` mask and no ``[B, h, T, T]`` weights are held. With dropout
    on a CPU there is none; `recsys.nn.attention` stands in for it there.

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
        if self.num_heads == 1 and all(_is_plain(m) for m in (self.query, self.key_value, self.output)):
            return self._one_head(queries, keys)
        q = self._split(self.query(queries))  # [B, h, T, H / h]
        k, v = (self._split(part) for part in self.key_value(keys).chunk(2, dim=-1))
        attended: Tensor = self.output(self._attend(q, k, v).transpose(1, 2).flatten(2))  # [B, T, H]
        return attended

    def _one_head(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The same of one head, whose width is H, by two products an event instead of four.

        With ``A = W_q^T W_k`` the score of i and j is ``(A^T q_i + W_k^T b_q) k_j`` and a term of i alone, which the
        softmax does not see; and ``W_o sum_j p_j (W_v k_j + b_v)`` is ``sum_j p_j (W_o W_v k_j + W_o b_v)``.
        """
        key, value = self.key_value.weight.chunk(2)  # [H, H] each
        q = functional.linear(queries, key.T @ self.query.weight, key.T @ self.query.bias)  # [B, T, H]
        v = functional.linear(
            keys, self.output.weight @ value, self.output.weight @ self.key_value.bias.chunk(2)[1]
        )  # [B, T, H]
        mixed = self._attend(q.unsqueeze(1), keys.unsqueeze(1), v.unsqueeze(1))  # [B, 1, T, H]
        return mixed.squeeze(1) + self.output.bias

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``[B, h, T, d]`` each to ``[B, h, T, d]``."""
        dropout = self.dropout if self.training else 0.0
        if not is_cheap(q, dropout):
            return functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        mixed = dropped_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), dropout)  # [B * h, T, d]
        return mixed.unflatten(0, q.shape[:2])

    def _split(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _is_plain(linear: nn.Module) -> bool:
    """Whether a linear map is its weight and bias alone: no adapter around it, not quantised, nobody listening."""
    return type(linear) is nn.Linear and not linear._forward_hooks and not linear._forward_pre_hooks


class Positions(nn.Module):
    """Adds a learned vector for each place in the sequence, counted from the oldest event."""

    def __init__(self, max_length: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(max_length, size) * 0.02)

    def forward(self, vectors: Tensor) -> Tensor:
        """vectors ``[B, T, H]`` to ``[B, T, H]``; T is at most `max_length`."""
        return vectors + self.weight[: vectors.shape[1]].to(vectors.dtype)

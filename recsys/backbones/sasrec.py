"""SASRec: self-attention over learned positions."""

from typing import Literal

from torch import Tensor, nn

from recsys.backbones.attention import CausalAttention, Positions
from recsys.backbones.base import Backbone
from recsys.nn.dropout import Dropout

Norm = Literal["pre", "post", "query"]


class SASRec(Backbone):
    """SASRec (Kang and McAuley 2018, arXiv:1808.09781): attention and a point-wise feed-forward block a layer.

    When to use: the standard of the field, small and fast; the first model to try beside LLaMA, and to compare with.

    Args:
        hidden_size: H.
        num_layers: blocks.
        num_heads: must divide H.
        intermediate_size: width of the feed-forward block; H in the paper.
        max_length: longest sequence; each place has a learned vector.
        norm: where the layer norm stands, with g attention or feed-forward: `pre` is the paper's equation
            ``x + g(norm(x))``; `post` is ``norm(x + g(x))``; `query` is the authors' code (and RecTools'):
            attention norms the queries only, and both residuals run from the normed ``norm(x) + g(...)``.
        attention_dropout: on attention weights.
        residual_dropout: on the output of each g, and inside the feed-forward block.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        max_length: int,
        norm: Norm,
        attention_dropout: float,
        residual_dropout: float,
    ) -> None:
        super().__init__(hidden_size, max_length)
        self.positions = Positions(max_length, hidden_size)
        self.layers = nn.ModuleList(
            _Layer(hidden_size, num_heads, intermediate_size, norm, attention_dropout, residual_dropout)
            for _ in range(num_layers)
        )
        self.norm = nn.Identity() if norm == "post" else nn.LayerNorm(hidden_size)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """vectors ``[B, T, H]``, lengths ``[B]`` to hidden states ``[B, T, H]``; past a length they are undefined."""
        self.require_fit(vectors)
        states = self.positions(vectors)  # [B, T, H]
        for layer in self.layers:
            states = layer(states)
        hidden: Tensor = self.norm(states)
        return hidden


class _Layer(nn.Module):
    def __init__(
        self, size: int, num_heads: int, inner: int, norm: Norm, attention_dropout: float, residual_dropout: float
    ) -> None:
        super().__init__()
        self.order = norm
        self.attention = CausalAttention(size, num_heads, attention_dropout)
        drop = Dropout(residual_dropout)
        self.feed_forward = nn.Sequential(nn.Linear(size, inner), nn.ReLU(), drop, nn.Linear(inner, size))
        self.attention_norm = nn.LayerNorm(size)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.dropout = drop

    def forward(self, x: Tensor) -> Tensor:
        """x ``[B, T, H]`` to ``[B, T, H]``."""
        attend, feed, drop = self.attention, self.feed_forward, self.dropout
        norm_a, norm_f = self.attention_norm, self.feed_forward_norm
        match self.order:
            case "pre":
                normed = norm_a(x)
                x = drop.add(x, attend(normed, normed))
                x = drop.add(x, feed(norm_f(x)))
            case "post":
                x = norm_a(drop.add(x, attend(x, x)))
                x = norm_f(drop.add(x, feed(x)))
            case "query":
                normed = norm_a(x)
                normed = norm_f(drop.add(normed, attend(normed, x)))
                x = drop.add(normed, feed(normed))
        return x

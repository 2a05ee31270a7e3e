"""The last layer of a decoder at the newest event alone, since no other state of it is read."""

from typing import Any

import torch
from torch import Tensor, nn

SHAPES = ("llama", "qwen3", "mixtral")
"""Architectures of `transformers` whose layers are attention and feed-forward block, each behind a norm."""


class NewestLayer(nn.Module):
    """A decoder layer at one event a row: of the others it computes the attention's keys alone.

    With one query, values need not be computed either: ``sum_j a_j (V x_j) = V (sum_j a_j x_j)``.

    Args:
        layer: of one of `SHAPES`, without a sliding window.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        attention: Any = layer.self_attn
        self.scaling, self.head_size = attention.scaling, attention.head_dim
        self.lengths: list[Tensor] = []  # of the batch under way, which the layers between do not pass on

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        """hidden_states ``[B, T, H]``, cosines and sines ``[1, T, D]`` to each row's newest event ``[B, 1, H]``."""
        layer: Any = self.layer
        newest = take_newest(hidden_states, self.lengths[0])
        normed = layer.input_layernorm(hidden_states)
        newest = newest + self._attend(normed, self.lengths[0], *position_embeddings)
        fed: Tensor = newest + layer.mlp(layer.post_attention_layernorm(newest))
        return fed

    def _attend(self, states: Tensor, lengths: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Attention of each row's newest event over its events: states ``[B, T, H]`` to ``[B, 1, H]``."""
        attention: Any = self.layer.self_attn
        rows, steps, _ = states.shape
        queries = self._heads(take_newest(states, lengths), "q")  # [B, 1, A, D]
        keys = self._heads(states, "k")  # [B, T, G, D]: each is the key of A / G heads
        queries = _turned(queries, cosines[0, lengths - 1][:, None, None], sines[0, lengths - 1][:, None, None])
        keys = _turned(keys, cosines[:, :, None], sines[:, :, None])
        groups = queries.view(rows, keys.shape[2], -1, self.head_size)  # [B, G, A/G, D]
        scores = groups @ keys.permute(0, 2, 3, 1) * self.scaling  # [B, G, A/G, T]
        later = torch.arange(steps) >= lengths[:, None, None, None]  # [B, 1, 1, T]
        shares = scores.masked_fill(later, float("-inf")).softmax(-1)
        seen = (shares.flatten(1, 2) @ states).view(*shares.shape[:3], -1)  # [B, G, A/G, H]
        values = attention.v_proj(seen).unflatten(3, (-1, self.head_size))  # [B, G, A/G, G, D]: its own is wanted
        own = torch.eye(groups.shape[1]).view(groups.shape[1], 1, -1, 1)
        contexts = (values * own).sum(3)  # [B, G, A/G, D]
        attended: Tensor = attention.o_proj(contexts.reshape(rows, 1, -1))
        return attended

    def _heads(self, states: Tensor, kind: str) -> Tensor:
        """Queries or keys of each head: states ``[B, T, H]`` to ``[B, T, heads, D]``."""
        attention = self.layer.self_attn
        heads: Tensor = getattr(attention, f"{kind}_proj")(states).unflatten(2, (-1, self.head_size))
        norm = getattr(attention, f"{kind}_norm", None)
        return heads if norm is None else norm(heads)


def _turned(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Heads ``[B, T, heads, D]`` with the positions' rotation (arXiv:2104.09864), whose halves are pairs."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat((-second, first), dim=-1) * sines


def take_newest(states: Tensor, lengths: Tensor) -> Tensor:
    """States ``[B, T, H]`` at ``lengths - 1``, ``[B, 1, H]``."""
    return states.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, states.shape[2]))


def cut_last_layer(model: nn.Module) -> None:
    """Put a `NewestLayer` in the place of the last layer of a model of `transformers`, if it has one of `SHAPES`."""
    layers: Any = getattr(model, "layers", None)
    config: Any = getattr(model, "config", None)
    if not isinstance(layers, nn.ModuleList) or getattr(config, "model_type", None) not in SHAPES or not len(layers):
        return
    if getattr(layers[-1].self_attn, "sliding_window", getattr(config, "sliding_window", None)) is None:
        layers[-1] = NewestLayer(layers[-1])


def newest_states(model: Any, vectors: Tensor, lengths: Tensor, times: Tensor | None) -> Tensor:
    """Each row's state ``[B, H]`` that predicts what follows, of a recommender whose last layer may be cut.

    vectors ``[B, T, H]``, lengths ``[B]``, times ``[B, T]``.
    """
    cut = next((m for m in model.modules() if isinstance(m, NewestLayer)), None)
    if cut is None:
        return take_newest(model.predictive(vectors, lengths, times), lengths).squeeze(1)
    cut.lengths.append(lengths)
    try:
        states: Tensor = model.predictive(vectors, lengths, times)
    finally:
        cut.lengths.clear()
    torch._check(states.shape[1] == 1)
    return states.squeeze(1)

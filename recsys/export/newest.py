"""The last layer of a decoder at the newest event alone, since no other state of it is read."""

from typing import Any

import torch
from torch import Tensor, nn

SHAPES = ("llama", "qwen3", "mixtral")
"""Architectures of `transformers` whose layers are attention and feed-forward block, each behind a norm."""


class NewestLayer(nn.Module):
    """A decoder layer whose feed-forward block, three quarters of its work, runs at one event a row.

    Args:
        layer: of one of `SHAPES`.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.lengths: list[Tensor] = []  # of the batch under way, which the layers between do not pass on

    def forward(self, hidden_states: Tensor, **options: Any) -> Tensor:
        """hidden_states ``[B, T, H]`` to those of each row's newest event ``[B, 1, H]``."""
        layer: Any = self.layer
        attended = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **options)[0]
        newest = take_newest(hidden_states + attended, self.lengths[0])
        fed: Tensor = newest + layer.mlp(layer.post_attention_layernorm(newest))
        return fed


def take_newest(states: Tensor, lengths: Tensor) -> Tensor:
    """States ``[B, T, H]`` at ``lengths - 1``, ``[B, 1, H]``."""
    return states.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, states.shape[2]))


def cut_last_layer(model: nn.Module) -> None:
    """Put a `NewestLayer` in the place of the last layer of a model of `transformers`, if it has one of `SHAPES`."""
    layers: Any = getattr(model, "layers", None)
    config: Any = getattr(model, "config", None)
    if isinstance(layers, nn.ModuleList) and getattr(config, "model_type", None) in SHAPES and len(layers):
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

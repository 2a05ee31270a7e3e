"""Heads: from hidden states at label positions to losses and predictions."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recsys.losses.base import LossOutput

CatalogueLossFunction = Callable[..., LossOutput]


class CatalogueHead(nn.Module):
    """Scores over the ids of a categorical column: ``hidden W^T + b``.

    The first `reserved` ids are never predicted. Logits are formed by the loss in chunks, at label positions only.

    Args:
        hidden_size: H.
        cardinality: V, reserved ids included.
        reserved: how many first ids name no value.
        loss: called with ``(hidden [P, H], table [V, H], targets [P], bias [V] or None)``.
        bias: whether scores have a bias.
        tied_size: width E of the embedding that serves as output table; None for a table of its own.
        dropout: on the hidden states.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        cardinality: int,
        reserved: int,
        loss: CatalogueLossFunction,
        bias: bool = False,
        tied_size: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.reserved = reserved
        self.loss_function = loss
        self.weight: nn.Parameter | None = None
        self.tied: nn.Linear | None = None
        if tied_size is None:
            self.weight = nn.Parameter(torch.randn(cardinality, hidden_size) * 0.02)
        else:
            self.tied = nn.Linear(tied_size, hidden_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(cardinality)) if bias else None
        self.dropout = nn.Dropout(dropout)

    def table(self, embedding: Tensor | None = None) -> Tensor:
        """``[V, H]`` output table; `embedding` ``[V, E]`` is what a tied head is tied to."""
        if self.weight is not None:
            return self.weight
        assert self.tied is not None and embedding is not None
        projected: Tensor = self.tied(embedding)
        return projected

    def loss(self, hidden: Tensor, targets: Tensor, embedding: Tensor | None = None) -> LossOutput:
        """Loss over hidden states ``[P, H]`` with target ids ``[P]``."""
        return self.loss_function(self.dropout(hidden), self.table(embedding), targets, self.bias)

    def scores(self, hidden: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Logits ``[P, V]`` of hidden states ``[P, H]``; reserved ids are -inf."""
        logits = hidden @ self.table(embedding).T
        if self.bias is not None:
            logits = logits + self.bias
        reserved = torch.arange(logits.shape[-1], device=logits.device) < self.reserved
        return logits.masked_fill(reserved, float("-inf"))


class RealHead(nn.Module):
    """Prediction of a real-valued column: one linear unit.

    Args:
        hidden_size: H.
        loss: called with ``(prediction [P], target [P])``.
    """

    def __init__(self, *, hidden_size: int, loss: CatalogueLossFunction) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        self.loss_function = loss

    def loss(self, hidden: Tensor, targets: Tensor, embedding: Tensor | None = None) -> LossOutput:
        """Loss over hidden states ``[P, H]`` with target values ``[P]``."""
        return self.loss_function(self.scores(hidden), targets)

    def scores(self, hidden: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Predicted values ``[P]`` of hidden states ``[P, H]``."""
        prediction: Tensor = self.linear(hidden).squeeze(-1)
        return prediction

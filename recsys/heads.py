"""Heads: from hidden states at label positions to losses and predictions."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.errors import ConfigError, InputError
from recsys.losses import CrossEntropy, InfoNCE, LossOutput, SampledLoss
from recsys.losses.base import Additions
from recsys.losses.checks import check_targets
from recsys.losses.negatives import Sampler
from recsys.nn.dropout import Dropout
from recsys.nn.repeats import RepeatBias

CatalogueLossFunction = Callable[..., LossOutput]

MIN_TEMPERATURE = 0.01
"""A learned temperature stays above it (Radford et al. 2021): scores of near-equal vectors would run away."""


class CatalogueHead(nn.Module):
    """Scores over the ids of a categorical column: ``hidden W^T + b``, or ``cos(hidden, W) / temperature + b``.

    The first `reserved` ids are never predicted. Logits are formed by the loss in chunks, at label positions only. With
    a sampled loss, training touches only the rows that it needs; in evaluation mode its place is taken by the full
    cross entropy, which depends on no draw and is comparable between losses.

    Args:
        hidden_size: H.
        cardinality: V, reserved ids included.
        reserved: how many first ids name no value.
        loss: called with ``(hidden [P, H], table [V, H], targets [P], bias [V] or None, weights [P] or None)``, or a
            `SampledLoss`.
        bias: whether scores have a bias.
        tied_size: width E of the embedding that serves as output table; None for a table of its own.
        direct: with `tied_size`, the embedding is the table as it is (E = H), not projected.
        dropout: on the hidden states.
        similarity: "cosine" takes hidden states and rows at length 1; give a temperature of about 0.05 with it.
        temperature: scores are divided by it.
        learn_temperature: it is a parameter, which starts at `temperature`.
        sampler: draws the negatives of a sampled loss (`InfoNCE` needs none).
        class_weights: ``[V]``, weights of the loss by target id; they are no part of what is saved.
        repeats: what the items of a history gain, in units of the scores before the temperature; losses and scores
            then want each position's history ``[P, T]`` (`recsys.nn.repeats.histories`).

    Raises:
        ConfigError: a temperature of 0 or less, weights or a sampler over another number of ids, or `repeats` with a
            loss over a sample of them.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        hidden_size: int,
        cardinality: int,
        reserved: int,
        loss: CatalogueLossFunction,
        bias: bool = False,
        tied_size: int | None = None,
        direct: bool = False,
        dropout: float = 0.0,
        similarity: Literal["dot", "cosine"] = "dot",
        temperature: float = 1.0,
        learn_temperature: bool = False,
        sampler: Sampler | None = None,
        class_weights: Tensor | None = None,
        repeats: RepeatBias | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(cardinality, loss, sampler, class_weights)
        if repeats is not None and isinstance(loss, SampledLoss):
            raise ConfigError(
                f"repeat_bias: {type(loss).__name__} sees a sample of the items; use cross_entropy, focal or tversky"
            )
        _check_temperature(temperature, learn_temperature)
        self.reserved = reserved
        self.loss_function = loss
        self.full_loss = CrossEntropy(ignore_rows=reserved) if isinstance(loss, SampledLoss) else None
        self.sampler = sampler
        self.cosine = similarity == "cosine"
        self.temperature = temperature
        self.weight: nn.Parameter | None = None
        self.tied: nn.Module | None = None
        if tied_size is None:
            self.weight = nn.Parameter(torch.randn(cardinality, hidden_size) * 0.02)
        else:
            self.tied = nn.Identity() if direct else nn.Linear(tied_size, hidden_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(cardinality)) if bias else None
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if learn_temperature else None
        self.dropout = Dropout(dropout)
        self.repeats = repeats
        self.register_buffer("class_weights", class_weights, persistent=False)

    def table(self, embedding: Tensor | None = None) -> Tensor:
        """``[V, H]`` output table; `embedding` ``[V, E]`` is what a tied head is tied to."""
        if self.weight is not None:
            return self.weight
        assert self.tied is not None and embedding is not None
        projected: Tensor = self.tied(embedding)
        return projected

    def rows(self, ids: Tensor, embedding: Tensor | None = None) -> Tensor:
        """``[V', H]`` rows of the output table for ids ``[V']``, without the others being computed."""
        if self.weight is not None:
            return functional.embedding(ids, self.weight)
        assert self.tied is not None and embedding is not None
        projected: Tensor = self.tied(functional.embedding(ids, embedding))
        return projected

    def loss(
        self, hidden: Tensor, targets: Tensor, embedding: Tensor | None = None, history: Tensor | None = None
    ) -> LossOutput:
        """Loss over hidden states ``[P, H]`` with target ids ``[P]``; its count is P, or the sum of the weights."""
        hidden = self._scaled(self.dropout(hidden))
        weights = self.label_weights(targets)
        if self.training and isinstance(self.loss_function, SampledLoss):
            return self._sampled_loss(self.loss_function, hidden, targets, embedding, weights)
        full = self.loss_function if self.full_loss is None else self.full_loss
        more = {} if self.repeats is None else {"additions": self.additions(history)}
        output: LossOutput = full(hidden, self._compared(self.table(embedding)), targets, self.bias, weights, **more)
        return output

    def label_weights(self, targets: Tensor) -> Tensor | None:
        """Class weights ``[P]`` of target ids ``[P]``, where the head has any."""
        if self.class_weights is None:
            return None
        check_targets(targets, self.reserved, len(self.class_weights))
        return self.class_weights[targets.to(self.class_weights.device)]

    def scores(self, hidden: Tensor, embedding: Tensor | None = None, history: Tensor | None = None) -> Tensor:
        """Logits ``[P, V]`` of hidden states ``[P, H]``; reserved ids are -inf."""
        logits = self._scaled(hidden) @ self._compared(self.table(embedding)).T
        if self.bias is not None:
            logits = logits + self.bias
        if self.repeats is not None:
            ids, values = self.additions(history)
            logits = logits.scatter_add(1, ids, values.to(logits.dtype))
        reserved = torch.arange(logits.shape[-1], device=logits.device) < self.reserved
        return logits.masked_fill(reserved, float("-inf"))

    def _sampled_loss(
        self, loss: SampledLoss, hidden: Tensor, targets: Tensor, embedding: Tensor | None, weights: Tensor | None
    ) -> LossOutput:
        """Loss over the rows of the targets and of what the sampler draws."""
        num_ids = len(self.weight if self.weight is not None else embedding)  # type: ignore[arg-type]
        check_targets(targets, self.reserved, num_ids)
        drawn = None if self.sampler is None else self.sampler(targets)
        ids = targets if drawn is None else torch.cat([targets, drawn.ids.flatten()])
        row_ids, places = torch.unique(ids, return_inverse=True)  # [V'], [P + K]
        rows = self._compared(self.rows(row_ids, embedding))  # [V', H]
        bias = None if self.bias is None else self.bias[row_ids]
        own, negatives, log_counts = places[: len(targets)], None, None
        if drawn is not None:
            negatives, log_counts = places[len(targets) :].view(drawn.ids.shape), drawn.log_counts
        output: LossOutput = loss(hidden, rows, own, row_ids, negatives, log_counts, bias, weights)
        return output

    def additions(self, history: Tensor | None) -> Additions:
        """What the repeats of histories ``[P, T]`` add to the logits."""
        if self.repeats is None or history is None:
            raise InputError("a head with a repeat bias is given each position's history, and no other head is")
        return Additions(history, self._tempered(self.repeats(history)))

    def _scaled(self, hidden: Tensor) -> Tensor:
        """Hidden states ``[P, H]`` as they meet the table: at length 1 where asked for, divided by the temperature."""
        return self._tempered(functional.normalize(hidden, dim=-1) if self.cosine else hidden)

    def _tempered(self, hidden: Tensor) -> Tensor:
        if self.log_temperature is not None:
            return hidden / self.log_temperature.exp().clamp(min=MIN_TEMPERATURE)
        return hidden if self.temperature == 1 else hidden / self.temperature

    def _compared(self, rows: Tensor) -> Tensor:
        """Rows ``[V', H]`` of the table as they meet the hidden states."""
        return functional.normalize(rows, dim=-1) if self.cosine else rows


def _check_sizes(
    cardinality: int, loss: CatalogueLossFunction, sampler: Sampler | None, class_weights: Tensor | None
) -> None:
    if class_weights is not None and class_weights.shape != (cardinality,):
        raise ConfigError(f"class_weights {list(class_weights.shape)} must be [{cardinality}], one an id")
    if sampler is not None and sampler.num_ids != cardinality:
        raise ConfigError(f"the sampler draws from {sampler.num_ids} ids, the head has {cardinality}")
    if isinstance(loss, SampledLoss) and sampler is None and not isinstance(loss, InfoNCE):
        raise ConfigError(f"{type(loss).__name__} needs a sampler of negatives")


def _check_temperature(temperature: float, learned: bool) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature ({temperature}) must be a finite number above 0")
    if learned and temperature < MIN_TEMPERATURE:
        raise ConfigError(f"temperature ({temperature}) must be at least {MIN_TEMPERATURE} where it is learned")


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


class BinaryHead(RealHead):
    """Prediction of one of two classes: one logit, of the second class.

    Args:
        hidden_size: H.
        loss: called with ``(logit [P], target [P])``, targets 0 or 1.
        first_id: id of the first class; 0 where targets are 0 .. 1 themselves.
    """

    def __init__(self, *, hidden_size: int, loss: CatalogueLossFunction, first_id: int = 0) -> None:
        super().__init__(hidden_size=hidden_size, loss=loss)
        self.first_id = first_id

    def loss(self, hidden: Tensor, targets: Tensor, embedding: Tensor | None = None) -> LossOutput:
        """Loss over hidden states ``[P, H]`` with target ids or values ``[P]``."""
        logits = self.scores(hidden)
        return self.loss_function(logits, (targets - self.first_id).to(logits.dtype))

"""Losses for real-valued targets."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.errors import ConfigError, InputError
from recsys.losses.base import LossOutput


class MeanSquaredError(nn.Module):
    """Squared error ``(prediction - target)^2``; estimates the mean, and outliers weigh much.

    When to use: standardised real targets with few outliers.
    """

    def forward(self, prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> LossOutput:
        """prediction, target: ``[P]`` or ``[P, C]``; weights: ``[P]``; parts of the output: `absolute_error`.

        The count is the number of values (P or P * C), or the sum of their weights. Raises InputError where
        shapes do not fit.
        """
        prediction, target = aligned(prediction, target, weights)
        return weighted_output(functional.mse_loss(prediction, target, reduction="none"), prediction, target, weights)


class Huber(nn.Module):
    """Huber loss: ``e^2 / 2`` for ``|e| <= delta``, else ``delta (|e| - delta / 2)`` (Huber 1964).

    When to use: real targets with heavy tails, such as time gaps. delta: in units of the target.
    """

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(delta) and delta > 0):
            raise ConfigError(f"delta ({delta}) must be a finite number above 0")
        self.delta = delta

    def forward(self, prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> LossOutput:
        """prediction, target: ``[P]`` or ``[P, C]``; weights: ``[P]``; parts of the output: `absolute_error`.

        The count is the number of values (P or P * C), or the sum of their weights. Raises InputError where
        shapes do not fit.
        """
        prediction, target = aligned(prediction, target, weights)
        values = functional.huber_loss(prediction, target, reduction="none", delta=self.delta)
        return weighted_output(values, prediction, target, weights)

    def extra_repr(self) -> str:
        """Settings shown by ``print(module)``."""
        return f"delta={self.delta}"


def aligned(prediction: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both in at least float32; a silent broadcast of [P] against [P, 1] would give a [P, P] error."""
    if prediction.shape != target.shape or prediction.dim() not in (1, 2):
        raise InputError(
            f"prediction {list(prediction.shape)} and target {list(target.shape)} must both be [P] or [P, C]"
        )
    if weights is not None and weights.shape != target.shape[:1]:
        raise InputError(f"weights {list(weights.shape)} must be {list(target.shape[:1])}, one a position")
    exact = torch.promote_types(prediction.dtype, torch.float32)
    return prediction.to(exact), target.to(exact)


def weighted_output(values: Tensor, prediction: Tensor, target: Tensor, weights: Tensor | None) -> LossOutput:
    """Weighted sums of values ``[P]`` or ``[P, C]``, and of the absolute error."""
    absolute = (prediction.detach() - target.detach()).abs()
    spread = torch.ones_like(absolute)
    if weights is not None:
        spread = spread * weights.to(absolute.dtype).reshape(-1, *[1] * (values.dim() - 1))
    return LossOutput((values * spread).sum(), spread.sum(), {"absolute_error": (absolute * spread).sum()})

"""Binary cross entropy of one logit."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.errors import ConfigError, InputError
from recsys.losses.base import LossOutput
from recsys.losses.regression import aligned, weighted_output


class BinaryCrossEntropy(nn.Module):
    """``-(w y log sigmoid(x) + (1 - y) log(1 - sigmoid(x)))``, formed from the logit x.

    When to use: a target of two classes, or a share between 0 and 1. positive_weight: w, above 1 where the second
    class is rare.
    """

    def __init__(self, positive_weight: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(positive_weight) and positive_weight > 0):
            raise ConfigError(f"positive_weight ({positive_weight}) must be a finite number above 0")
        self.positive_weight = positive_weight

    def forward(self, prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> LossOutput:
        """prediction (logits), target (0 .. 1): ``[P]`` or ``[P, C]``; weights: ``[P]``; parts: `absolute_error`.

        The absolute error is that of the probability. Raises InputError where shapes do not fit or a target lies
        outside 0 .. 1.
        """
        prediction, target = aligned(prediction, target, weights)
        outside = (target < 0) | (target > 1) | target.isnan()
        if outside.any():
            raise InputError(f"target {float(target[outside][0]):g} is no class of two; targets must lie in 0 .. 1")
        weight = prediction.new_tensor(self.positive_weight)
        values = functional.binary_cross_entropy_with_logits(prediction, target, reduction="none", pos_weight=weight)
        return weighted_output(values, torch.sigmoid(prediction), target, weights)

    def extra_repr(self) -> str:
        """Settings shown by ``print(module)``."""
        return f"positive_weight={self.positive_weight}"

"""Tversky loss over the whole catalogue, in chunks."""

import math
from typing import Literal

import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.losses.base import DEFAULT_CHUNK_SIZE, CatalogueLoss


class Tversky(CatalogueLoss):
    r"""``(1 - T)^exponent`` with T the soft Tversky index of each position's distribution and its one-hot target.

    Salehi et al. 2017, "Tversky loss function for image segmentation"; Abraham and Khan 2019 for the exponent. With
    probability p on the target, true positives are p, false positives ``sum_{c != t} p_c = 1 - p`` and false
    negatives ``1 - p``, so that

        T = p / (p + alpha (1 - p) + beta (1 - p)).

    When to use: many wrong labels. It is bounded by 1, so that a position that cannot be predicted pulls no more than
    any other (a plain ``alpha + beta = 1`` is the mean absolute error ``1 - p`` of Ghosh et al. 2017); it learns
    slowly from a fresh start over a large catalogue, where p and with it the gradient is small. Larger ``alpha + beta``
    counts errors more while p is small.

    Gradient. With ``u = -log p``, ``s = alpha + beta`` and ``d = p + s (1 - p)``: ``1 - T = s (1 - p) / d``,
    ``d(1 - T)/dp = -s / d^2``, and ``dp/du = -p``, hence ``d(1 - T)/du = s p / d^2``.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        exponent: float = 1.0,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        dtype: Literal["float32", "bfloat16"] = "float32",
        ignore_rows: int = 0,
    ) -> None:
        super().__init__(chunk_size, dtype, ignore_rows)
        if not (math.isfinite(alpha + beta) and alpha >= 0 and beta >= 0 and alpha + beta > 0):
            raise ConfigError(f"alpha ({alpha}) and beta ({beta}) must be at least 0 and not both 0")
        if not (math.isfinite(exponent) and exponent >= 1):
            raise ConfigError(f"exponent ({exponent}) must be a finite number of at least 1")
        self.alpha, self.beta, self.exponent = alpha, beta, exponent

    def curve(self, nll: Tensor) -> tuple[Tensor, Tensor]:
        """Tversky loss and its derivative by `nll`, both ``[n]``."""
        errors = self.alpha + self.beta
        p, rest = torch.exp(-nll), -torch.expm1(-nll)  # rest = 1 - p, exact near p = 1
        whole = p + errors * rest
        miss = errors * rest / whole  # 1 - T
        slope = errors * p / whole.square()
        return miss**self.exponent, self.exponent * miss ** (self.exponent - 1) * slope

    def extra_repr(self) -> str:
        """Settings shown by ``print(module)``."""
        return f"alpha={self.alpha}, beta={self.beta}, exponent={self.exponent}, {super().extra_repr()}"

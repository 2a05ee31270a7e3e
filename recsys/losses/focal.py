"""Focal loss over the whole catalogue, in chunks."""

import math
from typing import Literal

import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.losses.base import DEFAULT_CHUNK_SIZE, CatalogueLoss


class Focal(CatalogueLoss):
    r"""Focal loss ``-(1 - p)^gamma log p`` with p the softmax probability of the target.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 4, here over a softmax. When to use: item
    frequencies are far from even and easy, frequent items would drown the others; gamma 0 is cross entropy.

    Gradient. With ``u = -log p`` the loss is ``L(u) = (1 - p)^gamma u`` where ``p = exp(-u)``, so that
    ``dp/du = -p`` and

        dL/du = (1 - p)^gamma + gamma (1 - p)^(gamma - 1) p u
              = (1 - p)^gamma (1 + gamma p u / (1 - p)).

    With logits z, ``du/dz_c = p_c - [c = target]``, hence ``dL/dz_c = dL/du (p_c - [c = target])``. The
    fraction ``u / (1 - p) = u / -expm1(-u)`` tends to 1 for u -> 0 (p -> 1), so the second form stays finite
    for every gamma >= 0, also below 1; for u -> inf (p -> 0) ``p u`` tends to 0.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        dtype: Literal["float32", "bfloat16"] = "float32",
        ignore_rows: int = 0,
    ) -> None:
        super().__init__(chunk_size, dtype, ignore_rows)
        if not (math.isfinite(gamma) and gamma >= 0):
            raise ConfigError(f"gamma ({gamma}) must be a finite number of at least 0")
        self.gamma = gamma

    def curve(self, nll: Tensor) -> tuple[Tensor, Tensor]:
        """Focal loss and its derivative by `nll`, both ``[n]``."""
        rest = -torch.expm1(-nll)  # 1 - p, exact near p = 1
        focus = rest**self.gamma
        ratio = torch.where(rest > 0, nll / rest, 1.0)
        return focus * nll, focus * (1 + self.gamma * torch.exp(-nll) * ratio)

    def extra_repr(self) -> str:
        """Settings shown by ``print(module)``."""
        return f"gamma={self.gamma}, {super().extra_repr()}"

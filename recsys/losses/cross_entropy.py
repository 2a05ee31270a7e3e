"""Cross entropy over the whole catalogue, in chunks."""

from typing import Literal

import torch
from torch import Tensor

from recsys.losses.base import DEFAULT_CHUNK_SIZE, CatalogueLoss
from recsys.losses.checks import check_fraction


class CrossEntropy(CatalogueLoss):
    """Softmax cross entropy ``-log p_target`` over the catalogue; ``F.cross_entropy`` of the full logits.

    When to use: the first choice for next-item prediction, wherever the catalogue's logits of some dozens
    of positions fit in memory. Arguments as in `CatalogueLoss`, and

    label_smoothing: share of the target's mass spread evenly over the C candidates (Szegedy et al. 2016,
        eq. 8): ``(1 - s) * -log p_target + s / C * sum_c -log p_c``.
    """

    def __init__(
        self,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        label_smoothing: float = 0.0,
        dtype: Literal["float32", "bfloat16"] = "float32",
        ignore_rows: int = 0,
    ) -> None:
        super().__init__(chunk_size, dtype, ignore_rows)
        check_fraction("label_smoothing", label_smoothing)
        self.label_smoothing = label_smoothing

    def curve(self, nll: Tensor) -> tuple[Tensor, Tensor]:
        """The loss is `nll` itself ``[n]``, so its derivative is 1."""
        return nll, torch.ones_like(nll)

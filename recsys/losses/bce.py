"""Binary cross entropy of the target against sampled negatives."""

import torch
from torch import Tensor
from torch.nn import functional

from recsys.losses.sampled import SampledLoss


class BCE(SampledLoss):
    """``-(log sigmoid(s_t) + sum_j log(1 - sigmoid(s_j))) / (k + 1)`` over the k negatives of a position.

    SASRec's loss (Kang and McAuley 2018). When to use: to reproduce models that were trained with it; with few
    negatives its scores are over-confident, and `GBCE` or `SampledSoftmax` rank better.
    """

    beta = 1.0

    def slopes(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and derivatives by the logits: positive ``[n]``, negative ``[n, K]``."""
        share = 1 / (1 + negative.isfinite().sum(1).to(positive.dtype))  # [n]
        value = self.beta * functional.softplus(-positive) + functional.softplus(negative).sum(1)
        by_positive = -self.beta * torch.sigmoid(-positive)
        return value * share, by_positive * share, negative.sigmoid_().mul_(share[:, None])

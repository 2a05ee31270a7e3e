"""Softmax cross entropy over a sample of the catalogue, with logQ correction."""

import torch
from torch import Tensor

from recsys.losses.base import DEFAULT_CHUNK_SIZE
from recsys.losses.sampled import SampledLoss


class SampledSoftmax(SampledLoss):
    """``-log(exp(s_t) / (exp(s_t) + sum_j exp(s_j - log c_j)))`` over sampled negatives j.

    c_j is how often item j is expected among the negatives (logQ: Bengio and Senecal 2008; Yi et al. 2019), so that
    the sum estimates that of all items without bias. The target is there for certain and is not corrected
    (Khrylchenko et al. 2025). With every item as negative once, this is the full cross entropy.

    When to use: a catalogue so large that its full softmax is too slow or too big (from some 100,000 items on a CPU).
    log_q: False leaves the correction out: items that are drawn often are then pushed down.
    """

    def __init__(self, log_q: bool = True, chunk_size: int = DEFAULT_CHUNK_SIZE) -> None:
        super().__init__(chunk_size)
        self.uses_log_counts = log_q

    def slopes(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and derivatives by the logits: positive ``[n]``, negative ``[n, K]``."""
        whole = torch.logaddexp(positive, negative.logsumexp(1))  # [n]
        value = whole - positive
        return value, torch.expm1(-value), negative.sub_(whole[:, None]).exp_()

    def extra_repr(self) -> str:
        """Settings shown by ``print(module)``."""
        return f"log_q={self.uses_log_counts}, {super().extra_repr()}"

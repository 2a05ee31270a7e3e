"""Weights of several tasks that are learned with them."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError


class UncertaintyWeights(nn.Module):
    """``exp(-s_k) f_k L_k + s_k / 2`` of each task k, s_k a learned log-variance.

    Kendall et al. 2018, "Multi-task learning using uncertainty", section 3: f is 1/2 for a squared error and 1 for
    classes. When to use: several heads whose losses differ in size, and no time to tune their weights. A task is given
    less weight the larger its loss is; the total may become negative.

    weights: by task, where they start (``s_k = log(f_k / weight)``). squared: tasks with a squared error.
    """

    def __init__(self, weights: Mapping[str, float], squared: frozenset[str] = frozenset()) -> None:
        super().__init__()
        for name, weight in weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise ConfigError(f"weight of '{name}' ({weight}) must be above 0 to be learned; take the head out")
        self.names = list(weights)
        self.factors = {name: 0.5 if name in squared else 1.0 for name in weights}
        start = [math.log(self.factors[name] / weight) for name, weight in weights.items()]
        self.log_variances = nn.Parameter(torch.tensor(start))

    def forward(self, name: str, mean: Tensor, share: Tensor) -> Tensor:
        """One task's part of the total.

        mean: scalar, the task's loss; share: scalar, the part of the step's labels that this batch holds (1 where a
        step is one batch), so that ``s_k / 2`` counts once a step.
        """
        log_variance = self.log_variances[self.names.index(name)]
        return torch.exp(-log_variance) * self.factors[name] * mean + log_variance / 2 * share

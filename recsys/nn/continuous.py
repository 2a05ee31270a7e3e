"""Encoders of real-valued inputs."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ContinuousMLP(nn.Module):
    """Two-layer perceptron over the real-valued columns of a timestep.

    Args:
        num_columns: C, how many columns are read together.
        size: D, output width.
    """

    def __init__(self, num_columns: int, size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_columns, size)
        self.output = nn.Linear(size, size)

    def forward(self, values: Tensor) -> Tensor:
        """values ``[..., C]`` to ``[..., D]``."""
        output: Tensor = self.output(functional.gelu(self.hidden(values)))
        return output


class SoftOneHot(nn.Module):
    """Soft assignment of a number to learned bins, then their mean embedding (soft one-hot of Transformers4Rec).

    ``softmax(W x + b) E``: one linear map scores K bins, the weights mix K vectors. Several columns are summed.

    Args:
        num_columns: C.
        size: D, output width.
        num_bins: K per column.
    """

    def __init__(self, num_columns: int, size: int, num_bins: int = 16) -> None:
        super().__init__()
        # Bins start spread over the range of a z-score, so that they differ from the first step on.
        centres = torch.linspace(-2.0, 2.0, num_bins).expand(num_columns, num_bins)
        self.slope = nn.Parameter(4.0 * centres.clone())
        self.offset = nn.Parameter(-2.0 * centres.square().clone())
        self.table = nn.Parameter(torch.randn(num_columns, num_bins, size) * 0.02)

    def forward(self, values: Tensor) -> Tensor:
        """values ``[..., C]`` to ``[..., D]``."""
        scores = values.unsqueeze(-1) * self.slope + self.offset  # [..., C, K]
        weights = scores.softmax(-1)
        return torch.einsum("...ck,ckd->...d", weights, self.table)

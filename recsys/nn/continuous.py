"""Encoders of real-valued inputs.

Both end in a linear map, and a linear map follows them, the stream's projection. Given that one as `after`, they
compose the two: one product a timestep instead of two, of the same value.
"""

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

    def forward(self, values: Tensor, after: nn.Linear | None = None) -> Tensor:
        """values ``[..., C]`` to ``[..., D]``, or to what `after` makes of that."""
        hidden = functional.gelu(self.hidden(values))  # [..., D]
        if after is None:
            output: Tensor = self.output(hidden)
            return output
        if not _pays(hidden.shape[:-1].numel(), self.output.out_features):
            both: Tensor = after(self.output(hidden))
            return both
        return functional.linear(hidden, after.weight @ self.output.weight, after(self.output.bias))

    @torch.no_grad()
    def composed(self, after: nn.Linear) -> "ContinuousMLP":
        """An encoder, for inference, that gives what `after` makes of what this one gives."""
        found = ContinuousMLP(self.hidden.in_features, self.hidden.out_features)
        found.hidden = self.hidden
        found.output = nn.Linear(self.output.in_features, after.out_features)
        found.output.weight.copy_(after.weight @ self.output.weight)
        found.output.bias.copy_(after(self.output.bias))
        return found


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

    def forward(self, values: Tensor, after: nn.Linear | None = None) -> Tensor:
        """values ``[..., C]`` to ``[..., D]``, or to what `after` makes of that."""
        scores = values.unsqueeze(-1) * self.slope + self.offset  # [..., C, K]
        weights = scores.softmax(-1)
        if after is None:
            return torch.einsum("...ck,ckd->...d", weights, self.table)
        if not _pays(weights.shape[:-2].numel(), self.table.shape[0] * self.table.shape[1]):
            both: Tensor = after(torch.einsum("...ck,ckd->...d", weights, self.table))
            return both
        return torch.einsum("...ck,ckd->...d", weights, self.table @ after.weight.T) + after.bias

    @torch.no_grad()
    def composed(self, after: nn.Linear) -> "SoftOneHot":
        """An encoder, for inference, that gives what `after` makes of what this one gives."""
        columns, bins, _ = self.table.shape
        found = SoftOneHot(columns, after.out_features, bins)
        found.slope, found.offset = self.slope, self.offset
        # The weights of a column's bins add up to 1, so each of C columns brings in its part of the bias.
        found.table.copy_(self.table @ after.weight.T + after.bias / columns)
        return found


def _pays(timesteps: int, rows: int) -> bool:
    """Whether composing maps costs less than it saves: it takes the product of as many rows as the first map has."""
    return not torch.compiler.is_compiling() and timesteps > rows

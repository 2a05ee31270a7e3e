"""Features of a whole sequence (who, where, which program version)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class ContextFeatures(nn.Module):
    """Columns that say something of a whole sequence, added to each timestep behind the fusion.

    When to use: the column says something of the sequence, not of its events. It takes no part in the fusion, where it
    would compete with what tells the events apart, and costs one look-up.

    Args:
        categorical: cardinality of each column of ids.
        continuous: names of the columns of numbers.
        size: H, width of the backbone.
    """

    def __init__(self, categorical: Mapping[str, int], continuous: list[str], size: int) -> None:
        super().__init__()
        self.continuous = continuous
        # At zero, so that a model with context starts as the one without.
        self.tables = nn.ModuleDict({name: nn.Embedding(n, size, padding_idx=0) for name, n in categorical.items()})
        for table in self.tables.values():
            nn.init.zeros_(table.weight)  # type: ignore[arg-type]
        self.linear = nn.Linear(len(continuous), size, bias=False) if continuous else None

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Columns ``[B]`` or ``[B, T]`` to ``[B, 1, H]``, or ``[B, T, H]`` where one of them is ``[B, T]``."""
        parts = [table(_by_step(inputs[name])) for name, table in self.tables.items()]
        if self.linear is not None:
            numbers = torch.broadcast_tensors(*(_by_step(inputs[name]) for name in self.continuous))
            parts.append(self.linear(torch.stack(numbers, dim=-1)))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


def _by_step(values: Tensor) -> Tensor:
    """``[B]`` as ``[B, 1]``, ``[B, T]`` as it is."""
    return values[:, None] if values.ndim == 1 else values

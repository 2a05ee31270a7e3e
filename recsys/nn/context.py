"""Features of a whole sequence (who, where, which program version)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class ContextFeatures(nn.Module):
    """Columns that are the same at every event of a sequence, added to each timestep behind the fusion.

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
        """Columns ``[B, T]`` to ``[B, T, H]``."""
        parts = [table(inputs[name]) for name, table in self.tables.items()]
        if self.linear is not None:
            parts.append(self.linear(torch.stack([inputs[name] for name in self.continuous], dim=-1)))
        return torch.stack(parts).sum(0)

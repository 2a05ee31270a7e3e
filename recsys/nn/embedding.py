"""Embeddings of ids."""

import torch
from torch import Tensor, nn


def id_embedding(cardinality: int, size: int, std: float = 0.02) -> nn.Embedding:
    """Table ``[cardinality, size]`` drawn from N(0, std^2); the row of padding (id 0) is zero and stays zero."""
    table = nn.Embedding(cardinality, size, padding_idx=0)
    with torch.no_grad():
        nn.init.normal_(table.weight, std=std)
        table.weight[0].zero_()
    return table


class PretrainedTable(nn.Module):
    """Frozen vectors of items (text embeddings), looked up by id.

    Args:
        table: ``[V, E]`` float; rows of reserved ids are zero.
    """

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        if table.ndim != 2:
            raise ValueError(f"a pretrained table has 2 dimensions [items, width], got {list(table.shape)}")
        self.register_buffer("table", table.float())

    def forward(self, ids: Tensor) -> Tensor:
        """ids ``[...]`` to vectors ``[..., E]``."""
        return self.table[ids]

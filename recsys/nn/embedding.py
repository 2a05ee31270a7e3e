"""Embeddings of ids."""

import torch
from torch import Tensor, nn
from torch.nn import functional

PADDING = 0  # id in a bag that stands for nothing


def id_embedding(cardinality: int, size: int, std: float = 0.02) -> nn.Embedding:
    """Table ``[cardinality, size]`` drawn from N(0, std^2); the row of padding (id 0) is zero and stays zero."""
    table = nn.Embedding(cardinality, size, padding_idx=0)
    with torch.no_grad():
        nn.init.normal_(table.weight, std=std)
        table.weight[0].zero_()
    return table


class BagEmbedding(nn.Module):
    """Mean of the vectors of several ids: a multi-valued column, such as an item's genres.

    When to use: a value is a set. The mean does not depend on the order or on the number of ids; one that stands twice
    counts twice. A missing list is one id, that of null, and has a learned vector.

    Args:
        cardinality: V.
        size: E.
    """

    def __init__(self, cardinality: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.table = id_embedding(cardinality, size)

    def of_lists(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Ids ``[K]`` of P bags one after the other, and where each starts ``[P + 1]``, to vectors ``[P, E]``."""
        weight = self.table.weight
        return functional.embedding_bag(
            ids, weight, offsets, mode="mean", include_last_offset=True, padding_idx=PADDING
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Bags ``[..., L]``, filled up with id 0, to vectors ``[..., E]``; an empty bag gives zeros."""
        total = self.table(ids).sum(-2)  # [..., E]; the row of id 0 is zero
        mean: Tensor = total / (ids != PADDING).sum(-1, keepdim=True).clamp(min=1)
        return mean


class ItemBags(nn.Module):
    """A multi-valued attribute of the items, looked up by the item's id.

    Args:
        bags: ``[V, L]`` ids of each item's values, filled up with id 0.
        cardinality: of the values, reserved ids included.
        size: E.
    """

    bags: Tensor

    def __init__(self, bags: Tensor, cardinality: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("bags", bags)
        self.values = BagEmbedding(cardinality, size)

    def forward(self, items: Tensor) -> Tensor:
        """Item ids ``[...]`` to vectors ``[..., E]``."""
        vectors: Tensor = self.values(self.bags[items])
        return vectors


class PretrainedTable(nn.Module):
    """Frozen vectors of items (text embeddings), looked up by id.

    Args:
        table: ``[V, E]`` float; rows of reserved ids are zero.
        size: width of a learned linear map behind the table; None for the vectors as they are.
    """

    table: Tensor

    def __init__(self, table: Tensor, size: int | None = None) -> None:
        super().__init__()
        if table.ndim != 2:
            raise ValueError(f"a pretrained table has 2 dimensions [items, width], got {list(table.shape)}")
        self.size = size or table.shape[1]
        self.register_buffer("table", table.float())
        self.reduce = None if size is None else nn.Linear(table.shape[1], size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids ``[...]`` to vectors ``[..., E]``, or ``[..., size]`` behind the map."""
        vectors = functional.embedding(ids, self.table)
        return vectors if self.reduce is None else self.reduce(vectors)


def start_from_vectors(table: nn.Embedding, vectors: Tensor, reserved: int, std: float = 0.02) -> None:
    """Let an id embedding ``[V, E]`` start from pretrained vectors ``[V, E']`` and be trained from there.

    The vectors are centred and turned to their E directions of largest variance (principal components), which keep
    their distances as far as E numbers can, and scaled to the deviation `std` that embeddings start with. Rows of
    reserved ids, rows without a vector (all zeros), and columns beyond the vectors' rank stay as they were drawn.
    """
    rows = vectors.abs().sum(1) > 0
    rows[:reserved] = False
    if not rows.any():
        return
    given = vectors[rows].double()
    given = given - given.mean(0)
    variances, directions = torch.linalg.eigh(given.T @ given)  # ascending
    known = int((variances > 1e-10 * variances[-1].clamp(min=1e-30)).sum())  # vectors come in single precision
    width = min(known, table.embedding_dim)
    if width == 0:
        return
    found = given @ directions[:, -width:].flip(1)
    found = found * (std / found.square().mean().sqrt())
    with torch.no_grad():
        table.weight[rows.nonzero().squeeze(1), :width] = found.to(table.weight.dtype)

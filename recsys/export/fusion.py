"""The fusion of a graph: what an item's own streams make of each other stands in its row of the table.

M is the number of timesteps, V of items, N of an item's own streams, E of the others, D the width, h the heads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.inputs import SequenceInputs
from recsys.nn.fusion import Fusion, Stream
from recsys.nn.fusion.base import gather
from recsys.nn.fusion.self_attention import SelfAttentionFusion


class ItemFusion(nn.Module):
    """A fusion whose first streams depend on the item alone. `pack` comes first: it finds the parts of a row.

    Args:
        fusion: any.
    """

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion

    def pack(self, streams: Sequence[Tensor]) -> Tensor:
        """Each item's prepared streams, N of ``[V, W]``, as its row of a table ``[V, S]``."""
        self.widths = [stream.shape[1] for stream in streams]
        return torch.cat(list(streams), dim=1)

    def forward(self, rows: Tensor, others: Sequence[Stream]) -> Tensor:
        """rows ``[M, S]`` of the table and the other streams, prepared, to ``[M, D]``."""
        return self.fusion.mix([*(Stream(part) for part in rows.split(self.widths, dim=1)), *others])


class SelfAttentionItems(ItemFusion):
    """`SelfAttentionFusion`, with what the item's streams alone decide in the table.

    A row holds the queries of all streams side by side, then the keys, then the values, so that nothing of it has to
    be put together with the other streams; and the products of the item's own queries and keys.
    """

    fusion: SelfAttentionFusion

    def pack(self, streams: Sequence[Tensor]) -> Tensor:
        """Queries, keys and values ``[V, N D]``, their products ``[V, N h N]``, and ``v . u`` ``[V, h N]``."""
        queries, keys, values, towards = self._parts(torch.stack(list(streams), dim=1))
        own = torch.einsum("vihd,vjhd->vihj", queries, keys)
        packed = [part.flatten(1) for part in (queries, keys, values, own, towards)]
        self.count, self.widths = len(streams), [part.shape[1] for part in packed]
        return torch.cat(packed, dim=1)

    def forward(self, rows: Tensor, others: Sequence[Stream]) -> Tensor:
        """rows ``[M, S]`` of the table and the other streams, prepared, to ``[M, D]``."""
        heads, count = self.fusion.num_heads, self.count
        *parts, products, towards = rows.split(self.widths, dim=1)
        queries, keys, values = (part.view(-1, count, heads, part.shape[1] // (count * heads)) for part in parts)
        products, towards = products.view(-1, count, heads, count), towards.view(-1, heads, count)
        if not others:
            return self._output(_weighted(self.fusion.shares(products, towards), values))
        q, k, v, u = self._parts(torch.stack([gather(stream) for stream in others], dim=1))  # [M, E, h, D/h], [M, h, E]
        beside = torch.cat([products, _products(queries, k)], dim=3)  # [M, N, h, N + E]
        below = torch.cat([_products(q, keys), _products(q, k)], dim=3)  # [M, E, h, N + E]
        shares = self.fusion.shares(torch.cat([beside, below], dim=1), torch.cat([towards, u], dim=2))
        own, more = shares.split([count, len(others)], dim=2)
        return self._output(_weighted(own, values) + _weighted(more, v))

    def _output(self, pooled: Tensor) -> Tensor:
        fused: Tensor = self.fusion.output(pooled.flatten(1))
        return fused

    def _parts(self, prepared: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prepared streams ``[M, N, W]`` to queries, keys and values ``[M, N, h, D/h]``, ``v . u`` ``[M, h, N]``."""
        heads, size = self.fusion.num_heads, len(self.fusion.query)
        rest = prepared.shape[2] - 3 * size - heads
        *parts, towards, _ = prepared.split([size, size, size, heads, rest], dim=2)
        queries, keys, values = (part.unflatten(2, (heads, size // heads)) for part in parts)
        return queries, keys, values, towards.transpose(1, 2)


def _products(queries: Tensor, keys: Tensor) -> Tensor:
    """Of each query with each key: ``[M, I, h, d]`` and ``[M, J, h, d]`` to ``[M, I, h, J]``."""
    return (queries.unsqueeze(2) * keys.unsqueeze(1)).sum(-1).transpose(2, 3)


def _weighted(shares: Tensor, values: Tensor) -> Tensor:
    """shares ``[M, h, N]`` and values ``[M, N, h, d]`` to ``[M, h, d]``."""
    return (shares.transpose(1, 2).unsqueeze(-1) * values).sum(1)


def item_fusion(inputs: SequenceInputs, fusion: Fusion) -> tuple[ItemFusion, Tensor]:
    """How a graph fuses, and the items' table ``[V, S]``."""
    ids = torch.arange(len(inputs.attributes))
    columns = []
    for place, table in enumerate(inputs.tables()[: streams_of_items(inputs)]):
        attribute = 0 < place <= len(inputs.item_attributes)
        columns.append(table[inputs.attributes[ids, place - 1]] if attribute else table)
    exported = (SelfAttentionItems if isinstance(fusion, SelfAttentionFusion) else ItemFusion)(fusion)
    return exported, exported.pack(columns)


def streams_of_items(inputs: SequenceInputs) -> int:
    """How many streams depend on the item alone; they come first."""
    return 1 + len(inputs.item_attributes) + len(inputs.item_bags) + (inputs.pretrained is not None)

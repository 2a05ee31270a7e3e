"""What a graph fuses by parts is what the fusion gives of all streams together."""

import pytest
import torch
from torch import Tensor

from recsys.export.fusion import ItemFusion, SelfAttentionItems
from recsys.nn.fusion import Fusion, Stream
from recsys.nn.fusion.cross_attention import CrossAttentionFusion
from recsys.nn.fusion.gated import GatedFusion
from recsys.nn.fusion.self_attention import SelfAttentionFusion

ITEMS = torch.tensor([3, 0, 3, 6, 1])


@torch.no_grad()
def fused(exported: ItemFusion, fusion: Fusion, own: list[Tensor], others: list[Stream]) -> Tensor:
    """Of the items `ITEMS` and the other streams beside them."""
    table = exported.pack([fusion.prepare(place, values) for place, values in enumerate(own)])
    more = [Stream(fusion.prepare(len(own) + n, s.values), s.index) for n, s in enumerate(others)]
    found: Tensor = exported(table[ITEMS], more)
    return found


def make_streams(size: int, own: int, others: int) -> tuple[list[Tensor], list[Stream]]:
    """Values of 7 items, and streams of which every second one has an index."""
    streams = [Stream(torch.randn(len(ITEMS), size)) for _ in range(others)]
    streams[1::2] = [Stream(torch.randn(2, size), torch.tensor([0, 1, 1, 0, 1])) for _ in streams[1::2]]
    return [torch.randn(7, size) for _ in range(own)], streams


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("own", "others"), [(1, 0), (4, 0), (1, 1), (4, 1), (2, 3)])
@torch.no_grad()
def test_self_attention(heads: int, own: int, others: int) -> None:
    torch.manual_seed(own + 10 * others)
    fusion = SelfAttentionFusion(6, heads)
    for parameter in fusion.parameters():
        parameter.normal_()
    tables, streams = make_streams(6, own, others)
    whole = fusion([*(Stream(values, ITEMS) for values in tables), *streams])
    torch.testing.assert_close(fused(SelfAttentionItems(fusion), fusion, tables, streams), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fusion", [CrossAttentionFusion(6, 2), GatedFusion(6, 5)], ids=["cross", "gated"])
@torch.no_grad()
def test_any_other(fusion: Fusion) -> None:
    """Also where the item's own stream is wider than the others once it is prepared."""
    tables, streams = make_streams(6, 3, 2)
    whole = fusion([*(Stream(values, ITEMS) for values in tables), *streams])
    torch.testing.assert_close(fused(ItemFusion(fusion), fusion, tables, streams), whole, rtol=1e-4, atol=1e-5)

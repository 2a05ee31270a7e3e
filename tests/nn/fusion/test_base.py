"""What all fusions share: streams at each timestep, and tables that are prepared beforehand."""

import pytest
import torch

from recsys.nn.fusion import (
    ConcatenationFusion,
    CrossAttentionFusion,
    GatedFusion,
    ItemProductFusion,
    SelfAttentionFusion,
    Stream,
    SumFusion,
    gather,
)
from tests.nn.fusion.plain import make_streams

FUSIONS = {
    "sum": lambda: SumFusion(),
    "concatenation": lambda: ConcatenationFusion(16, 3),
    "item_product": lambda: ItemProductFusion(16, 3),
    "gated": lambda: GatedFusion(16, 3),
    "cross_attention": lambda: CrossAttentionFusion(16, 2),
    "self_attention": lambda: SelfAttentionFusion(16, 2),
}


def test_gather_takes_each_timesteps_row():
    values = torch.arange(6.0).view(3, 2)
    assert gather(Stream(values, torch.tensor([2, 0]))).tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert gather(Stream(values)) is values


@pytest.mark.parametrize("name", FUSIONS)
def test_prepared_tables_of_all_values_give_the_same(name):
    """A table with more rows than the batch needs, prepared once: what inference uses."""
    torch.manual_seed(0)
    fusion = FUSIONS[name]().double()
    streams = make_streams(distinct=(5, 2, 0))
    prepared = []
    for place, s in enumerate(streams):
        values = s.values if s.index is None else torch.cat((torch.randn(3, 16).double(), s.values))
        prepared.append(Stream(fusion.prepare(place, values), None if s.index is None else s.index + 3))
    torch.testing.assert_close(fusion.mix(prepared), fusion(streams))


@pytest.mark.parametrize("name", FUSIONS)
def test_a_timestep_does_not_depend_on_the_others(name):
    torch.manual_seed(0)
    fusion = FUSIONS[name]().double()
    streams = make_streams(distinct=(5, 2, 0))
    some = [Stream(s.values[4:6]) if s.index is None else Stream(s.values, s.index[4:6]) for s in streams]
    torch.testing.assert_close(fusion(some), fusion(streams)[4:6])

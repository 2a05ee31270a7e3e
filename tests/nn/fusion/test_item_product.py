"""Element-wise product with the item against its formula and against Transformers4Rec's aggregation."""

import math

import pytest
import torch

from recsys.nn.fusion import ItemProductFusion
from tests.nn.fusion.plain import at_each_timestep, make_streams, require_equal


def test_the_item_is_multiplied_by_the_projected_others():
    torch.manual_seed(0)
    module = ItemProductFusion(16, 4).double()
    torch.nn.init.normal_(module.bias)
    require_equal(
        module,
        make_streams(distinct=(5, 2, 0, 3)),
        lambda s: s[:, 0] * ((s[:, 1:].sum(1) / math.sqrt(3)) @ module.weight.T + module.bias),
    )


def test_with_an_identity_it_is_element_wise_sum_item_multi():
    module = ItemProductFusion(16, 2).double()
    with torch.no_grad():
        module.weight.copy_(torch.eye(16))
        module.bias.zero_()
    streams = make_streams(distinct=(5, 0))
    item, other = at_each_timestep(streams).unbind(1)
    torch.testing.assert_close(module(streams), item * other)


def test_the_item_alone_is_refused():
    with pytest.raises(ValueError, match="needs at least 2 streams, the data give 1"):
        ItemProductFusion(16, 1)

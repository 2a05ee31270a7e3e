"""Concatenation against one linear layer over the streams side by side."""

import torch
from torch.nn import functional

from recsys.nn.fusion import ConcatenationFusion
from tests.nn.fusion.plain import make_streams, require_equal


def test_it_is_a_linear_map_of_the_streams_side_by_side():
    torch.manual_seed(0)
    module = ConcatenationFusion(16, 3).double()
    require_equal(
        module,
        make_streams(distinct=(5, 2, 0)),
        lambda s: functional.linear(s.flatten(1), torch.cat(list(module.weight), dim=1), module.bias),
    )

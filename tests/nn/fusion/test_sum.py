"""Sum fusion against its formula."""

import math

import torch

from recsys.nn.fusion import SumFusion
from tests.nn.fusion.plain import make_streams, require_equal


def test_it_is_the_scaled_sum():
    torch.manual_seed(0)
    require_equal(SumFusion(), make_streams(distinct=(5, 2, 0)), lambda s: s.sum(1) / math.sqrt(3))
    require_equal(SumFusion(), make_streams(distinct=(5,)), lambda s: s[:, 0])

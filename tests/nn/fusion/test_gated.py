"""Gated fusion against its formula, stream by stream."""

import torch
from torch import Tensor

from recsys.nn.fusion import GatedFusion
from tests.nn.fusion.plain import make_streams, require_equal


def plain_gates(module: GatedFusion, streams: Tensor) -> Tensor:
    """For streams [M, N, D]: gates from all streams side by side, then the weighted sum of each one's own map."""
    joined = torch.cat(list(module.gate), dim=1)  # [N, N * D]
    gates = torch.softmax(streams.flatten(1) @ joined.T + module.bias, dim=1)
    mapped = torch.stack([streams[:, k] @ module.value[k].T for k in range(streams.shape[1])], dim=1)
    return torch.einsum("mn,mnd->md", gates, mapped)


def test_it_equals_the_plain_formula_in_value_and_gradient():
    torch.manual_seed(0)
    for distinct in ((5, 2, 0), (4,)):
        module = GatedFusion(16, len(distinct)).double()
        torch.nn.init.normal_(module.bias)
        require_equal(module, make_streams(distinct=distinct), lambda s, m=module: plain_gates(m, s))

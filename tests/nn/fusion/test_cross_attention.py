"""Cross-attention fusion against PyTorch's own multi-head attention."""

import pytest
import torch
from torch import Tensor, nn

from recsys.nn.fusion import CrossAttentionFusion
from tests.nn.fusion.plain import make_streams, require_equal


@pytest.mark.parametrize(("distinct", "heads"), [((5, 3, 0), 4), ((0, 2), 2), ((4,), 1)])
def test_it_is_multi_head_attention_with_the_item_as_query(distinct, heads):
    torch.manual_seed(0)
    module = CrossAttentionFusion(16, heads).double()
    reference = nn.MultiheadAttention(16, heads, batch_first=True).double()
    reference.in_proj_weight, reference.in_proj_bias = module.qkv.weight, module.qkv.bias
    reference.out_proj.weight, reference.out_proj.bias = module.output.weight, module.output.bias

    def plain(streams: Tensor) -> Tensor:
        return reference(streams[:, :1], streams, streams)[0][:, 0]

    require_equal(module, make_streams(distinct=distinct), plain)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"num_heads \(3\) must divide size \(16\)"):
        CrossAttentionFusion(16, 3)

"""Fusion against the document's formulas, computed the plain way: every stream of every timestep, nothing shared."""

import math

import pytest
import torch
from torch import Tensor

from recsys.nn.fusion import SelfAttentionFusion, SumFusion, attention_pool


def plain_self_attention(module: SelfAttentionFusion, streams: Tensor) -> Tensor:
    """Sections 5.3 and 5.4 of the document, word by word, for streams [M, N, D]."""
    size, heads = streams.shape[-1], module.num_heads
    wq, wk, wv = module.qkv.weight.split(size)
    bq, bk, bv = module.qkv.bias.split(size)
    fused = []
    for timestep in streams:
        q, k, v = timestep @ wq.T + bq, timestep @ wk.T + bk, timestep @ wv.T + bv
        contexts = []
        for h in range(heads):
            part = slice(h * size // heads, (h + 1) * size // heads)
            weights = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(size // heads), dim=-1)
            contexts.append(weights @ v[:, part])
        attended = torch.cat(contexts, dim=-1) @ module.output.weight.T + module.output.bias  # F~ [N, D]
        alpha = torch.softmax(attended @ module.query / math.sqrt(size), dim=0)
        fused.append(alpha @ attended)
    return torch.stack(fused)


@pytest.mark.parametrize(("num_item", "num_event", "heads"), [(3, 1, 4), (1, 0, 2), (4, 2, 1)])
def test_self_attention_equals_the_plain_formula_in_value_and_gradient(num_item, num_event, heads):
    torch.manual_seed(0)
    module = SelfAttentionFusion(16, heads).double()
    items = torch.randn(5, num_item, 16, dtype=torch.float64, requires_grad=True)
    events = torch.randn(9, num_event, 16, dtype=torch.float64, requires_grad=True) if num_event else None
    index = torch.randint(0, 5, (9,))
    per_timestep = items[index] if events is None else torch.cat((items[index], events), dim=1)
    probe = torch.randn(9, 16, dtype=torch.float64)
    wanted = [p for p in (items, events, *module.parameters()) if p is not None]
    fast, slow = module(items, index, events), plain_self_attention(module, per_timestep)
    torch.testing.assert_close(fast, slow)
    fast_gradients = torch.autograd.grad((fast * probe).sum(), wanted)
    slow_gradients = torch.autograd.grad((slow * probe).sum(), wanted)
    for ours, theirs in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_sum_fusion_is_the_scaled_sum():
    torch.manual_seed(0)
    items, events, index = torch.randn(4, 2, 8), torch.randn(6, 1, 8), torch.randint(0, 4, (6,))
    expected = (items[index].sum(1) + events[:, 0]) / math.sqrt(3)
    torch.testing.assert_close(SumFusion()(items, index, events), expected)
    torch.testing.assert_close(SumFusion()(items, index), items[index].sum(1) / math.sqrt(2))


def test_pooling_weights_each_stream_by_its_softmax():
    streams, query = torch.randn(3, 4, 8), torch.randn(8)
    weights = torch.softmax((streams * query).sum(-1) / math.sqrt(8), dim=1)
    torch.testing.assert_close(attention_pool(streams, query), (weights[..., None] * streams).sum(1))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"num_heads \(7\) must divide size \(16\)"):
        SelfAttentionFusion(16, 7)

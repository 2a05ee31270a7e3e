"""Attention with dropout, block by block, against softmax over all pairs with the same masks."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from recsys.nn import attention
from recsys.nn.attention import dropped_attention
from recsys.nn.dropout import draw_bits, keep_mask, keep_scale


def masks(count: int, edges: list[int], p: float) -> Tensor:
    """The masks ``[N, T, T]`` that the next call will draw for blocks between these edges; the rest is 0."""
    kept = torch.zeros(count, edges[-1], edges[-1], dtype=torch.float64)
    for begin, end in pairwise(edges):
        bits = draw_bits(torch.Size([count, end - begin, end]))
        kept[:, begin:end, :end] = keep_mask(bits, p, torch.float64)
    return kept


def plain(query: Tensor, key: Tensor, value: Tensor, kept: Tensor, p: float) -> Tensor:
    scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[2])  # [N, T, T]
    future = torch.ones(query.shape[1], query.shape[1]).triu(1).bool()
    return (scores.masked_fill(future, -math.inf).softmax(-1) * kept * keep_scale(p)) @ value


@pytest.mark.parametrize(("block", "edges"), [(64, [0, 1]), (64, [0, 7]), (4, [0, 3, 7]), (3, [0, 2, 5, 8, 11])])
def test_equals_softmax_over_all_pairs(block, edges, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)
    torch.manual_seed(0)
    inputs = [torch.randn(5, edges[-1], 4, dtype=torch.float64).requires_grad_() for _ in range(3)]
    above = torch.randn(5, edges[-1], 4, dtype=torch.float64)
    torch.manual_seed(1)
    kept = masks(5, edges, 0.3)
    torch.manual_seed(1)
    found = dropped_attention(*inputs, 0.3)
    expected = plain(*inputs, kept, 0.3)
    torch.testing.assert_close(found, expected)
    pairs = zip(torch.autograd.grad(found, inputs, above), torch.autograd.grad(expected, inputs, above), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)


def test_its_mean_is_attention_without_dropout():
    """Over many draws; 5 standard errors."""
    torch.manual_seed(2)
    query, key, value = torch.randn(3, 1, 6, 4, dtype=torch.float64)
    draws = dropped_attention(*(x.expand(20_000, 6, 4) for x in (query, key, value)), 0.4)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)[0]
    assert ((draws.mean(0) - expected).abs() <= 5 * draws.std(0) / math.sqrt(20_000)).all()


def test_strided_inputs_and_bfloat16():
    torch.manual_seed(3)
    both = torch.randn(3, 9, 8)
    key, value = both.chunk(2, -1)
    query = torch.randn(9, 3, 4).transpose(0, 1)
    found = []
    for inputs in ((query, key, value), (query.contiguous(), key.contiguous(), value.contiguous())):
        torch.manual_seed(4)
        found.append(dropped_attention(*inputs, 0.2))
    torch.testing.assert_close(*found)
    torch.manual_seed(4)
    low = dropped_attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), 0.2)
    torch.testing.assert_close(low.float(), found[0], rtol=0.05, atol=0.05)
    torch.manual_seed(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the caller's types stand
        assert torch.equal(dropped_attention(query, key, value, 0.2), found[0])


@pytest.mark.parametrize(("events", "share"), [(64, 1.0), (256, 5 / 8)])
def test_weights_and_bits_are_kept_up_to_each_blocks_end(events: int, share: float) -> None:
    """What docs/models.md says of the memory: all pairs in one block, about half of them in many."""
    inputs = [torch.randn(2, events, 8, requires_grad=True) for _ in range(3)]
    out = dropped_attention(*inputs, 0.1)
    kept = [t for t in out.grad_fn.saved_tensors if t.shape[-1] != 8]
    for dtype in (torch.float32, torch.int16):
        assert sum(t.numel() for t in kept if t.dtype == dtype) == 2 * events**2 * share

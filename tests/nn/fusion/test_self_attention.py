"""Self-attention fusion against the document's formulas: every stream of every timestep, nothing shared."""

import math

import pytest
import torch
from torch import Tensor

from recsys.nn.fusion import SelfAttentionFusion, Stream, chunks
from tests.nn.fusion.plain import make_streams, require_equal


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


@pytest.mark.parametrize(("distinct", "heads"), [((5, 3, 5, 0), 4), ((5,), 2), ((5, 0, 2, 9, 0), 1)])
def test_it_equals_the_plain_formula_in_value_and_gradient(distinct, heads):
    torch.manual_seed(0)
    module = SelfAttentionFusion(16, heads).double()
    torch.nn.init.normal_(module.output.bias)
    require_equal(module, make_streams(distinct=distinct), lambda s: plain_self_attention(module, s))


def test_projections_run_once_a_distinct_value_and_the_output_once_a_timestep():
    """The two savings: rows that went through W_q, W_k, W_v and through W_o."""
    module = SelfAttentionFusion(16, 2).double()
    rows, prepare = [], module.prepare
    module.prepare = lambda place, values: rows.append(len(values)) or prepare(place, values)
    module.output.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    module(make_streams(timesteps=40, distinct=(5, 2, 0)))
    assert rows == [5, 2, 40, 40]


@pytest.mark.parametrize("whole", [0, 2**26])
def test_half_precision_streams_are_mixed_in_single_precision(monkeypatch, whole):
    monkeypatch.setattr(chunks, "WHOLE_BYTES", whole)
    torch.manual_seed(0)
    module = SelfAttentionFusion(16, 2)
    streams = [Stream(s.values.detach().float(), s.index) for s in make_streams()]
    exact = module(streams)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = module(streams)
    rough.float().sum().backward()
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"num_heads \(7\) must divide size \(16\)"):
        SelfAttentionFusion(16, 7)

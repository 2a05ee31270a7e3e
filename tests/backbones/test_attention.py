"""The shared causal attention: one head by merged products, dropout on a CPU."""

import math

import pytest
import torch
from torch import Tensor, nn

from recsys.backbones.attention import CausalAttention


def plain(module: CausalAttention, queries: Tensor, keys: Tensor) -> Tensor:
    """By the four linear maps and all pairs; queries and keys ``[B, T, H]``."""
    batch, steps, size = queries.shape
    heads = module.num_heads
    k, v = module.key_value(keys).chunk(2, -1)
    q, k, v = (x.view(batch, steps, heads, -1).transpose(1, 2) for x in (module.query(queries), k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(size // heads)
    future = torch.ones(steps, steps).triu(1).bool()
    mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ v
    return module.output(mixed.transpose(1, 2).reshape(batch, steps, size))


@pytest.mark.parametrize("heads", [1, 2])
def test_equals_the_four_maps_and_all_pairs(heads):
    torch.manual_seed(0)
    module = CausalAttention(6, heads, 0.0).double()
    queries, keys = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    inputs = [queries.requires_grad_(), keys.requires_grad_(), *module.parameters()]
    above = torch.randn(3, 7, 6, dtype=torch.float64)
    found, expected = module(queries, keys), plain(module, queries, keys)
    torch.testing.assert_close(found, expected)
    pairs = zip(torch.autograd.grad(found, inputs, above), torch.autograd.grad(expected, inputs, above), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)


class Doubled(nn.Linear):
    """What an adapter is to the module around it."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("place", ["query", "key_value", "output"])
def test_an_adapter_of_the_one_head_is_heard(place):
    torch.manual_seed(1)
    module = CausalAttention(6, 1, 0.0)
    x = torch.randn(2, 5, 6)
    before = module(x, x)
    size = module.get_submodule(place).out_features
    setattr(module, place, Doubled(6, size))
    torch.testing.assert_close(module(x, x), plain(module, x, x))
    module = CausalAttention(6, 1, 0.0)
    module.get_submodule(place).register_forward_hook(lambda _m, _i, out: 2 * out)
    torch.testing.assert_close(module(x, x), plain(module, x, x))
    assert before.shape == x.shape


@pytest.mark.parametrize("heads", [1, 2])
def test_dropout_is_on_the_weights_in_training_only(heads):
    """Mean over draws equals evaluation; a first event sees itself alone, so its weight is kept or not."""
    torch.manual_seed(2)
    module = CausalAttention(4, heads, 0.25).double()
    x = torch.randn(1, 3, 4, dtype=torch.float64).expand(20_000, 3, 4)
    draws = module(x, x).detach()
    module.eval()
    expected = plain(module, x[:1], x[:1])[0]
    torch.testing.assert_close(module(x[:1], x[:1])[0], expected)
    assert ((draws.mean(0) - expected).abs() <= 5 * draws.std(0) / math.sqrt(20_000)).all()
    assert len(draws[:, 0].unique(dim=0)) == 2**heads

"""Binary cross entropy against the formula written out."""

import pytest
import torch

from recsys.errors import ConfigError, InputError
from recsys.losses import BinaryCrossEntropy


@pytest.mark.parametrize("positive", [1.0, 3.5])
def test_equals_the_formula(positive):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(9, generator=g, dtype=torch.float64).requires_grad_()
    target = torch.tensor([0.0, 1, 1, 0, 0.25, 1, 0, 0, 1], dtype=torch.float64)
    weights = torch.rand(9, generator=g, dtype=torch.float64)
    got = BinaryCrossEntropy(positive)(logits, target, weights)
    p = torch.sigmoid(logits)
    want = -(weights * (positive * target * p.log() + (1 - target) * (1 - p).log())).sum()
    torch.testing.assert_close(got.sum, want)
    torch.testing.assert_close(got.count, weights.sum())
    torch.testing.assert_close(got.parts["absolute_error"], (weights * (p - target).abs()).sum().detach())
    torch.testing.assert_close(torch.autograd.grad(got.sum, logits), torch.autograd.grad(want, logits))


def test_huge_logits_stay_finite():
    logits = torch.tensor([1e4, -1e4], requires_grad=True)
    out = BinaryCrossEntropy()(logits, torch.tensor([0.0, 1.0]))
    out.sum.backward()
    assert out.sum.item() == 2e4 and logits.grad.tolist() == [1.0, -1.0]


def test_bad_input():
    for bad in (2.0, -1.0, float("nan")):
        with pytest.raises(InputError, match=r"no class of two; targets must lie in 0 .. 1"):
            BinaryCrossEntropy()(torch.zeros(2), torch.tensor([1.0, bad]))
    with pytest.raises(InputError, match="prediction"):
        BinaryCrossEntropy()(torch.zeros(3), torch.zeros(3, 1))
    for weight in (0.0, float("inf")):
        with pytest.raises(ConfigError, match="positive_weight"):
            BinaryCrossEntropy(weight)

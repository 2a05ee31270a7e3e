"""Chunked focal loss against the textbook formula on full logits, and its limits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.losses import CrossEntropy, Focal, base


def textbook(hidden, table, targets, bias, weights, gamma, skip):
    """-(1 - p)^gamma log p, differentiated by autograd."""
    logits = (hidden @ table.T + bias)[:, skip:]
    p = torch.softmax(logits, dim=1)[torch.arange(len(targets)), targets - skip]
    return (weights * -((1 - p) ** gamma) * torch.log(p)).sum()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    positions=st.integers(1, 25),
    items=st.integers(5, 30),
    rows=st.integers(1, 7),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.7]),
    skip=st.integers(0, 3),
)
def test_equals_textbook(seed, positions, items, rows, gamma, skip):
    g = torch.Generator().manual_seed(seed)
    shapes = ((positions, 4), (items, 4), (items,))
    inputs = [torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes]
    targets = torch.randint(skip, items, (positions,), generator=g)
    weights = torch.rand(positions, generator=g, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "MIN_CHUNK_ROWS", 1)
        loss = Focal(gamma, chunk_size=rows * (items - skip), ignore_rows=skip)
        got = loss(inputs[0], inputs[1], targets, inputs[2], weights).sum
    want = textbook(inputs[0], inputs[1], targets, inputs[2], weights, gamma, skip)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
    for a, b in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(want, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_gamma_zero_is_cross_entropy():
    hidden, table = torch.randn(30, 4, requires_grad=True), torch.randn(11, 4, requires_grad=True)
    targets = torch.randint(0, 11, (30,))
    focal, plain = Focal(0.0)(hidden, table, targets), CrossEntropy()(hidden, table, targets)
    assert focal.sum.item() == plain.sum.item() == focal.parts["nll"].item()
    inputs = (hidden, table)
    for a, b in zip(torch.autograd.grad(focal.sum, inputs), torch.autograd.grad(plain.sum, inputs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("margin", [0.0, 1e-4, 20.0, 100.0, 1e4, -20.0, -100.0, -1e4])
def test_limits_are_finite_and_right_in_float32(gamma, margin):
    """Two items whose logits differ by `margin`: p = sigmoid(margin), from 0 to 1."""
    hidden = torch.tensor([[float(margin)]], requires_grad=True)
    table = torch.tensor([[1.0], [0.0]], requires_grad=True)
    out = Focal(gamma)(hidden, table, torch.tensor([0]))
    out.sum.backward()
    nll = margin * -1.0 if margin < -500 else math.log1p(math.exp(-margin))
    rest = 1 / (1 + math.exp(min(margin, 700.0)))  # 1 - p
    p = 1 / (1 + math.exp(min(-margin, 700.0)))
    ratio = nll / rest if rest > 1e-300 else 1.0
    slope = -rest * (rest**gamma * (1 + gamma * p * ratio))  # d loss / d margin
    # 1 - p is formed from -log p, which float32 knows to about 1e-7 near p = 1.
    assert out.sum.item() == pytest.approx(rest**gamma * nll, rel=1e-5, abs=2e-7)
    assert hidden.grad.item() == pytest.approx(slope, rel=1e-5, abs=2e-7)
    assert torch.isfinite(table.grad).all()


def test_curve_slope_is_the_derivative():
    nll = torch.tensor([0.0, 1e-300, 1e-9, 0.1, 1.0, 30.0, 800.0], dtype=torch.float64, requires_grad=True)
    for gamma in (0.5, 1.0, 2.0, 3.0):
        value, slope = Focal(gamma).curve(nll)
        assert torch.isfinite(value).all() and torch.isfinite(slope).all()
        want = torch.autograd.grad((1 - torch.exp(-nll[2:])).pow(gamma).mul(nll[2:]).sum(), nll)[0]
        torch.testing.assert_close(slope[2:].detach(), want[2:], rtol=1e-6, atol=1e-9)


def test_bfloat16_is_near():
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 16, generator=g, requires_grad=True)
    table = torch.randn(40, 16, generator=g, requires_grad=True)
    targets = torch.randint(0, 40, (300,), generator=g)
    low, high = Focal(dtype="bfloat16")(hidden, table, targets).sum, Focal()(hidden, table, targets).sum
    torch.testing.assert_close(low, high, rtol=5e-3, atol=0.0)
    for a, b in zip(torch.autograd.grad(low, (hidden, table)), torch.autograd.grad(high, (hidden, table)), strict=True):
        assert (a - b).norm() < 0.02 * b.norm()


@pytest.mark.parametrize("gamma", [-1.0, float("nan"), float("inf")])
def test_bad_gamma(gamma):
    with pytest.raises(ConfigError, match="gamma"):
        Focal(gamma)

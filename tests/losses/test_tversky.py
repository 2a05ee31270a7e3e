"""Tversky loss against its set formula on full probabilities, and its limits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.losses import Tversky, base


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    positions=st.integers(1, 12),
    items=st.integers(5, 20),
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
    beta=st.sampled_from([0.5, 0.7, 2.0]),
    exponent=st.sampled_from([1.0, 1.3, 2.0]),
    skip=st.integers(0, 3),
)
def test_equals_the_set_formula(seed, positions, items, alpha, beta, exponent, skip):
    g = torch.Generator().manual_seed(seed)
    shapes = ((positions, 4), (items, 4), (items,))
    inputs = [torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes]
    targets = torch.randint(skip, items, (positions,), generator=g)
    weights = torch.rand(positions, generator=g, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "MIN_CHUNK_ROWS", 2)
        loss = Tversky(alpha, beta, exponent, chunk_size=1, ignore_rows=skip)
        got = loss(inputs[0], inputs[1], targets, inputs[2], weights)
    predicted = torch.softmax((inputs[0] @ inputs[1].T + inputs[2])[:, skip:], 1)
    truth = torch.nn.functional.one_hot(targets - skip, items - skip).double()
    both = (predicted * truth).sum(1)
    false_positive, false_negative = (predicted * (1 - truth)).sum(1), ((1 - predicted) * truth).sum(1)
    index = both / (both + alpha * false_positive + beta * false_negative)
    want = (weights * (1 - index) ** exponent).sum()
    torch.testing.assert_close(got.sum, want, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(got.count, weights.sum())
    for a, b in zip(torch.autograd.grad(got.sum, inputs), torch.autograd.grad(want, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("margin", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_limits_are_finite_in_float32(margin):
    hidden = torch.tensor([[margin]], requires_grad=True)
    out = Tversky(0.3, 0.9)(hidden, torch.tensor([[1.0], [0.0]]), torch.tensor([0]))
    out.sum.backward()
    assert out.sum.item() == pytest.approx(1.0 if margin < 0 else 0.0 if margin > 0 else 1.2 / 2.2, abs=1e-6)
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-0.1, 1.0), "alpha"), ((0.0, 0.0), "not both 0"), ((1.0, float("inf")), "beta"), ((0.5, 0.5, 0.5), "exponent")],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Tversky(*arguments)

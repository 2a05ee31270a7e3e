"""Regression losses against their formulas, written out."""

import pytest
import torch

from recsys.errors import ConfigError, InputError
from recsys.losses import Huber, MeanSquaredError


def test_mse_by_hand():
    prediction = torch.tensor([1.0, 2.0, -1.0], requires_grad=True)
    out = MeanSquaredError()(prediction, torch.tensor([0.0, 4.0, -1.0]))
    out.sum.backward()
    assert out.sum.item() == 5.0 and out.count.item() == 3.0
    assert out.parts["absolute_error"].item() == 3.0
    assert prediction.grad.tolist() == [2.0, -4.0, 0.0]


def test_huber_by_hand():
    prediction = torch.tensor([0.5, 3.0, -3.0], requires_grad=True)
    out = Huber(delta=2.0)(prediction, torch.zeros(3))
    out.sum.backward()
    assert out.sum.item() == pytest.approx(0.125 + 2 * (3 - 1) + 2 * (3 - 1))
    assert prediction.grad.tolist() == [0.5, 2.0, -2.0]


@pytest.mark.parametrize("loss", [MeanSquaredError(), Huber(0.7)])
def test_weights_over_columns(loss):
    g = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(6, 3, generator=g), torch.randn(6, 3, generator=g)
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0, 3.0])
    out = loss(prediction, target, weights)
    rows = [loss(prediction[i], target[i]) for i in range(6)]
    assert out.count.item() == pytest.approx(7.5 * 3)
    assert out.sum.item() == pytest.approx(sum(w * r.sum for w, r in zip(weights, rows, strict=True)).item())
    absolute = sum(w * r.parts["absolute_error"] for w, r in zip(weights, rows, strict=True)).item()
    assert out.parts["absolute_error"].item() == pytest.approx(absolute)


@pytest.mark.parametrize("loss", [MeanSquaredError(), Huber()])
def test_no_positions_and_half_precision(loss):
    empty = torch.zeros(0, requires_grad=True)
    out = loss(empty, torch.zeros(0))
    out.sum.backward()
    assert out.sum.item() == 0 and out.count.item() == 0 and empty.grad.shape == (0,)
    half = loss(torch.full((10_000,), 3.0, dtype=torch.float16), torch.zeros(10_000, dtype=torch.float16))
    assert half.sum.dtype == torch.float32 and torch.isfinite(half.sum)  # above float16's 65,504 for MSE


@pytest.mark.parametrize("loss", [MeanSquaredError(), Huber()])
def test_shapes_are_checked(loss):
    with pytest.raises(InputError, match="prediction"):
        loss(torch.zeros(3), torch.zeros(3, 1))
    with pytest.raises(InputError, match="weights"):
        loss(torch.zeros(3), torch.zeros(3), torch.zeros(2))


@pytest.mark.parametrize("delta", [0.0, -1.0, float("inf")])
def test_bad_delta(delta):
    with pytest.raises(ConfigError, match="delta"):
        Huber(delta)

"""Dropout by 16 random bits: rates, scales and gradients against their definitions and PyTorch's own."""

import math

import pytest
import torch
from torch import nn

from recsys.nn.dropout import LEVELS, Dropout, draw_bits, dropout, is_cheap, keep_mask, keep_scale


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.9])
def test_rate_of_every_place_and_mean(p):
    """Four elements share a 64-bit draw, so each of the four places is counted for itself."""
    torch.manual_seed(0)
    count = 400_000
    kept = dropout(torch.ones(count), p)
    share = round(p * LEVELS) / LEVELS
    assert abs(share - p) <= 2**-17
    for place in range(4):
        dropped = (kept[place::4] == 0).double().mean().item()
        assert abs(dropped - share) < 5 * math.sqrt(share * (1 - share) / (count / 4))
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / (1 - share)])
    assert kept.double().mean().item() == pytest.approx(1.0, abs=5 * math.sqrt(share / (1 - share) / count))


def test_every_bit_is_drawn_and_places_do_not_depend_on_each_other():
    torch.manual_seed(1)
    bits = draw_bits(torch.Size([100_000, 4])).to(torch.int32) & 0xFFFF
    for bit in range(16):
        shares = (bits >> bit & 1).double().mean(0)
        assert ((shares - 0.5).abs() < 5 * 0.5 / math.sqrt(100_000)).all()
    mixed = torch.corrcoef(bits.double().T) - torch.eye(4)
    assert mixed.abs().max() < 5 / math.sqrt(100_000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (3, 5, 2), (1,), (0, 4)])
def test_gradient_passes_where_values_did(dtype, shape):
    torch.manual_seed(2)
    x = torch.randn(shape, dtype=dtype).requires_grad_()
    out = dropout(x, 0.4)
    above = torch.randn(shape, dtype=dtype)
    out.backward(above)
    kept = out != 0
    scale = keep_scale(0.4)
    near = {"rtol": 1e-2 if dtype is torch.bfloat16 else 1e-6, "atol": 0.0}
    torch.testing.assert_close(out, torch.where(kept, x * scale, 0.0).detach(), **near)
    torch.testing.assert_close(x.grad, torch.where(kept, above * scale, 0.0), **near)


def test_sum_with_a_residual_is_the_two_steps_in_one():
    x, residual = torch.randn(6, 9).double().requires_grad_(), torch.randn(6, 9).double().requires_grad_()
    above = torch.randn(6, 9).double()
    layer = Dropout(0.3)
    found = []
    for together in (True, False):
        torch.manual_seed(3)
        out = layer.add(residual, x) if together else residual + layer(x)
        found.append((out, *torch.autograd.grad(out, (x, residual), above)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    assert (found[0][1] == 0).any()


def test_a_seed_gives_the_same_masks_again():
    torch.manual_seed(4)
    first = dropout(torch.ones(50), 0.5)
    assert not torch.equal(first, dropout(torch.ones(50), 0.5))
    torch.manual_seed(4)
    assert torch.equal(first, dropout(torch.ones(50), 0.5))


def test_bits_below_the_rate_are_dropped():
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)  # every value once
    for p in (0.2, 0.5, 1 / LEVELS):
        assert (keep_mask(bits, p, torch.float32) == 0).sum() == round(p * LEVELS)
    assert keep_mask(bits, 0.2, torch.bfloat16).sum(dtype=torch.float64) == LEVELS - 13107


def test_evaluation_and_the_ends_are_pytorchs():
    x = torch.randn(40)
    layer = Dropout(0.5)
    layer.eval()
    assert layer(x) is x and torch.equal(layer.add(x, x), x + x)
    for p in (0.0, 1.0, 1e-9):
        assert not is_cheap(x, p)
        assert torch.equal(Dropout(p)(x), x * (p < 1))
    assert not is_cheap(x.to("meta"), 0.5)
    assert repr(layer) == "Dropout(p=0.5)"
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match="must be a probability"):
            Dropout(wrong)


def test_it_compiles_to_pytorchs_own(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    x = torch.ones(64)
    torch.manual_seed(5)
    found = Dropout(0.25)(x)
    torch.manual_seed(5)
    assert torch.equal(found, nn.Dropout(0.25)(x))

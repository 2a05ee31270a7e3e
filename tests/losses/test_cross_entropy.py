"""Chunked cross entropy against `F.cross_entropy` on the full logits, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from recsys.errors import ConfigError, InputError
from recsys.losses import CrossEntropy, base


def leaves(seed, positions, items, width, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """hidden [P, D], table [V, D], bias [V]."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((positions, width), (items, width), (items,))
    hidden, table, bias = (torch.randn(s, generator=g, dtype=dtype).requires_grad_() for s in shapes)
    return hidden, table, bias


def plain(hidden, table, targets, bias, weights, smoothing=0.0, skip=0) -> Tensor:
    logits = hidden @ table.T
    logits = (logits if bias is None else logits + bias)[:, skip:]
    each = functional.cross_entropy(logits, targets - skip, reduction="none", label_smoothing=smoothing)
    return (each if weights is None else each * weights).sum()


def gradients(total, *inputs) -> list[Tensor]:
    return [g.clone() for g in torch.autograd.grad(total, inputs)]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    positions=st.integers(1, 30),
    items=st.integers(4, 40),
    rows=st.integers(1, 9),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    skip=st.integers(0, 3),
    weighted=st.booleans(),
    biased=st.booleans(),
)
def test_equals_full_cross_entropy(seed, positions, items, rows, smoothing, skip, weighted, biased):
    hidden, table, bias = leaves(seed, positions, items, 5)
    g = torch.Generator().manual_seed(seed + 1)
    targets = torch.randint(skip, items, (positions,), generator=g)
    weights = torch.rand(positions, generator=g, dtype=torch.float64) if weighted else None
    loss = CrossEntropy(rows * (items - skip), label_smoothing=smoothing, ignore_rows=skip)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "MIN_CHUNK_ROWS", 1)
        got = loss(hidden, table, targets, bias if biased else None, weights)
    want = plain(hidden, table, targets, bias if biased else None, weights, smoothing, skip)
    torch.testing.assert_close(got.sum, want, rtol=1e-10, atol=1e-12)
    assert got.count.item() == pytest.approx(positions if weights is None else weights.sum().item())
    unsmoothed = plain(hidden, table, targets, bias if biased else None, weights, 0.0, skip)
    torch.testing.assert_close(got.parts["nll"], unsmoothed.detach(), rtol=1e-10, atol=1e-12)
    inputs = (hidden, table, bias) if biased else (hidden, table)
    for a, b in zip(gradients(3 * got.sum, *inputs), gradients(3 * want, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_default_chunks_over_several_chunks_in_float32():
    hidden, table, bias = leaves(0, 3 * base.MIN_CHUNK_ROWS + 7, 50, 8, torch.float32)
    targets = torch.randint(0, 50, (len(hidden),))
    got = CrossEntropy(chunk_size=1)(hidden, table, targets, bias)
    want = plain(hidden, table, targets, bias, None)
    torch.testing.assert_close(got.sum, want, rtol=1e-5, atol=1e-3)
    inputs = (hidden, table, bias)
    for a, b in zip(gradients(got.sum, *inputs), gradients(want, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_only_chunk_rows_of_logits_exist(monkeypatch):
    """The largest tensor that the forward pass makes holds one chunk of logits."""
    sizes = []
    empty, empty_like = torch.empty, torch.empty_like

    def note(make):
        def wrapped(*args, **kwargs):
            out = make(*args, **kwargs)
            sizes.append(out.numel())
            return out

        return wrapped

    monkeypatch.setattr(torch, "empty", note(empty))
    monkeypatch.setattr(torch, "empty_like", note(empty_like))
    hidden, table, _ = leaves(0, 1000, 300, 2, torch.float32)
    CrossEntropy(chunk_size=1)(hidden, table, torch.zeros(1000, dtype=torch.int64)).sum.backward()
    assert max(sizes) == base.MIN_CHUNK_ROWS * 300


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_bfloat16_is_near_and_accumulates_in_float32(smoothing):
    hidden, table, bias = leaves(1, 500, 40, 16, torch.float32)
    targets = torch.randint(0, 40, (500,))
    got = CrossEntropy(dtype="bfloat16", label_smoothing=smoothing)(hidden, table, targets, bias)
    want = plain(hidden, table, targets, bias, None, smoothing)
    assert got.sum.dtype == torch.float32
    torch.testing.assert_close(got.sum, want, rtol=5e-3, atol=0.0)
    inputs = (hidden, table, bias)
    for a, b in zip(gradients(got.sum, *inputs), gradients(want, *inputs), strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.02 * b.norm()


def test_half_precision_inputs_get_gradients_of_their_own_type():
    hidden, table, _ = leaves(2, 20, 10, 4, torch.bfloat16)
    out = CrossEntropy()(hidden, table, torch.arange(20) % 10)
    out.sum.backward()
    want = functional.cross_entropy(hidden.float() @ table.float().T, torch.arange(20) % 10, reduction="sum")
    torch.testing.assert_close(out.sum, want)
    assert hidden.grad.dtype == table.grad.dtype == torch.bfloat16


def test_autocast_does_not_lower_the_products():
    hidden, table, _ = leaves(3, 20, 10, 4, torch.float32)
    targets = torch.arange(20) % 10
    outside = CrossEntropy()(hidden, table, targets).sum
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = CrossEntropy()(hidden, table, targets).sum
    assert inside.item() == outside.item()


def test_no_positions_gives_zero_and_zero_gradients():
    hidden, table, bias = leaves(0, 0, 7, 3)
    out = CrossEntropy(ignore_rows=3)(hidden, table, torch.zeros(0, dtype=torch.int64), bias)
    out.sum.backward()
    assert out.sum.item() == 0 and out.count.item() == 0
    assert hidden.grad.shape == (0, 3)
    assert torch.equal(table.grad, torch.zeros(7, 3, dtype=torch.float64))
    assert torch.equal(bias.grad, torch.zeros(7, dtype=torch.float64))


def test_reserved_rows_get_no_gradient():
    hidden, table, bias = leaves(0, 12, 9, 3)
    CrossEntropy(ignore_rows=3)(hidden, table, torch.arange(12) % 6 + 3, bias).sum.backward()
    assert torch.equal(table.grad[:3], torch.zeros(3, 3, dtype=torch.float64))
    assert torch.equal(bias.grad[:3], torch.zeros(3, dtype=torch.float64))
    assert (table.grad[3:] != 0).all()


def test_no_grad_and_frozen_parts_skip_gradients():
    hidden, table, bias = leaves(4, 12, 9, 3)
    targets = torch.arange(12) % 9
    with torch.no_grad():
        out = CrossEntropy()(hidden, table, targets, bias)
    assert not out.sum.requires_grad
    torch.testing.assert_close(out.sum, plain(hidden, table, targets, bias, None).detach())
    CrossEntropy()(hidden, table.detach(), targets).sum.backward()
    want = gradients(plain(hidden, table, targets, None, None), hidden)[0]
    torch.testing.assert_close(hidden.grad, want)
    assert table.grad is None


def test_table_tied_with_the_embedding():
    """The table is input embedding and output table at once: both gradients must add up."""
    embedding = nn.Embedding(9, 4).double()
    ids, targets = torch.arange(12) % 9, (torch.arange(12) * 5) % 9
    CrossEntropy()(torch.tanh(embedding(ids)), embedding.weight, targets).sum.backward()
    got = embedding.weight.grad.clone()
    want = plain(torch.tanh(embedding(ids)), embedding.weight, targets, None, None)
    torch.testing.assert_close(got, gradients(want, embedding.weight)[0])


def test_backward_twice_gives_the_same():
    hidden, table, _ = leaves(5, 12, 9, 3)
    out = CrossEntropy()(hidden, table, torch.arange(12) % 9)
    first = torch.autograd.grad(out.sum, (hidden, table), retain_graph=True)
    second = torch.autograd.grad(2 * out.sum, (hidden, table))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(2 * a, b)


def test_huge_logits_stay_finite():
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    table = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    out = CrossEntropy()(hidden, table, torch.tensor([0, 0]))
    out.sum.backward()
    assert out.sum.item() == 2e4
    assert torch.isfinite(hidden.grad).all() and torch.isfinite(table.grad).all()


@pytest.mark.parametrize(
    ("target", "message"),
    [(2, "target 2 is a reserved id"), (9, "target 9 is out of range"), (-1, "target -1 is out of range")],
)
def test_bad_targets_are_named(target, message):
    hidden, table, _ = leaves(0, 2, 9, 3)
    with pytest.raises(InputError, match=f"{message}.*3 .. 8"):
        CrossEntropy(ignore_rows=3)(hidden, table, torch.tensor([4, target]))


def test_shapes_and_settings_are_checked():
    hidden, table, bias = leaves(0, 2, 9, 3)
    targets = torch.tensor([4, 5])
    with pytest.raises(InputError, match="hidden"):
        CrossEntropy()(hidden[:, :2], table, targets)
    with pytest.raises(InputError, match="targets"):
        CrossEntropy()(hidden, table, targets[:1])
    with pytest.raises(InputError, match="bias"):
        CrossEntropy()(hidden, table, targets, bias[:4])
    with pytest.raises(InputError, match="weights"):
        CrossEntropy()(hidden, table, targets, None, torch.ones(3))
    with pytest.raises(InputError, match="constants"):
        CrossEntropy()(hidden, table, targets, None, torch.ones(2, requires_grad=True))
    with pytest.raises(InputError, match="leaves no row"):
        CrossEntropy(ignore_rows=9)(hidden, table, targets)
    for bad in ({"chunk_size": 0}, {"label_smoothing": 1.0}, {"dtype": "float16"}, {"ignore_rows": -1}):
        with pytest.raises(ConfigError):
            CrossEntropy(**bad)

"""Where cut-cross-entropy takes the engine's place: same figures, from a plain stand-in with its signature."""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recsys.losses import CatalogueLoss, CrossEntropy, Focal, base, fused


def stand_in(calls: list[str]) -> ModuleType:
    def linear_cross_entropy(
        e: Tensor, c: Tensor, targets: Tensor, bias: Tensor | None = None, *, reduction: str, impl: str
    ) -> Tensor:
        assert e.dtype == c.dtype == torch.bfloat16 and reduction == "none"
        calls.append(impl)
        logits = e.float() @ c.float().T
        return functional.cross_entropy(logits if bias is None else logits + bias.float(), targets, reduction="none")

    module = ModuleType("cut_cross_entropy")
    module.linear_cross_entropy = linear_cross_entropy
    return module


@pytest.mark.parametrize("loss", [CrossEntropy(dtype="bfloat16", ignore_rows=3), Focal(1.5, dtype="bfloat16")])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_same_results(loss: CatalogueLoss, biased: bool, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    leaves = [torch.randn(s, generator=g).requires_grad_() for s in ((200, 16), (40, 16), (40,))]
    hidden, table, bias = leaves
    leaves = leaves if biased else leaves[:2]
    targets = torch.randint(3, 40, (200,), generator=g)
    weights = torch.rand(200, generator=g) if weighted else None
    arguments = hidden, table, targets, bias if biased else None, weights
    ours = loss(*arguments)
    expected = torch.autograd.grad(2 * ours.sum, leaves)
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", stand_in(calls))
    monkeypatch.setattr(base, "is_usable", lambda hidden: True)
    theirs = loss(*arguments)
    assert calls == ["cce_exact"]
    torch.testing.assert_close(theirs.sum, ours.sum, rtol=2e-3, atol=0.0)
    torch.testing.assert_close(theirs.count, ours.count)
    torch.testing.assert_close(theirs.parts["nll"], ours.parts["nll"], rtol=2e-3, atol=0.0)
    assert not theirs.parts["nll"].requires_grad
    for a, b in zip(torch.autograd.grad(2 * theirs.sum, leaves), expected, strict=True):
        assert (a - b).norm() < 0.02 * b.norm()


def test_only_bfloat16_without_smoothing_goes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", stand_in(calls))
    monkeypatch.setattr(base, "is_usable", lambda hidden: True)
    hidden, table, targets = torch.randn(4, 3), torch.randn(6, 3), torch.tensor([0, 1, 2, 3])
    for loss in (CrossEntropy(), CrossEntropy(dtype="bfloat16", label_smoothing=0.1)):
        loss(hidden, table, targets)
    assert calls == []


def test_not_on_a_cpu_and_not_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu:
        is_cuda = True

    monkeypatch.setattr(fused, "_installed", lambda: True)
    assert not fused.is_usable(torch.zeros(2, 2))
    assert fused.is_usable(OnGpu())
    monkeypatch.setattr(fused, "_installed", lambda: False)
    assert not fused.is_usable(OnGpu())

"""The chunked engine with a curve of our own, against autograd on full logits; what it refuses."""

import pytest
import torch
from torch import Tensor

from recsys.errors import ConfigError, InputError
from recsys.losses import CatalogueLoss, base


class Squared(CatalogueLoss):
    """(-log p)^2, which no loss of the package is."""

    def curve(self, nll: Tensor) -> tuple[Tensor, Tensor]:
        return nll**2, 2 * nll


@pytest.mark.parametrize(("rows", "skip", "weighted"), [(1, 0, False), (4, 2, True), (100, 3, True)])
def test_any_curve_gets_its_gradients(rows: int, skip: int, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MIN_CHUNK_ROWS", 1)
    g = torch.Generator().manual_seed(rows)
    shapes = ((13, 5), (11, 5), (11,))
    inputs = [torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes]
    hidden, table, bias = inputs
    targets = torch.randint(skip, 11, (13,), generator=g)
    weights = torch.rand(13, generator=g, dtype=torch.float64) if weighted else None
    got = Squared(chunk_size=rows * (11 - skip), ignore_rows=skip)(hidden, table, targets, bias, weights)
    logits = (hidden @ table.T + bias)[:, skip:]
    nll = -torch.log_softmax(logits, 1)[torch.arange(13), targets - skip]
    scale = torch.ones(13, dtype=torch.float64) if weights is None else weights
    want = (scale * nll**2).sum()
    torch.testing.assert_close(got.sum, want)
    torch.testing.assert_close(got.count, scale.sum())
    torch.testing.assert_close(got.parts["nll"], (scale * nll).sum().detach())
    found, expected = torch.autograd.grad(got.sum, inputs), torch.autograd.grad(want, inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_base_itself_is_no_loss() -> None:
    with pytest.raises(TypeError, match="curve"):
        CatalogueLoss()


def test_arguments_that_do_not_fit_are_named() -> None:
    hidden, table, targets = torch.zeros(4, 3), torch.zeros(6, 3), torch.tensor([1, 2, 3, 4])
    loss = Squared(ignore_rows=1)
    assert loss(hidden, table, targets).count == 4
    wrong = {
        r"hidden \[4, 3\], table \[6, 2\]": (hidden, torch.zeros(6, 2), targets),
        r"targets \[3\] torch.int64 must be \[4\] int64": (hidden, table, targets[:3]),
        r"targets \[4\] torch.int32": (hidden, table, targets.int()),
        r"bias \[5\] must be \[6\]": (hidden, table, targets, torch.zeros(5)),
        r"weights \[3\] must be \[4\]": (hidden, table, targets, None, torch.ones(3)),
        "weights must be constants": (hidden, table, targets, None, torch.ones(4, requires_grad=True)),
        "target 0 is a reserved id": (hidden, table, targets - 1),
        "target 6 is out of range": (hidden, table, targets + 2),
    }
    for message, arguments in wrong.items():
        with pytest.raises(InputError, match=message):
            loss(*arguments)
    with pytest.raises(InputError, match=r"ignore_rows \(6\) leaves no row"):
        Squared(ignore_rows=6)(hidden, table, targets)


def test_settings_out_of_range_are_named() -> None:
    for settings, message in (
        ({"chunk_size": 0}, r"chunk_size \(0\)"),
        ({"dtype": "float16"}, "dtype"),
        ({"ignore_rows": -1}, "ignore_rows"),
    ):
        with pytest.raises(ConfigError, match=message):
            Squared(**settings)
    base.check_fraction("share", 0.0)
    for value in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"share \(.*\) must be at least 0 and below 1"):
            base.check_fraction("share", value)

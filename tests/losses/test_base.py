"""The chunked engine with a curve of our own, against autograd on full logits; what it refuses."""

import pytest
import torch
from torch import Tensor

from recsys.errors import ConfigError, InputError
from recsys.losses import CatalogueLoss, CrossEntropy, base
from recsys.losses.base import Additions


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


@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("far", [1.0, 60.0])  # above 40 the logits are shifted
def test_additions_to_some_logits(rows: int, smoothing: float, far: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MIN_CHUNK_ROWS", 1)
    g = torch.Generator().manual_seed(rows)
    shapes = ((13, 5), (11, 5), (11,), (13, 4))
    inputs = [torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes]
    hidden, table, bias, values = inputs
    ids = torch.stack([torch.randperm(11, generator=g)[:4] for _ in range(13)])
    ids[::3, :2] = 0  # reserved: counts for nothing, however often it is named
    targets, weights = torch.randint(2, 11, (13,), generator=g), torch.rand(13, generator=g, dtype=torch.float64)
    loss = Squared(chunk_size=rows * 9, ignore_rows=2)
    loss.label_smoothing = 0.0
    if smoothing:
        loss = CrossEntropy(rows * 9, label_smoothing=smoothing, ignore_rows=2)
    got = loss(hidden, table, targets, bias, weights, Additions(ids, far * values))
    logits = hidden @ table.T + bias
    added = torch.zeros(13, 11, dtype=torch.float64).scatter_add(1, ids, far * values)
    logits = (logits + added)[:, 2:]
    nll = -torch.log_softmax(logits, 1)
    own = nll[torch.arange(13), targets - 2]
    each = (1 - smoothing) * own + smoothing * nll.mean(1) if smoothing else own**2
    torch.testing.assert_close(got.sum, (weights * each).sum())
    found, expected = torch.autograd.grad(got.sum, inputs), torch.autograd.grad((weights * each).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        (torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1), r"must be \[3, S\]"),
        (torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 2), r"must be \[3, S\]"),
        (torch.zeros(3, 1), torch.zeros(3, 1), "ids int64"),
        (torch.full((3, 1), 4), torch.zeros(3, 1), r"an id is none of 0 \.\. 3"),
        (torch.full((3, 1), -1), torch.zeros(3, 1), r"an id is none of 0 \.\. 3"),
    ],
)
def test_additions_that_do_not_fit_are_refused(ids: Tensor, values: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CrossEntropy()(
            torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64), None, None, Additions(ids, values)
        )


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
    with pytest.raises(InputError, match="target 4 is out of range"):
        Squared()(hidden[:1], table[:0], targets[3:])


@pytest.mark.parametrize("rows", [0, 6])
def test_no_positions_are_no_loss(rows: int) -> None:
    hidden, table = torch.zeros(0, 3, requires_grad=True), torch.zeros(rows, 3, requires_grad=True)
    out = Squared()(hidden, table, torch.zeros(0, dtype=torch.int64))
    out.sum.backward()
    assert out.sum.item() == 0 and out.count.item() == 0
    assert hidden.grad is not None and table.grad is not None and not table.grad.any()


def test_settings_out_of_range_are_named() -> None:
    for settings, message in (
        ({"chunk_size": 0}, r"chunk_size \(0\)"),
        ({"dtype": "float16"}, "dtype"),
        ({"ignore_rows": -1}, "ignore_rows"),
    ):
        with pytest.raises(ConfigError, match=message):
            Squared(**settings)


def bounded_or_not(
    monkeypatch: pytest.MonkeyPatch, dtype: str, scale: float
) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Loss and gradients without and with the shift, and by autograd over all logits."""
    g = torch.Generator().manual_seed(7)
    inputs = [scale * torch.randn(s, generator=g) for s in ((300, 8), (90, 8), (90,))]
    inputs = [x.requires_grad_() for x in inputs]
    hidden, table, bias = inputs
    targets = torch.randint(2, 90, (300,), generator=g)
    found = []
    for limit in (base.SAFE_LOGIT, -1.0):
        monkeypatch.setattr(base, "SAFE_LOGIT", limit)
        out = Squared(dtype=dtype, ignore_rows=2)(hidden, table, targets, bias)  # type: ignore[arg-type]
        found.append([out.sum.detach(), *torch.autograd.grad(out.sum, inputs)])
    nll = torch.nn.functional.cross_entropy((hidden @ table.T + bias)[:, 2:], targets - 2, reduction="none")
    want = (nll**2).sum()
    return found, [want.detach(), *torch.autograd.grad(want, inputs)]


@pytest.mark.parametrize(("dtype", "scale", "far"), [("float32", 0.8, 1e-5), ("bfloat16", 0.8, 0.02)])
def test_rows_are_shifted_only_for_the_range(
    monkeypatch: pytest.MonkeyPatch, dtype: str, scale: float, far: float
) -> None:
    found, want = bounded_or_not(monkeypatch, dtype, scale)
    for way in found:
        for a, b in zip(way, want, strict=True):
            assert (a - b).norm() < far * b.norm()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_beyond_the_range_are_shifted(dtype: str) -> None:
    """Logits of 200 and -200: without the shift the sum would be infinite, or nothing."""
    for sign in (1.0, -1.0):
        hidden = torch.tensor([[sign * 200.0], [sign * 200.0]], requires_grad=True)
        table = torch.tensor([[1.0], [0.75]], requires_grad=True)
        out = Squared(dtype=dtype)(hidden, table, torch.tensor([0, 1]))  # type: ignore[arg-type]
        out.sum.backward()
        assert out.sum.item() == pytest.approx(50.0**2, rel=0.02)
        assert torch.isfinite(hidden.grad).all() and torch.isfinite(table.grad).all()  # type: ignore[arg-type]


def test_a_sure_row_keeps_its_small_gradient_in_bfloat16() -> None:
    """p = 1 - 3e-4: its distance from 1 is what the gradient is made of, and bfloat16 has 8 bits."""

    class Plain(CatalogueLoss):
        def curve(self, nll: Tensor) -> tuple[Tensor, Tensor]:
            return nll, torch.ones_like(nll)

    hidden, table = torch.tensor([[8.0]], requires_grad=True), torch.tensor([[1.0], [0.0]], requires_grad=True)
    out = Plain(dtype="bfloat16")(hidden, table, torch.tensor([0]))
    out.sum.backward()
    rest = torch.sigmoid(torch.tensor(-8.0)).item()
    assert out.sum.item() == pytest.approx(rest, rel=0.05)
    assert hidden.grad is not None and hidden.grad.item() == pytest.approx(-rest, rel=0.05)
    assert table.grad is not None and table.grad.flatten().tolist() == pytest.approx([-8 * rest, 8 * rest], rel=0.05)

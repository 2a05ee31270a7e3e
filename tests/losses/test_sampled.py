"""Sampled softmax, BCE and gBCE over samples against the formulas written out, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.errors import ConfigError, InputError
from recsys.losses import BCE, GBCE, CrossEntropy, SampledLoss, SampledSoftmax, sampled
from tests.losses.sampling import full_logits, plain_loss


class Case:
    """Ids repeat in `row_ids` now and then, so that accidental hits come by other rows too."""

    def __init__(self, seed: int, positions: int, rows: int, k: int, shared: bool, biased: bool, weighted: bool):
        g = torch.Generator().manual_seed(seed)
        self.hidden = torch.randn(positions, 4, generator=g, dtype=torch.float64).requires_grad_()
        self.rows = torch.randn(rows, 4, generator=g, dtype=torch.float64).requires_grad_()
        self.bias = torch.randn(rows, generator=g, dtype=torch.float64).requires_grad_() if biased else None
        self.targets = torch.randint(rows, (positions,), generator=g)
        self.row_ids = torch.randint(3, 3 + 2 * rows, (rows,), generator=g)
        self.negatives = torch.randint(rows, (k,) if shared else (positions, k), generator=g)
        self.log_counts = torch.randn(self.negatives.shape, generator=g, dtype=torch.float64)
        self.weights = torch.rand(positions, generator=g, dtype=torch.float64) if weighted else None

    def leaves(self) -> list[Tensor]:
        return [x for x in (self.hidden, self.rows, self.bias) if x is not None]

    def ours(self, loss: SampledLoss, hidden: Tensor | None = None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return loss(
            self.hidden if hidden is None else hidden,
            self.rows,
            self.targets,
            self.row_ids,
            self.negatives,
            self.log_counts,
            self.bias,
            self.weights,
        )

    def plain(self, name: str, **options: object) -> Tensor:
        logits = full_logits(self.hidden, self.rows, self.bias)
        values = plain_loss(name, logits, self.row_ids, self.targets, self.negatives, **options)
        return (values if self.weights is None else values * self.weights).sum()


CASES = {
    "seed": st.integers(0, 10_000),
    "positions": st.integers(1, 9),
    "rows": st.integers(2, 12),
    "k": st.integers(1, 8),
    "shared": st.booleans(),
    "biased": st.booleans(),
    "weighted": st.booleans(),
}
LOSSES = {
    "log_q": (lambda: SampledSoftmax(chunk_size=1), "softmax", True, {}),
    "softmax": (lambda: SampledSoftmax(log_q=False, chunk_size=1), "softmax", False, {}),
    "bce": (lambda: BCE(chunk_size=1), "bce", False, {"beta": 1.0}),
    "gbce": (lambda: GBCE(0.25, 0.6, chunk_size=1), "bce", False, {"beta": 0.25 * (0.6 * (1 - 1 / 0.25) + 1 / 0.25)}),
}


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=15, deadline=None)
@given(**CASES)
def test_equals_the_formula_written_out(name: str, **sizes: int) -> None:
    make, formula, corrected, options = LOSSES[name]
    case = Case(**sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampled, "MIN_CHUNK_ROWS", 2)
        got = case.ours(make())
    want = case.plain(formula, log_counts=case.log_counts if corrected else None, **options)
    torch.testing.assert_close(got.sum, want, rtol=1e-10, atol=1e-10)
    weights = case.weights
    torch.testing.assert_close(float(got.count), float(len(case.targets) if weights is None else weights.sum()))
    ids = case.row_ids
    assert float(got.parts["accidental_hits"]) == float((ids[case.negatives] == ids[case.targets][:, None]).sum())
    found = torch.autograd.grad(3 * got.sum, case.leaves())
    for a, b in zip(found, torch.autograd.grad(3 * want, case.leaves()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("loss", [SampledSoftmax(), BCE(), GBCE(0.5, 1.0)], ids=["softmax", "bce", "gbce"])
def test_gradients_by_finite_differences(loss: SampledLoss) -> None:
    case = Case(3, 4, 5, 3, False, True, False)

    def total(hidden: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        return loss(hidden, rows, case.targets, case.row_ids, case.negatives, case.log_counts, bias).sum

    assert torch.autograd.gradcheck(total, tuple(case.leaves()))


def test_every_item_as_negative_is_the_full_cross_entropy() -> None:
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 4, generator=g, dtype=torch.float64).requires_grad_()
    table = torch.randn(11, 4, generator=g, dtype=torch.float64).requires_grad_()
    targets = torch.randint(3, 11, (9,), generator=g)
    ids = torch.arange(3, 11)
    want = CrossEntropy(ignore_rows=3)(hidden, table, targets)
    got = SampledSoftmax()(hidden, table[3:], targets - 3, ids, torch.arange(8), torch.zeros(8))
    torch.testing.assert_close(got.sum, want.sum)
    found, expected = (torch.autograd.grad(x.sum, (hidden, table)) for x in (got, want))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_log_q_estimates_the_full_sum_without_bias() -> None:
    """exp(-log p) is linear in the negatives' sum, so its mean over draws is that of the full softmax."""
    g = torch.Generator().manual_seed(1)
    table = torch.randn(20, 3, generator=g, dtype=torch.float64)
    hidden, target = torch.randn(1, 3, generator=g, dtype=torch.float64), torch.tensor([4])
    shares = torch.rand(20, generator=g, dtype=torch.float64)
    shares /= shares.sum()
    full = float(torch.exp(CrossEntropy()(hidden, table, target).sum))
    for corrected in (True, False):
        values = []
        for _ in range(2000):
            drawn = torch.multinomial(shares, 6, replacement=True, generator=g)
            counts = (6 * shares[drawn]).log()
            loss = SampledSoftmax(corrected)(hidden, table, target, torch.arange(20), drawn, counts)
            values.append(float(torch.exp(loss.sum)))
        mean, error = torch.tensor(values).mean(), torch.tensor(values).std() / 2000**0.5
        assert bool(abs(mean - full) < 4 * error) is corrected


def test_gbce_between_its_limits() -> None:
    assert GBCE(0.1, 0.0).beta == 1
    assert GBCE(0.1, 1.0).beta == pytest.approx(0.1)
    for arguments in ((0.0, 0.5), (1.5, 0.5), (0.1, -0.1), (0.1, 1.1)):
        with pytest.raises(ConfigError, match=r"sampling_rate|calibration"):
            GBCE(*arguments)


def test_gbce_calibrated_finds_the_true_probability() -> None:
    """What Petrov and Macdonald prove: at its minimum, sigmoid(s) = p with t = 1, and more with t = 0.

    One item is the target in a share p of the cases; in the others it is a negative with probability a.
    """
    p, a = 0.2, 0.05
    for calibration, expected in ((1.0, p), (0.0, p / (p + (1 - p) * a))):
        score = 0.0
        loss = GBCE(a, calibration)
        none = torch.full((1, 1), float("-inf"), dtype=torch.float64)
        far = torch.full((1,), 800.0, dtype=torch.float64)
        for _ in range(1000):
            _, up, _ = loss.slopes(torch.full((1,), score, dtype=torch.float64), none.clone())
            _, _, down = loss.slopes(far, torch.full((1, 1), score, dtype=torch.float64))
            # slopes are means over positive and negatives: of 1 term there, of 2 here
            score -= 20 * float(p * up[0] + (1 - p) * a * 2 * down[0, 0])
        assert 1 / (1 + math.exp(-score)) == pytest.approx(expected, abs=1e-3)


def test_huge_logits_stay_finite() -> None:
    for loss in (SampledSoftmax(), BCE(), GBCE(0.1)):
        hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
        rows = torch.tensor([[1.0], [-1.0]], requires_grad=True)
        out = loss(hidden, rows, torch.tensor([0, 0]), torch.tensor([3, 4]), torch.tensor([1]))
        out.sum.backward()
        assert torch.isfinite(out.sum) and torch.isfinite(hidden.grad).all() and torch.isfinite(rows.grad).all()
        assert float(out.sum.detach()) > 5e3


def test_no_position_and_all_negatives_left_out() -> None:
    rows = torch.randn(2, 3, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    out = SampledSoftmax()(torch.zeros(0, 3), rows, none, torch.tensor([3, 4]), torch.tensor([1]))
    out.sum.backward()
    assert out.sum.item() == out.count.item() == 0 and not rows.grad.any()
    hit = SampledSoftmax()(torch.ones(1, 3), rows, torch.tensor([0]), torch.tensor([3, 4]), torch.tensor([0]))
    assert hit.sum.item() == 0 and float(hit.parts["accidental_hits"]) == 1


def test_arguments_that_do_not_fit_are_named() -> None:
    hidden, rows, ids = torch.zeros(4, 3), torch.zeros(5, 3), torch.arange(5)
    targets, negatives = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 4])
    loss = SampledSoftmax()
    wrong = {
        r"row_ids \[4\] must be \[5\]": (hidden, rows, targets, ids[:4], negatives),
        r"negatives \[3, 2\] must be \[K\] or \[4, K\]": (hidden, rows, targets, ids, torch.zeros(3, 2).long()),
        "negative 5 is no row": (hidden, rows, targets, ids, negatives + 1),
        r"log_counts \[3\] must be \[2\]": (hidden, rows, targets, ids, negatives, torch.zeros(3)),
        "target 5 is out of range": (hidden, rows, targets + 2, ids, negatives),
    }
    for message, arguments in wrong.items():
        with pytest.raises(InputError, match=message):
            loss(*arguments)
    with pytest.raises(ConfigError, match="chunk_size"):
        SampledSoftmax(chunk_size=0)

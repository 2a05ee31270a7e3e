"""InfoNCE against the formula written out, on one process and on two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recsys.errors import ConfigError, InputError
from recsys.losses import CrossEntropy, InfoNCE
from tests.losses.two_ranks import HALVES, inputs, loss_of

ROOT = Path(__file__).resolve().parents[2]


def plain(hidden: Tensor, table: Tensor, bias: Tensor, targets: Tensor, others: Tensor, max_cosine: float) -> Tensor:
    """Sum over positions of -log softmax over the distinct items among `others`."""
    total = hidden.new_zeros(())
    for h, t in zip(hidden, targets.tolist(), strict=True):
        own = table[t] / table[t].norm()
        against = [j for j in sorted(set(others.tolist())) if j != t and table[j] / table[j].norm() @ own <= max_cosine]
        scores = torch.stack([h @ table[j] + bias[j] for j in [t, *against]])
        total = total - torch.log_softmax(scores, 0)[0]
    return total


@pytest.mark.parametrize("max_cosine", [None, 0.3])
def test_equals_the_formula_written_out(max_cosine: float | None) -> None:
    hidden, table, bias, targets = inputs()
    leaves = [x.requires_grad_() for x in (hidden, table, bias)]
    got = loss_of(hidden, table, bias, targets, InfoNCE(max_cosine=max_cosine))
    want = plain(hidden, table, bias, targets, targets, max_cosine or 2.0)
    torch.testing.assert_close(got.sum, want)
    assert got.count.item() == 12
    for a, b in zip(torch.autograd.grad(got.sum, leaves), torch.autograd.grad(want, leaves), strict=True):
        torch.testing.assert_close(a, b)
    unfiltered = plain(hidden, table, bias, targets, targets, 2.0)
    assert (max_cosine is None) == torch.isclose(unfiltered, got.sum).item()
    full = CrossEntropy(ignore_rows=3)(hidden, table, targets, bias)  # ids 3 .. 8 are all in the batch
    assert (max_cosine is None) == torch.isclose(full.sum, got.sum).item()


def test_fewer_items_in_the_batch_than_in_the_catalogue_differ_from_full_cross_entropy() -> None:
    hidden, table, bias, targets = inputs()
    part = slice(0, 5)
    got = loss_of(hidden[part], table, bias, targets[part], InfoNCE())
    full = CrossEntropy(ignore_rows=3)(hidden[part], table, targets[part], bias)
    assert got.sum.item() < full.sum.item()


def test_given_negatives_replace_those_of_the_batch() -> None:
    hidden, table, bias, targets = inputs()
    ids = torch.arange(9)
    got = InfoNCE()(hidden, table, targets, ids, torch.tensor([0, 1, 1, 4]), bias=bias)
    torch.testing.assert_close(got.sum, plain(hidden, table, bias, targets, torch.tensor([0, 1, 4]), 2.0))


def test_two_ranks_are_one_batch(tmp_path: Path) -> None:
    """The ranks' losses and gradients add up to those of all positions on one process; a rank may be empty."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.losses.two_ranks", str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, env=environment, timeout=120, check=False).returncode == 0
    first, second = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1))

    hidden, table, bias, targets = inputs()
    leaves = [x.requires_grad_() for x in (hidden, table, bias)]
    whole = plain(hidden, table, bias, targets, targets, 0.9)
    expected = [whole.detach(), *torch.autograd.grad(whole, leaves)]
    for a, b, want in zip(first["both"], second["both"], expected, strict=True):
        torch.testing.assert_close(a + b, want)

    part = HALVES[0]
    left = plain(hidden[part], table, bias, targets[part], targets[part], 0.9)
    expected = [left.detach(), *torch.autograd.grad(left, leaves)]
    for a, b, want in zip(first["empty"], second["empty"], expected, strict=True):
        torch.testing.assert_close(a + b, want)
    apart = sum(x["alone"][0] for x in (first, second))
    assert apart.item() < plain(*inputs()[:3], targets, targets, 2.0).item()


def test_bad_settings_and_shapes() -> None:
    for bad in (0.0, 1.5):
        with pytest.raises(ConfigError, match="max_cosine"):
            InfoNCE(max_cosine=bad)
    hidden, table, _, targets = inputs()
    with pytest.raises(InputError, match="negative 9 is no row"):
        InfoNCE()(hidden, table, targets, torch.arange(9), torch.tensor([9]))
    with pytest.raises(InputError, match="target 8 is out of range"):
        InfoNCE()(hidden, table[:8], targets, torch.arange(8))

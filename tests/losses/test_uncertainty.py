"""Learned task weights against Kendall's formula and their optimum."""

import math

import pytest
import torch

from recsys.errors import ConfigError
from recsys.losses import UncertaintyWeights

ONE = torch.tensor(1.0)


def test_they_start_at_the_fixed_weights():
    tasks = UncertaintyWeights({"item": 1.0, "class": 0.5, "gap": 0.1}, frozenset({"gap"}))
    for name, weight in (("item", 1.0), ("class", 0.5), ("gap", 0.1)):
        loss = torch.tensor(2.0, requires_grad=True)
        tasks(name, loss, ONE).backward()
        assert float(loss.grad) == pytest.approx(weight)


def test_equals_the_formula_and_counts_the_variance_once_a_step():
    tasks = UncertaintyWeights({"item": 1.0, "gap": 1.0}, frozenset({"gap"}))
    with torch.no_grad():
        tasks.log_variances.copy_(torch.tensor([0.3, -0.7]))
    sigma = math.exp(0.15)
    assert tasks("item", torch.tensor(3.0), ONE).item() == pytest.approx(3 / sigma**2 + math.log(sigma))
    sigma = math.exp(-0.35)
    assert tasks("gap", torch.tensor(3.0), ONE).item() == pytest.approx(3 / (2 * sigma**2) + math.log(sigma))
    parts = tasks("item", torch.tensor(1.0), torch.tensor(0.4)) + tasks("item", torch.tensor(2.0), torch.tensor(0.6))
    assert parts.item() == pytest.approx(tasks("item", torch.tensor(3.0), ONE).item())


def test_a_squared_error_is_weighted_by_its_own_variance():
    """At the optimum sigma^2 is the mean squared error, so that the weighted error is 1/2."""
    tasks = UncertaintyWeights({"gap": 1.0}, frozenset({"gap"}))
    optimizer = torch.optim.SGD(tasks.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        tasks("gap", torch.tensor(4.0), ONE).backward()
        optimizer.step()
    assert tasks.log_variances.exp().item() == pytest.approx(4.0, rel=1e-4)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_of_nothing_cannot_be_learned(weight):
    with pytest.raises(ConfigError, match="weight of 'class'"):
        UncertaintyWeights({"item": 1.0, "class": weight})

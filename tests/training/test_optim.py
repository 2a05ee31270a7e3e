import math

import pytest
import torch
from torch import nn

from recsys.config import TrainingConfig
from recsys.training.optim import build_optimizer, rate_factor


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedule_is_the_closed_form(schedule):
    config = TrainingConfig(schedule=schedule, warmup_ratio=0.2, min_learning_rate_ratio=0.1)
    factor = rate_factor(config, 50)
    assert [factor(s) for s in range(10)] == pytest.approx([(s + 1) / 11 for s in range(10)])
    for step in range(10, 51):
        done = (step - 10) / 40
        share = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[schedule]
        assert factor(step) == pytest.approx(share if schedule == "constant" else 0.1 + 0.9 * share)


def test_the_rate_starts_and_ends_above_zero_and_never_rises_after_warm_up():
    factor = rate_factor(TrainingConfig(), 1)
    assert factor(0) == 1.0
    values = [rate_factor(TrainingConfig(), 400)(s) for s in range(400)]
    assert min(values) > 0 and max(values) == 1.0
    assert values[20:] == sorted(values[20:], reverse=True)


def test_only_matrices_decay():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, TrainingConfig(learning_rate=0.1, weight_decay=0.2)).step()
    for name, parameter in model.named_parameters():
        expected = 0.5 * (1 - 0.1 * 0.2) if name in ("0.weight", "1.weight") else 0.5
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected))


def test_frozen_parameters_are_left_out():
    model = nn.Linear(3, 3)
    model.weight.requires_grad_(False)
    optimizer = build_optimizer(model, TrainingConfig())
    assert [p.shape for group in optimizer.param_groups for p in group["params"]] == [model.bias.shape]

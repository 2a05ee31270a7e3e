"""Optimizer and learning rate."""

import math
from collections.abc import Callable

import torch
from torch import nn

from recsys.config import TrainingConfig
from recsys.training import paged


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); weight decay on matrices only, never on biases, norms and scales."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer != "adamw":
        return paged.build(config.optimizer, groups, config.learning_rate)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def rate_factor(config: TrainingConfig, steps: int) -> Callable[[int], float]:
    """Share of `learning_rate` that step s (0 .. steps - 1) is taken with.

    Linear warm-up from 0, then constant, or linear or cosine decay to `min_learning_rate_ratio` at the run's end.
    """
    warmup = round(config.warmup_ratio * steps)
    floor = config.min_learning_rate_ratio

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        match config.schedule:
            case "constant":
                return 1.0
            case "linear":
                share = 1.0 - done
            case "cosine":
                share = 0.5 * (1.0 + math.cos(math.pi * done))
        return floor + (1.0 - floor) * share

    return factor

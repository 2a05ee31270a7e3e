"""Optimizers of bitsandbytes: where they cannot run, and that each name is the class it says."""

import sys

import pytest
import torch
from torch import nn

from recsys.config import TrainingConfig
from recsys.errors import ConfigError
from recsys.training.optim import build_optimizer
from recsys.training.paged import require_runnable
from recsys.training.train import load_parts
from tests.training.conftest import tiny_config


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what is said without a GPU")
def test_they_are_refused_on_the_cpu(dataset) -> None:
    with pytest.raises(ConfigError, match=r"^training.optimizer: adamw_8bit needs a GPU; on the CPU use adamw$"):
        load_parts(dataset, tiny_config(optimizer="adamw_8bit"))
    require_runnable("adamw", on_gpu=False)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"paged_adamw needs bitsandbytes; pip install 'recsys\[llm\]'"):
        require_runnable("paged_adamw", on_gpu=True)


@pytest.mark.parametrize(
    ("name", "kind", "bits"),
    [("adamw_8bit", "AdamW8bit", 8), ("paged_adamw", "PagedAdamW", 32), ("paged_adamw_8bit", "PagedAdamW8bit", 8)],
)
def test_each_name_is_its_class_with_our_groups(name: str, kind: str, bits: int) -> None:
    config = TrainingConfig(optimizer=name, learning_rate=0.02, weight_decay=0.3)
    optimizer = build_optimizer(nn.Linear(4, 3), config)
    assert type(optimizer).__name__ == kind and optimizer.args.optim_bits == bits
    assert optimizer.is_paged == name.startswith("paged")
    matrices, vectors = optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"], matrices["lr"]) == (0.3, 0.0, 0.02)
    assert [p.ndim for p in matrices["params"]] == [2] and [p.ndim for p in vectors["params"]] == [1]

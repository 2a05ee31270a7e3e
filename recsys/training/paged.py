"""AdamW of bitsandbytes, whose state takes less GPU memory (Dettmers et al. 2022, arXiv:2110.02861).

When to use: large models on one card. `adamw_8bit` keeps two bytes a parameter instead of eight; the paged ones move
state to the host when the card runs full instead of failing.
"""

from typing import Any

import torch

from recsys.errors import ConfigError


def require_runnable(name: str, on_gpu: bool) -> None:
    """Raise ConfigError where `training.optimizer` cannot be run here."""
    if name == "adamw":
        return
    if not on_gpu:
        raise ConfigError(f"training.optimizer: {name} needs a GPU; on the CPU use adamw")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"training.optimizer: {name} needs bitsandbytes; pip install 'recsys[llm]'") from error


def build(name: str, groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer `name` over parameter groups."""
    from bitsandbytes import optim

    kinds = {"adamw_8bit": optim.AdamW8bit, "paged_adamw": optim.PagedAdamW, "paged_adamw_8bit": optim.PagedAdamW8bit}
    made: torch.optim.Optimizer = kinds[name](groups, lr=learning_rate)
    return made

"""-log p over a catalogue by `cut-cross-entropy`, where it is installed and the tensors are on a GPU.

Wijmans et al. 2025, "Cut your losses": logits never leave the chip. It is imported at the first call on a GPU and
wanted nowhere else. Its exact variant is taken, which skips no small gradient, so that results differ from our own
engine's by the rounding of bfloat16 alone.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor


def is_usable(hidden: Tensor) -> bool:
    """Whether -log p of these hidden states can be had from the library."""
    return hidden.is_cuda and _installed()


def fused_nll(hidden: Tensor, table: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
    """-log p ``[P]`` float32, differentiable by hidden ``[P, D]``, table ``[C, D]`` and bias ``[C]``.

    targets: ``[P]`` rows of the table. The product is in bfloat16.
    """
    kernel: Any = import_module("cut_cross_entropy").linear_cross_entropy
    options = {} if bias is None else {"bias": bias.bfloat16()}
    with torch.autocast(hidden.device.type, enabled=False):
        nll: Tensor = kernel(
            hidden.bfloat16(), table.bfloat16(), targets, reduction="none", impl="cce_exact", **options
        )
    return nll.float()


@cache
def _installed() -> bool:
    return find_spec("cut_cross_entropy") is not None

"""Dropout whose masks cost little on a CPU.

PyTorch draws a Bernoulli number an element (8 ns), which in a small model on a CPU takes as long as its products. Here
one 64-bit draw of the same generator decides four elements: an element is dropped where its 16 bits, as a number, are
below ``round(p * 2^16)``. The rate is p to within 2^-17 (0.2 becomes 0.199997), and kept values are divided by the
share that this very rate keeps, so that the mean stays exact. The backward pass makes the mask again of the 2 bytes an
element, which is cheaper than to write and read 4.

Anywhere but in training on a CPU, and for rates that 16 bits cannot give, PyTorch's own is called.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LEVELS = 2**16
"""Values of the 16 bits that decide an element."""


class Dropout(nn.Module):
    """`nn.Dropout` (Srivastava et al. 2014), cheap in training on a CPU.

    When to use: everywhere in place of `nn.Dropout`.

    Args:
        p: probability that an element becomes 0; the others are multiplied by ``1 / (1 - p)``.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"dropout ({p}) must be a probability, 0 to 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x ``[...]`` to ``[...]``."""
        return dropout(x, self.p) if self.training else x

    def add(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual + dropout(x)``, both ``[...]``, in one pass."""
        if not self.training or not is_cheap(x, self.p) or x.dtype != residual.dtype:
            return residual + self(x)
        added: Tensor = _Dropout.apply(x, residual, self.p)
        return added

    def extra_repr(self) -> str:
        """Settings shown by ``print(module)``."""
        return f"p={self.p}"


def dropout(x: Tensor, p: float) -> Tensor:
    """x ``[...]`` with each element dropped with probability p, the others scaled by ``1 / (1 - p)``."""
    if not is_cheap(x, p):
        return functional.dropout(x, p)
    dropped: Tensor = _Dropout.apply(x, None, p)
    return dropped


def is_cheap(x: Tensor, p: float) -> bool:
    """Whether masks for x are drawn by 16 bits: on a CPU, run eagerly, for a rate that is not 0 or 1 in 16 bits."""
    return x.device.type == "cpu" and 0 < round(p * LEVELS) < LEVELS and not torch.compiler.is_compiling()


def draw_bits(shape: torch.Size) -> Tensor:
    """Random int16 of a shape, each value as likely as any other, from PyTorch's default generator."""
    words = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)[: shape.numel()].view(shape)


def keep_mask(bits: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """1 where an element is kept, 0 where it is dropped, in the shape of the bits."""
    mask = torch.empty(bits.shape, dtype=dtype)
    return torch.ge(bits, round(p * LEVELS) - LEVELS // 2, out=mask)  # int16 begins at -2^15


def keep_scale(p: float) -> float:
    """What kept values are multiplied by."""
    return LEVELS / (LEVELS - round(p * LEVELS))


class _Dropout(torch.autograd.Function):
    """``residual + mask * x / share of the kept``, or without residual."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, p: float) -> Tensor:
        bits = draw_bits(x.shape)
        ctx.save_for_backward(bits)
        ctx.p, ctx.adds = p, residual is not None
        mask = keep_mask(bits, p, x.dtype)
        if residual is None:
            return mask.mul_(x).mul_(keep_scale(p))
        return torch.addcmul(residual, x, mask, value=keep_scale(p), out=mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (bits,) = ctx.saved_tensors
        grad_x = keep_mask(bits, ctx.p, grad.dtype).mul_(grad).mul_(keep_scale(ctx.p))
        return grad_x, grad if ctx.adds else None, None

"""Causal attention with dropout on its weights, for training on a CPU, where no fused kernel has dropout.

PyTorch's general path masks, guards, normalises and drops the weights in a pass each, over all ``[T, T]`` of them. Here
a block of queries meets only the keys up to its end, the mask comes with the product, and the scales of the attention
and of the dropout with the products; masks are drawn as in `recsys.nn.dropout`.
"""

import math
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.nn.dropout import draw_bits, keep_mask, keep_scale

BLOCK = 64
"""Queries in a block at most; a sequence is cut into blocks of like size."""


def dropped_attention(query: Tensor, key: Tensor, value: Tensor, p: float) -> Tensor:
    """Attention of each event over itself and those before it (Vaswani et al. 2017, equation 1).

    query, key, value: ``[N, T, d]`` on a CPU; p: probability that a weight is dropped, one for which
    `recsys.nn.dropout.is_cheap` holds. -> ``[N, T, d]``.
    """
    attended: Tensor = _Attention.apply(query, key, value, p)
    return attended


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, p: float) -> Tensor:
        weights: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            out = torch.empty_like(query, memory_format=torch.contiguous_format)  # [N, T, d]
            for begin, end in _blocks(query.shape[1]):
                allowed = _mask(begin, end, query.dtype)  # [t, S]
                scores = torch.baddbmm(
                    allowed, query[:, begin:end], key[:, :end].transpose(1, 2), alpha=query.shape[2] ** -0.5
                )  # [N, t, S]
                probs = torch.softmax(scores, -1, out=scores)
                bits = draw_bits(probs.shape)
                kept = keep_mask(bits, p, probs.dtype).mul_(probs)
                part = out[:, begin:end]
                torch.baddbmm(part, kept, value[:, :end], beta=0, alpha=keep_scale(p), out=part)
                weights += [probs, bits]
        ctx.save_for_backward(query, key, value, *weights)
        ctx.p = p
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *weights = ctx.saved_tensors
        factor, scale = keep_scale(ctx.p), query.shape[2] ** -0.5
        with torch.autocast("cpu", enabled=False):
            grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
            grad_key = torch.zeros_like(key, memory_format=torch.contiguous_format)
            grad_value = torch.zeros_like(grad_key)
            for k, (begin, end) in enumerate(_blocks(query.shape[1])):
                probs, bits = weights[2 * k : 2 * k + 2]  # [N, t, S]
                part = grad[:, begin:end]
                mask = keep_mask(bits, ctx.p, probs.dtype)
                above = torch.bmm(part, value[:, :end].transpose(1, 2)).mul_(mask).mul_(factor)
                kept = mask.mul_(probs).transpose(1, 2)
                grad_value[:, :end].baddbmm_(kept, part, alpha=factor)
                grad_scores = torch._softmax_backward_data(above, probs, -1, probs.dtype)
                torch.mul(torch.bmm(grad_scores, key[:, :end]), scale, out=grad_query[:, begin:end])
                grad_key[:, :end].baddbmm_(grad_scores.transpose(1, 2), query[:, begin:end], alpha=scale)
        return grad_query, grad_key, grad_value, None


def _blocks(length: int) -> list[tuple[int, int]]:
    """First and last (excluded) query of each block."""
    number = max(1, math.ceil(length / BLOCK))
    edges = [length * k // number for k in range(number + 1)]
    return list(pairwise(edges))


@cache
def _mask(begin: int, end: int, dtype: torch.dtype) -> Tensor:
    """0 where query ``begin + i`` may see key j, minus infinity where it may not ``[end - begin, end]``."""
    return torch.full((end - begin, end), -math.inf, dtype=dtype).triu_(begin + 1)

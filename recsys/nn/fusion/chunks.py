"""What several streams of a timestep do together, without holding it for all timesteps at once.

Gathering every stream for every timestep costs ``[M, N, W]``, several times over for the gradients. Here the
timesteps are walked through in chunks that fit a cache; the backward pass gathers again and recomputes the little
that stands between the prepared tables and the result, and adds each chunk's gradient to the tables' rows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.nn.fusion.base import Stream, gather

Core = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""From each stream's values ``[m, W]`` at m timesteps, and tensors that all timesteps share, to ``[m, D]``."""

CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**28}
"""Gathered values held at once."""


def mix_in_chunks(core: Core, streams: Sequence[Stream], shared: Sequence[Tensor]) -> Tensor:
    """``core`` at every timestep: streams ``[U, W]`` with index ``[M]`` to ``[M, D]``. At least single precision."""
    if torch.compiler.is_compiling():  # a compiler or exporter plans memory itself and wants no loop
        return core([gather(s) for s in streams], shared)
    index = [s.index for s in streams]
    mixed: Tensor = _Mix.apply(core, index, len(shared), *shared, *(s.values for s in streams))
    return mixed


class _Mix(torch.autograd.Function):
    """`mix_in_chunks` with its gradient."""

    @staticmethod
    def forward(ctx: Any, core: Core, index: list[Tensor | None], num_shared: int, *tensors: Tensor) -> Tensor:
        ctx.core, ctx.num_shared, ctx.num_streams = core, num_shared, len(index)
        ctx.indexed = [i is not None for i in index]
        ctx.save_for_backward(*tensors, *(i for i in index if i is not None))
        shared, tables = [_precise(t) for t in tensors[:num_shared]], tensors[num_shared:]
        dtype = torch.promote_types(tables[0].dtype, tables[0].dtype)
        parts = []
        with torch.autocast(tables[0].device.type, enabled=False):
            for part in _chunks(tables, index):
                parts.append(core([_rows(t, i, part) for t, i in zip(tables, index, strict=True)], shared).to(dtype))
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        end = ctx.num_shared + ctx.num_streams
        shared, tables, stored = saved[: ctx.num_shared], saved[ctx.num_shared : end], iter(saved[end:])
        index = [next(stored) if known else None for known in ctx.indexed]
        needed = ctx.needs_input_grad[3:]
        totals = [torch.zeros_like(t, dtype=_precise_type(t)) if n else None for t, n in zip(saved, needed, strict=False)]
        common = [_leaf(_precise(t), n) for t, n in zip(shared, needed, strict=False)]
        with torch.autocast(grad.device.type, enabled=False):
            for part in _chunks(tables, index):
                rows = [_rows(t, i, part) for t, i in zip(tables, index, strict=True)]
                leaves = common + [_leaf(r, n) for r, n in zip(rows, needed[ctx.num_shared :], strict=True)]
                with torch.enable_grad():
                    mixed = ctx.core(leaves[ctx.num_shared :], leaves[: ctx.num_shared])
                wanted = [leaf for leaf in leaves if leaf.requires_grad]
                found = iter(torch.autograd.grad(mixed, wanted, grad[part].to(mixed.dtype)))
                for place, total in enumerate(totals):
                    if total is not None:
                        rows_of = None if place < ctx.num_shared else index[place - ctx.num_shared]
                        _add(total, next(found), rows_of, part if place >= ctx.num_shared else None)
        gradients = [None if g is None else g.to(t.dtype) for g, t in zip(totals, saved, strict=False)]
        return None, None, None, *gradients


def _chunks(tables: Sequence[Tensor], index: Sequence[Tensor | None]) -> list[slice]:
    """Consecutive timesteps whose gathered values stay within the chunk's bytes."""
    timesteps = len(tables[0]) if index[0] is None else len(index[0])
    width = sum(t.shape[1] * _precise_type(t).itemsize for t in tables)
    size = max(1, CHUNK_BYTES.get(tables[0].device.type, CHUNK_BYTES["cuda"]) // width)
    return [slice(at, min(at + size, timesteps)) for at in range(0, max(timesteps, 1), size)]


def _rows(table: Tensor, index: Tensor | None, part: slice) -> Tensor:
    """Values ``[m, W]`` of a chunk's timesteps."""
    return _precise(table[part] if index is None else table.index_select(0, index[part]))


def _add(total: Tensor, gradient: Tensor, index: Tensor | None, part: slice | None) -> None:
    """Add a chunk's gradient to the whole one: of a shared tensor, of one value a timestep, of indexed values."""
    if part is None:
        total.add_(gradient)
    elif index is None:
        total[part] = gradient
    else:
        total.index_add_(0, index[part], gradient)


def _leaf(tensor: Tensor, needed: bool) -> Tensor:
    return tensor.detach().requires_grad_(needed)


def _precise_type(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _precise(tensor: Tensor) -> Tensor:
    return tensor.to(_precise_type(tensor))

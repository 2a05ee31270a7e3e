"""What several streams of a timestep do together, without holding it for all timesteps at once.

Gathering every stream for every timestep costs ``[M, N, W]``, several times over for the gradients. Where that is much,
the timesteps are walked through in chunks that fit a cache; the backward pass gathers again, recomputes the little that
stands between the prepared tables and the result, and adds each chunk's gradient to the tables' rows.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.nn.fusion.base import Stream, gather

Core = Callable[..., Tensor]
"""From the values at m timesteps of each group of streams ``[N, m, W]``, and shared tensors, to ``[m, D]``."""

CHUNK_BYTES = {"cpu": 2**21, "cuda": 2**28}
"""Gathered values held at once: on a CPU what its caches hold, on a GPU enough to keep it busy."""
WHOLE_BYTES = 2**26
"""Up to so much gathered in all, nothing is recomputed: small models would pay more time than they save memory."""


def mix_in_chunks(core: Core, groups: Sequence[Sequence[Stream]], shared: Sequence[Tensor] = ()) -> Tensor:
    """``core(*groups, *shared)`` at every timestep, in single precision at least.

    Args:
        core: does not mix timesteps.
        groups: streams of one width each, values ``[U, W]`` and index ``[M]``.
        shared: tensors that all timesteps use.

    Returns:
        ``[M, D]``, of the streams' type.
    """
    streams = [s for group in groups for s in group]
    # A compiler or exporter plans memory itself and wants no loop.
    if torch.compiler.is_compiling() or (_bytes(streams) <= WHOLE_BYTES and torch.is_grad_enabled()):
        return _at_once(core, groups, shared)
    plan = _Plan(core, list(accumulate((len(g) for g in groups), initial=0)), [s.index is not None for s in streams])
    index = [s.index for s in streams if s.index is not None]
    mixed: Tensor = _Mix.apply(plan, len(shared), *shared, *(s.values for s in streams), *index)
    return mixed


def _bytes(streams: Sequence[Stream]) -> int:
    """What is gathered for all timesteps."""
    first = streams[0]
    timesteps = len(first.values if first.index is None else first.index)
    return timesteps * sum(s.values.shape[1] * max(4, s.values.itemsize) for s in streams)


def _at_once(core: Core, groups: Sequence[Sequence[Stream]], shared: Sequence[Tensor]) -> Tensor:
    """The core on all timesteps, with PyTorch's own gradient."""
    dtype = groups[0][0].values.dtype
    precise = torch.promote_types(dtype, torch.float32)
    with torch.autocast(groups[0][0].values.device.type, enabled=False):
        gathered = [torch.stack([gather(s) for s in group]).to(precise) for group in groups]
        return core(*gathered, *(t.to(precise) for t in shared)).to(dtype)


class _Plan(NamedTuple):
    """The core, where each group of streams begins and ends, and which streams have an index."""

    core: Core
    bounds: list[int]
    indexed: list[bool]


class _Gathered:
    """The streams' tables and indices, and what is gathered from them."""

    def __init__(self, plan: _Plan, tensors: Sequence[Tensor]) -> None:
        rest = iter(tensors[plan.bounds[-1] :])
        self.tables = tensors[: plan.bounds[-1]]
        self.index = [next(rest) if known else None for known in plan.indexed]
        self.groups = list(pairwise(plan.bounds))
        self.type = torch.promote_types(self.tables[0].dtype, torch.float32)

    def chunks(self) -> list[slice]:
        """Consecutive timesteps whose gathered values stay within the chunk's bytes."""
        timesteps = len(self.tables[0]) if self.index[0] is None else len(self.index[0])
        width = sum(t.shape[1] for t in self.tables) * self.type.itemsize
        size = max(1, CHUNK_BYTES.get(self.tables[0].device.type, CHUNK_BYTES["cuda"]) // width)
        return [slice(at, min(at + size, timesteps)) for at in range(0, max(timesteps, 1), size)]

    def rows(self, part: slice) -> list[Tensor]:
        """Values of each group at a chunk's timesteps, ``[N, m, W]``."""
        return [self._group(first, end, part) for first, end in self.groups]

    def _group(self, first: int, end: int, part: slice) -> Tensor:
        table = self.tables[first]
        group = table.new_empty((end - first, part.stop - part.start, table.shape[1]))
        for place in range(first, end):
            index, values = self.index[place], self.tables[place]
            if index is None:
                group[place - first] = values[part]
            else:
                torch.index_select(values, 0, index[part], out=group[place - first])
        return group.to(self.type)

    def add(self, totals: Sequence[Tensor], gradients: Sequence[Tensor], part: slice) -> None:
        """Add a chunk's gradients, ``[N, m, W]`` a group, to those of the tables."""
        for (first, end), gradient in zip(self.groups, gradients, strict=True):
            for place in range(first, end):
                index, mine = self.index[place], gradient[place - first]
                if index is None:
                    totals[place][part] = mine
                else:
                    totals[place].index_add_(0, index[part], mine)


class _Mix(torch.autograd.Function):
    """`mix_in_chunks` with its gradient."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, num_shared: int, *tensors: Tensor) -> Tensor:
        ctx.plan, ctx.num_shared = plan, num_shared
        ctx.save_for_backward(*tensors)
        streams = _Gathered(plan, tensors[num_shared:])
        shared = [t.to(streams.type) for t in tensors[:num_shared]]
        # Half precision would lose in the softmax what it wins in these few products.
        with torch.autocast(streams.tables[0].device.type, enabled=False):
            mixed = [plan.core(*streams.rows(part), *shared) for part in streams.chunks()]
        return torch.cat(mixed).to(streams.tables[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, num_shared = ctx.saved_tensors, ctx.num_shared
        streams = _Gathered(ctx.plan, tensors[num_shared:])
        shared = [t.detach().to(streams.type).requires_grad_() for t in tensors[:num_shared]]
        shared_totals = [torch.zeros_like(t) for t in shared]
        totals = [
            torch.empty_like(t, dtype=streams.type) if i is None else torch.zeros_like(t, dtype=streams.type)
            for t, i in zip(streams.tables, streams.index, strict=True)
        ]
        with torch.autocast(grad.device.type, enabled=False):
            for part in streams.chunks():
                rows = [r.requires_grad_() for r in streams.rows(part)]
                with torch.enable_grad():
                    mixed = ctx.plan.core(*rows, *shared)
                found = torch.autograd.grad(mixed, [*rows, *shared], grad[part].to(streams.type))
                streams.add(totals, found[: len(rows)], part)
                for total, gradient in zip(shared_totals, found[len(rows) :], strict=True):
                    total += gradient
        gradients = [g.to(t.dtype) for g, t in zip((*shared_totals, *totals), tensors, strict=False)]
        return None, None, *gradients, *(None for _ in tensors[len(gradients) :])

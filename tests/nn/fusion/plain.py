"""Streams for tests of the fusions, and the comparison with a plain reference in value and gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recsys.nn.fusion import Fusion, Stream, chunks


def make_streams(size: int = 16, timesteps: int = 9, distinct: tuple[int, ...] = (5, 2, 0)) -> list[Stream]:
    """Random streams in double precision; 0 distinct values stands for one value a timestep."""
    streams = []
    for count in distinct:
        values = torch.randn(count or timesteps, size, dtype=torch.float64, requires_grad=True)
        streams.append(Stream(values, torch.randint(0, count, (timesteps,)) if count else None))
    return streams


def at_each_timestep(streams: list[Stream]) -> Tensor:
    """``[M, N, D]``: every stream of every timestep."""
    return torch.stack([s.values if s.index is None else s.values[s.index] for s in streams], dim=1)


def require_equal(module: Fusion, streams: list[Stream], plain: Callable[[Tensor], Tensor]) -> None:
    """The module must give what `plain` gives from ``[M, N, D]``, and the same gradients: at once and in chunks."""
    for whole in (chunks.WHOLE_BYTES, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "WHOLE_BYTES", whole)
            patch.setitem(chunks.CHUNK_BYTES, "cpu", 2**12)
            _require_equal(module, streams, plain)


def _require_equal(module: Fusion, streams: list[Stream], plain: Callable[[Tensor], Tensor]) -> None:
    fast, slow = module(streams), plain(at_each_timestep(streams))
    torch.testing.assert_close(fast, slow)
    probe = torch.randn_like(slow)
    wanted = [s.values for s in streams] + list(module.parameters())
    fast_gradients = torch.autograd.grad((fast * probe).sum(), wanted)
    slow_gradients = torch.autograd.grad((slow * probe).sum(), wanted)
    for ours, theirs in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)

"""Chunks: any size of chunk gives the same values and gradients as autograd over all timesteps at once."""

import pytest
import torch
from torch import Tensor

from recsys.nn.fusion import Stream, chunks, gather
from recsys.nn.fusion.chunks import mix_in_chunks
from tests.nn.fusion.plain import make_streams


@pytest.fixture(autouse=True)
def _nothing_at_once(monkeypatch):
    monkeypatch.setattr(chunks, "WHOLE_BYTES", 0)


def core(pair: Tensor, single: Tensor, scale: Tensor) -> Tensor:
    """Something that is not linear in any argument: [2, m, D], [1, m, D], [D] to [m, D]."""
    return (pair[0] * pair[1]).tanh() * single[0].exp() + (scale * pair[1]).sin()


@pytest.mark.parametrize("timesteps_at_once", [1, 2, 4, 9, 100])
def test_any_chunk_gives_what_autograd_gives(monkeypatch, timesteps_at_once):
    torch.manual_seed(0)
    monkeypatch.setitem(chunks.CHUNK_BYTES, "cpu", timesteps_at_once * 3 * 16 * 8)
    streams, scale = make_streams(distinct=(5, 0, 2)), torch.randn(16, dtype=torch.float64, requires_grad=True)
    ours = mix_in_chunks(core, [streams[:2], streams[2:]], [scale])
    a, b, c = (gather(s) for s in streams)
    plain = core(torch.stack((a, b)), c.unsqueeze(0), scale)
    torch.testing.assert_close(ours, plain)
    leaves, probe = [*(s.values for s in streams), scale], torch.randn_like(plain)
    found = torch.autograd.grad((ours * probe).sum(), leaves)
    for mine, theirs in zip(found, torch.autograd.grad((plain * probe).sum(), leaves), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_no_timestep_and_no_gradient():
    empty = [Stream(torch.zeros(3, 4), torch.zeros(0, dtype=torch.int64)), Stream(torch.zeros(0, 4))]
    assert mix_in_chunks(lambda s: s.sum(0), [empty]).shape == (0, 4)
    with torch.no_grad():
        streams = make_streams(distinct=(5, 0))
        torch.testing.assert_close(
            mix_in_chunks(lambda s: s.prod(0), [streams]), gather(streams[0]) * streams[1].values
        )


def test_a_table_without_gradient_takes_part():
    frozen, trained = make_streams(distinct=(5, 2))
    ours = mix_in_chunks(lambda s: s.prod(0), [[Stream(frozen.values.detach(), frozen.index), trained]])
    (gradient,) = torch.autograd.grad(ours.sum(), [trained.values])
    expected = torch.zeros_like(gradient).index_add(0, trained.index, gather(frozen).detach())
    torch.testing.assert_close(gradient, expected)


def test_what_is_little_is_not_recomputed(monkeypatch):
    """Up to WHOLE_BYTES the core runs once for all timesteps, above it once a chunk and again for the gradient."""
    calls = []

    def count(streams: Tensor) -> Tensor:
        calls.append(streams.shape[1])
        return streams.prod(0)

    streams = make_streams(timesteps=8, distinct=(5, 0))
    bytes_each = 2 * 16 * 8
    monkeypatch.setitem(chunks.CHUNK_BYTES, "cpu", 4 * bytes_each)
    for whole, expected in ((8 * bytes_each, [8]), (8 * bytes_each - 1, [4, 4, 4, 4])):
        monkeypatch.setattr(chunks, "WHOLE_BYTES", whole)
        calls.clear()
        mix_in_chunks(count, [streams]).sum().backward()
        assert calls == expected


def test_a_compiler_sees_no_loop(monkeypatch):
    streams = make_streams(distinct=(5, 0))
    expected = mix_in_chunks(lambda s: s.sum(0), [streams])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(mix_in_chunks(lambda s: s.sum(0), [streams]), expected)

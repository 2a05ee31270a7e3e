"""Bounds of buckets against the buckets themselves."""

import pytest
import torch
from torch import Tensor

from recsys.backbones import hstu
from recsys.export import buckets as module
from recsys.export.buckets import ExportedTimeBuckets, least_floats

_BOUNDS = (torch.arange(1, 64) * hstu.BASE).to(torch.float64).exp() * 1e6
TIMES = torch.cat(
    [
        torch.arange(0, 4000) * 10**6,
        torch.randint(0, 10**13, (4000,)),
        torch.randint(0, 10**17, (99,)),
        (_BOUNDS[:, None] * torch.tensor([1 - 5e-5, 1 + 5e-5])).flatten().long(),  # on both sides of each bound
    ]
)


def test_least_floats_of_a_known_function() -> None:
    found = least_floats(lambda x: (x / 3.0).floor(), torch.tensor([1.0, 2.0, 7.0]))
    assert found.tolist() == [3.0, 6.0, 21.0]


@pytest.mark.parametrize("number", [1, 8, 64])
def test_time_buckets_are_those_of_the_model(number: int) -> None:
    pairs = torch.stack([torch.zeros_like(TIMES), TIMES], dim=1)
    assert torch.equal(ExportedTimeBuckets(number)(pairs), hstu.time_bucket(pairs, number))


@pytest.mark.parametrize("error", [1e-4, -1e-4])
def test_a_logarithm_that_is_off_is_corrected(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = torch.stack([torch.zeros_like(TIMES), TIMES], dim=1)
    expected, exported = hstu.time_bucket(pairs, 64), ExportedTimeBuckets(64)

    def off(times: Tensor, number: int) -> Tensor:
        seconds = (times[:, :, None] - times[:, None, :]).abs().to(torch.float32) / hstu.SECOND
        logarithm = (seconds.clamp(min=1).log() + error).clamp(min=0)
        return (logarithm / hstu.BASE).long().clamp(max=number - 1)

    assert not torch.equal(off(pairs, 64), expected)
    monkeypatch.setattr(module, "time_bucket", off)
    assert torch.equal(exported(pairs), expected)

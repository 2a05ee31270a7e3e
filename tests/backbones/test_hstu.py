"""HSTU's time buckets."""

import math

import pytest
import torch

from recsys.backbones.hstu import time_bucket
from tests.backbones.cases import SIZE, make


def test_buckets_grow_with_the_logarithm_and_the_last_one_is_open() -> None:
    seconds = [0, 1, 1.3, 1.4, 60, 3600, 86_400, 10**9]
    times = torch.tensor([[0] + [int(s * 1e6) for s in seconds]])
    found = time_bucket(times, 64)[0, 0, 1:].tolist()
    assert found == [min(63, int(math.log(max(1, s)) / 0.301)) for s in seconds]
    assert found[-1] == 63 and found[:4] == [0, 0, 0, 1]


def test_the_time_between_has_no_direction() -> None:
    buckets = time_bucket(torch.tensor([[5, 10**9, 10**12]]), 64)
    assert torch.equal(buckets, buckets.transpose(1, 2)) and not buckets.diagonal(dim1=1, dim2=2).any()


def test_without_times_it_says_so() -> None:
    with pytest.raises(ValueError, match="wants times"):
        make("hstu")(torch.randn(1, 3, SIZE), torch.tensor([3]))

"""Time inputs against scalar formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.nn.time import TimeGapEmbedding, cyclic_table, gap_buckets


@given(st.floats(0, 1e7), st.integers(1, 200), st.floats(1, 1e6), st.sampled_from(["log", "sqrt"]))
def test_a_bucket_is_the_share_of_the_scale(gap, count, longest, scale):
    f = math.log1p if scale == "log" else math.sqrt
    share = count * f(gap) / f(longest)
    found = int(gap_buckets(torch.tensor([gap], dtype=torch.float64), count, longest, scale))
    assert 1 <= found <= count
    if abs(share - round(share)) > 1e-9:  # on an edge, rounding decides
        assert found == min(count, 1 + math.floor(share))


@pytest.mark.parametrize("scale", ["log", "sqrt"])
def test_the_buckets_use_their_range(scale):
    gaps = torch.linspace(0, 3600, 200_001, dtype=torch.float64)
    assert gap_buckets(gaps, 64, 3600.0, scale).unique().tolist() == list(range(1, 65))


def test_padding_has_a_bucket_of_its_own_that_is_zero_and_stays_so():
    torch.manual_seed(0)
    gap = TimeGapEmbedding(4, 8, 60.0)
    ids = gap.ids(torch.tensor([[0.0, 5.0, 0.0]]), torch.tensor([[False, False, True]]))
    assert ids[0, 0] == 1
    assert ids[0, 2] == 0
    vectors = gap(ids)
    assert vectors[0, 2].abs().sum() == 0
    assert vectors[0, 0].abs().sum() > 0
    vectors.sum().backward()
    assert gap.table.weight.grad[0].abs().sum() == 0


def test_a_scaled_column_is_refused():
    with pytest.raises(InputError, match=r"-0.5 seconds is negative .*transforms: \[\]"):
        TimeGapEmbedding(4, 8, 60.0).ids(torch.tensor([1.0, -0.5]), torch.tensor([False, False]))


def test_hours_lie_on_a_circle():
    table = cyclic_table(27, 3, harmonics=2)
    assert table.shape == (27, 4)
    assert table[:3].abs().sum() == 0
    for hour in (0, 6, 23):
        angle = 2 * math.pi * hour / 24
        expected = [math.sin(angle), math.sin(2 * angle), math.cos(angle), math.cos(2 * angle)]
        assert table[3 + hour].tolist() == pytest.approx(expected, abs=1e-6)
    distances = (table[3:] - table[3]).norm(dim=1)
    assert distances[23] == pytest.approx(float(distances[1]), abs=1e-6)  # 23 o'clock is as near to 0 as 1 o'clock

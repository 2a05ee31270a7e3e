"""What is drawn, how often, and what logQ says of it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.losses import negatives
from recsys.losses.negatives import InBatch, Mixed, Popularity, Uniform

COUNTS = torch.tensor([5, 5, 5, 40, 0, 30, 20, 10])  # ids 3 .. 7 are items, 4 was never seen
TARGETS = torch.tensor([3, 3, 5, 7])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=40, deadline=None)
@given(items=st.integers(2, 60), share=st.floats(0.01, 1.0), first=st.integers(0, 3), seed=st.integers(0, 99))
def test_uniform_draws_distinct_items(items, share, first, seed):
    n = max(1, int(items * share))
    sampler = Uniform(items + first, first, n)
    drawn = sampler(TARGETS, generator(seed))
    assert drawn.ids.shape == drawn.log_counts.shape == (n,)
    assert len(drawn.ids.unique()) == n
    assert int(drawn.ids.min()) >= first and int(drawn.ids.max()) < items + first
    assert drawn.log_counts[0].exp().item() == pytest.approx(n / items)
    assert torch.equal(sampler(TARGETS, generator(seed)).ids, drawn.ids)


@pytest.mark.parametrize("n", [2, 9])  # by rejection, by permutation
def test_uniform_is_uniform(n):
    g, sampler = generator(), Uniform(13, 3, n)
    counts = torch.zeros(13)
    for _ in range(3000):
        counts[sampler(TARGETS, g).ids] += 1
    assert counts[:3].sum() == 0
    expected = 3000 * math.exp(float(sampler(TARGETS, g).log_counts[0]))
    assert ((counts[3:] - expected).abs() < 5 * expected**0.5).all()


def test_a_position_never_draws_its_target_and_all_others_alike():
    targets = torch.tensor([3, 5, 7]).repeat_interleave(2000)
    drawn = Uniform(8, 3, 4, per_position=True)(targets, generator())
    assert drawn.ids.shape == drawn.log_counts.shape == (6000, 4)
    assert not (drawn.ids == targets[:, None]).any()
    assert drawn.log_counts[0, 0].item() == pytest.approx(0.0)  # 4 draws from 4 others
    counts = torch.bincount(drawn.ids[:2000].flatten(), minlength=8)
    assert counts[:4].tolist() == [0, 0, 0, 0]
    assert ((counts[4:] - 2000).abs() < 5 * 2000**0.5).all()


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_popularity_draws_as_often_as_log_q_says(power):
    sampler, g = Popularity(COUNTS, 3, 4, power), generator()
    counts = torch.zeros(8)
    for _ in range(3000):
        counts += torch.bincount(sampler(TARGETS, g).ids, minlength=8)
    assert counts[:3].sum() == 0 and counts[4] == 0
    share = torch.tensor([40.0, 30, 20, 10]) ** power
    want = 3000 * 4 * share / share.sum()
    seen = torch.tensor([3, 5, 6, 7])
    assert ((counts[seen] - want).abs() < 5 * want**0.5).all()
    torch.testing.assert_close(3000 * sampler.log_counts(seen, 4).exp(), want, rtol=1e-5, atol=0)


def test_popularity_takes_the_ends_of_the_unit_interval(monkeypatch):
    sampler = Popularity(torch.tensor([0, 0, 0, 0, 1, 0, 1, 0]), 3, 2)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert sampler.draw(TARGETS).tolist() == [4, 6]


def test_in_batch_takes_the_targets():
    everything = InBatch(COUNTS, 3)(TARGETS)
    assert torch.equal(everything.ids, TARGETS)
    share = torch.tensor([40.0, 40, 30, 10]) / 101  # the unseen item counts once
    torch.testing.assert_close(everything.log_counts, (4 * share).log())
    some = InBatch(COUNTS, 3, 2)(torch.arange(3, 8), generator())
    assert len(some.ids.unique()) == 2
    torch.testing.assert_close(some.log_counts, InBatch(COUNTS, 3).log_counts(some.ids, 2))
    assert len(InBatch(COUNTS, 3, 9)(TARGETS.repeat(5), generator()).ids) == 9  # positions, not items
    none = InBatch(COUNTS, 3)(TARGETS[:0])
    assert none.ids.shape == none.log_counts.shape == (0,)


def test_mixed_adds_what_is_expected_of_both():
    batch, uniform = InBatch(COUNTS, 3), Uniform(8, 3, 2)
    drawn = Mixed(batch, uniform)(TARGETS, generator(3))
    assert torch.equal(drawn.ids[:4], TARGETS)
    assert torch.equal(drawn.ids[4:], uniform(TARGETS, generator(3)).ids)
    want = batch.log_counts(drawn.ids, 4).exp() + 2 / 5
    torch.testing.assert_close(drawn.log_counts.exp(), want)


def test_what_cannot_be_drawn_is_refused():
    for make, message in (
        (lambda: Uniform(8, 3, 6), "6 negatives are more than the 5 items; take fewer"),
        (lambda: Uniform(8, 3, 5, per_position=True), "5 negatives are more than the 4 items other than the target"),
        (lambda: Uniform(8, 3, 0), r"negatives \(0\) must be at least 1"),
        (lambda: InBatch(COUNTS, 3, 0), r"negatives \(0\) must be at least 1"),
        (lambda: Popularity(COUNTS, 3, 5), "5 negatives are more than the 4 items with a count"),
        (lambda: Popularity(COUNTS, 3, 2, -1.0), r"power \(-1.0\)"),
        (lambda: Popularity(torch.zeros(8), 3, 2), "no item has a count"),
        (lambda: Popularity(-COUNTS, 3, 2), "none below 0"),
        (lambda: Mixed(InBatch(COUNTS, 3), Uniform(9, 3, 2)), "8 and 9 ids cannot be mixed"),
        (lambda: Mixed(InBatch(COUNTS, 3), Uniform(8, 3, 2, True)), "cannot be mixed"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


def test_few_of_a_million_take_no_memory_of_a_million(monkeypatch):
    monkeypatch.setattr(torch, "randperm", None)
    ids = Uniform(1_000_003, 3, 300)(TARGETS, generator()).ids
    assert len(ids.unique()) == 300
    assert abs(float(ids.double().mean()) - 500_000) < 5 * 1_000_000 / 12**0.5 / 300**0.5


def test_distinct_keeps_the_order_of_drawing():
    assert negatives._first_seen(torch.tensor([5, 2, 5, 9, 2])).tolist() == [5, 2, 9]

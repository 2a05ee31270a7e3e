"""Labels and what is hidden, against loops over rows and steps."""

from functools import partial
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import ModelConfig
from recsys.nn.masking import (
    RULES,
    Masked,
    causal,
    causal_last,
    final_value,
    fitting,
    mlm,
    next_occurrence,
    permutation,
    popularity_draw,
    reads,
    replaced,
    span,
    uniform_draw,
)

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=6)
HIDING = (mlm, span, permutation, replaced)


def padded(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.arange(3, 3 + length) + 10 * row
    return ids, torch.tensor(lengths)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels(masked: Masked) -> list[tuple[int, int]]:
    return list(zip(masked.positions.tolist(), masked.targets.tolist(), strict=True))


@given(LENGTHS)
def test_causal_labels_every_event_but_the_first(lengths):
    ids, sizes = padded(lengths)
    masked = causal(ids, sizes)
    assert labels(masked) == [
        (r * ids.shape[1] + t, int(ids[r, t + 1])) for r, n in enumerate(lengths) for t in range(n - 1)
    ]
    assert masked.input_mask is None
    assert masked.events.tolist() == (masked.positions + 1).tolist()


@given(LENGTHS)
def test_causal_last_labels_the_last_event_of_rows_with_a_history(lengths):
    ids, sizes = padded(lengths)
    expected = [(r * ids.shape[1] + n - 2, int(ids[r, n - 1])) for r, n in enumerate(lengths) if n > 1]
    assert labels(causal_last(ids, sizes)) == expected


@given(LENGTHS)
def test_final_value_labels_every_position_with_the_last_event(lengths):
    ids, sizes = padded(lengths)
    expected = [(r * ids.shape[1] + t, int(ids[r, n - 1])) for r, n in enumerate(lengths) for t in range(n - 1)]
    masked = final_value(ids, sizes)
    assert labels(masked) == expected
    assert ids.flatten()[masked.events].tolist() == masked.targets.tolist()


@given(LENGTHS, st.integers(0, 1000))
def test_next_occurrence_labels_with_the_first_later_event_that_is_wanted(lengths, seed):
    sizes = torch.tensor(lengths)
    ids = torch.randint(3, 8, (len(lengths), max(lengths)), generator=seeded(seed))  # in the padding too
    wanted, expected = [4, 7], []
    for r, n in enumerate(lengths):
        for t in range(n - 1):
            later = [(u, int(ids[r, u])) for u in range(t + 1, n) if int(ids[r, u]) in wanted]
            if later:
                expected.append((r * ids.shape[1] + t, later[0][1], r * ids.shape[1] + later[0][0]))
    masked = next_occurrence(ids, sizes, wanted=torch.tensor(wanted))
    assert [(*label, event) for label, event in zip(labels(masked), masked.events.tolist(), strict=True)] == expected


def test_padding_is_told_by_length_not_by_id():
    ids = torch.tensor([[5, 0, 6]])  # an id 0 in the middle is a valid event
    assert causal(ids, torch.tensor([3])).targets.tolist() == [0, 6]
    assert mlm(ids, torch.tensor([3]), probability=0.999).targets.numel() == 2


@pytest.mark.parametrize("masking", HIDING)
@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 1000), probability=st.sampled_from([0.001, 0.3, 0.999]))
def test_at_least_one_event_is_hidden_and_never_all(masking, lengths, seed, probability):
    ids, sizes = padded(lengths)
    masked = masking(ids, sizes, seeded(seed), probability=probability)
    rows, steps = masked.positions // ids.shape[1], masked.positions % ids.shape[1]
    assert (steps < sizes[rows]).all()
    for row, length in enumerate(lengths):
        hidden = int((rows == row).sum())
        assert hidden == 0 if length == 1 else 1 <= hidden < length
    assert masked.targets.tolist() == ids.flatten()[masked.positions].tolist()
    assert masked.events.tolist() == masked.positions.tolist()
    if masking is not permutation:
        assert masked.input_mask.flatten().nonzero().squeeze(1).tolist() == masked.positions.tolist()


@pytest.mark.parametrize("masking", HIDING)
def test_the_same_generator_draws_the_same(masking):
    ids, sizes = padded([7, 5, 2, 6])
    first, again, other = (masking(ids, sizes, seeded(s), probability=0.4).positions.tolist() for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("masking", [mlm, partial(span, mean_span=4.0), partial(permutation, mean_span=4.0)])
def test_the_share_that_is_hidden_is_the_probability(masking):
    ids = torch.arange(3, 403).repeat(200, 1)
    masked = masking(ids, torch.full((200,), 400), seeded(), probability=0.3)
    assert len(masked.positions) / ids.numel() == pytest.approx(0.3, abs=0.01)


def test_every_place_of_a_row_is_hidden_alike_often():
    ids, sizes = padded([6] * 6000)
    shares = mlm(ids, sizes, seeded(), probability=0.3).input_mask.float().mean(dim=0)
    assert shares.max() - shares.min() < 0.04


def test_spans_are_runs_of_the_mean_length():
    ids = torch.arange(3, 2003).repeat(50, 1)
    mask = span(ids, torch.full((50,), 2000), seeded(), probability=0.02, mean_span=5.0).input_mask.int()
    runs = (mask.diff(dim=1, prepend=mask[:, :1] * 0) == 1).sum()
    assert float(mask.sum() / runs) == pytest.approx(5.0, rel=0.1)  # a few runs overlap
    single = span(ids, torch.full((50,), 2000), seeded(), probability=0.02, mean_span=1.0).input_mask.int()
    alone = (single.diff(dim=1, prepend=single[:, :1] * 0) == 1).sum()
    assert float(single.sum() / alone) < 1.1


@pytest.mark.parametrize("masking", HIDING)
def test_in_a_share_of_the_rows_the_last_event_alone_is_hidden(masking):
    ids, sizes = padded([5, 2, 1, 7])
    masked = masking(ids, sizes, seeded(), probability=0.5, last_probability=1.0)
    assert masked.positions.tolist() == [4, 8, 27]
    ids, sizes = padded([30] * 1000)
    masked = masking(ids, sizes, seeded(), probability=0.5, last_probability=0.25)
    counts = torch.bincount(masked.positions // 30, minlength=1000)
    assert float((counts == 1).float().mean()) == pytest.approx(0.25, abs=0.05)


@given(LENGTHS, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_permutation_orders_what_is_predicted(lengths, seed):
    """Context is seen by all; of two predicted events exactly one sees the other, in one order; none sees itself."""
    ids, sizes = padded(lengths)
    masked = permutation(ids, sizes, seeded(seed), probability=0.5)
    for row, length in enumerate(lengths):
        seen = masked.attention_mask[row]
        inside = masked.positions[masked.positions // ids.shape[1] == row] % ids.shape[1]
        targets = set(inside.tolist())
        assert not seen[:, length:].any()
        for j in range(length):
            if j not in targets:
                assert seen[:length, j].all()
        order = sorted(targets, key=lambda i: int(seen[i].sum()))
        for place, i in enumerate(order):
            assert {j for j in targets if seen[i, j]} == set(order[:place])
        for i in set(range(length)) - targets:
            assert not any(seen[i, j] for j in targets)


def test_replaced_events_are_drawn_and_the_rest_is_as_it_was():
    ids, sizes = padded([7, 4])
    masked = replaced(ids, sizes, seeded(), draw=uniform_draw(50, 60), probability=0.5)
    mask = masked.input_mask
    assert (masked.replacement_ids[~mask] == ids[~mask]).all()
    assert ((masked.replacement_ids[mask] >= 50) & (masked.replacement_ids[mask] < 60)).all()
    assert replaced(ids, sizes, seeded(), probability=0.5).replacement_ids is None


def test_draws_follow_their_distribution():
    events = torch.zeros(40_000, dtype=torch.int64)
    uniform = torch.bincount(uniform_draw(3, 8)(events, seeded()), minlength=8) / len(events)
    np.testing.assert_allclose(uniform, [0, 0, 0, 0.2, 0.2, 0.2, 0.2, 0.2], atol=0.01)
    popular = torch.bincount(popularity_draw(torch.tensor([0, 0, 0, 6, 0, 3, 1]))(events, seeded()), minlength=7)
    np.testing.assert_allclose(popular / len(events), [0, 0, 0, 0.6, 0, 0.3, 0.1], atol=0.01)


def test_rules_name_what_the_configuration_takes():
    assert set(get_args(ModelConfig.model_fields["masking"].annotation)) == set(RULES)
    assert fitting("causal") == ["causal", "causal_last", "final_value", "next_occurrence"]
    assert fitting("bidirectional") == ["mlm", "span", "replaced"]
    assert fitting("two_stream") == ["mlm", "span", "replaced", "permutation"]


def test_a_backbone_says_how_it_reads():
    module = torch.nn.Identity()
    module.is_causal = True
    assert reads(module) == "causal"
    module.is_causal = False
    assert reads(module) == "bidirectional"
    module.is_two_stream = True
    assert reads(module) == "two_stream"
    with pytest.raises(AttributeError, match="is_causal"):  # silence must not mean that labels are safe
        reads(torch.nn.Identity())

"""Encoders of numbers against their formulas."""

import math

import pytest
import torch

from recsys.nn.continuous import ContinuousMLP, SoftOneHot


def test_soft_one_hot_mixes_the_bins_by_their_softmax():
    torch.manual_seed(0)
    encoder = SoftOneHot(2, 5, num_bins=4)
    values = torch.randn(3, 2)
    expected = torch.zeros(3, 5)
    for row in range(3):
        for column in range(2):
            scores = encoder.slope[column] * values[row, column] + encoder.offset[column]
            expected[row] += torch.softmax(scores, 0) @ encoder.table[column]
    torch.testing.assert_close(encoder(values), expected)


def test_soft_one_hot_starts_with_bins_at_different_places():
    encoder = SoftOneHot(1, 5, num_bins=5)
    scores = torch.tensor([[-2.0], [0.0], [2.0]]).unsqueeze(-1) * encoder.slope + encoder.offset
    assert scores.squeeze(1).argmax(-1).tolist() == [0, 2, 4]


def plain_mlp(encoder: ContinuousMLP, row: list[float]) -> list[float]:
    """``W2 gelu(W1 x + b1) + b2`` of one timestep in plain loops, gelu(z) = z times the normal distribution at z."""
    first, second = encoder.hidden, encoder.output
    hidden = []
    for weights, bias in zip(first.weight.tolist(), first.bias.tolist(), strict=True):
        z = bias + sum(w * x for w, x in zip(weights, row, strict=True))
        hidden.append(z * (1 + math.erf(z / math.sqrt(2))) / 2)
    outer = zip(second.weight.tolist(), second.bias.tolist(), strict=True)
    return [bias + sum(w * h for w, h in zip(weights, hidden, strict=True)) for weights, bias in outer]


def test_mlp_is_two_maps_with_a_gelu_between_them():
    torch.manual_seed(0)
    encoder = ContinuousMLP(3, 5).double()
    values = 3 * torch.randn(2, 4, 3, dtype=torch.float64)
    expected = torch.tensor([[plain_mlp(encoder, row) for row in rows] for rows in values.tolist()]).double()
    torch.testing.assert_close(encoder(values), expected, rtol=1e-6, atol=1e-6)
    after = torch.nn.Linear(5, 2).double()
    torch.testing.assert_close(encoder(values, after), expected @ after.weight.T + after.bias, rtol=1e-6, atol=1e-6)


def test_mlp_reads_every_column():
    torch.manual_seed(0)
    encoder = ContinuousMLP(3, 4)
    values = torch.randn(2, 3, requires_grad=True)
    encoder(values).sum().backward()
    assert (values.grad.abs() > 0).all()


@pytest.mark.parametrize("timesteps", [5, 300])
@pytest.mark.parametrize("kind", [ContinuousMLP, SoftOneHot])
def test_composed_with_the_next_map_it_gives_the_same(kind, timesteps):
    """Few timesteps go through both maps, many through their product."""
    torch.manual_seed(0)
    encoder, after = kind(2, 16).double(), torch.nn.Linear(16, 6).double()
    values = torch.randn(timesteps, 2, dtype=torch.float64)
    ours, plain = encoder(values, after), after(encoder(values))
    torch.testing.assert_close(ours, plain)
    probe, wanted = torch.randn_like(plain), [*encoder.parameters(), *after.parameters()]
    found = torch.autograd.grad((ours * probe).sum(), wanted)
    for mine, theirs in zip(found, torch.autograd.grad((plain * probe).sum(), wanted), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_many_timesteps_go_through_one_map():
    encoder, after = ContinuousMLP(2, 16), torch.nn.Linear(16, 6)
    rows = []
    encoder.output.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    encoder(torch.randn(300, 2), after)
    assert rows == []
    encoder(torch.randn(5, 2), after)
    assert rows == [5]


@pytest.mark.parametrize("kind", [ContinuousMLP, SoftOneHot])
def test_an_encoder_with_the_next_map_in_it_gives_what_both_give(kind):
    torch.manual_seed(0)
    encoder, after = kind(3, 16).double(), torch.nn.Linear(16, 6).double()
    kept, values = {n: p.clone() for n, p in encoder.named_parameters()}, torch.randn(7, 3, dtype=torch.float64)
    composed = encoder.composed(after)
    torch.testing.assert_close(composed.double()(values), after(encoder(values)), rtol=1e-6, atol=1e-6)
    assert all(torch.equal(p, kept[n]) for n, p in encoder.named_parameters())

"""Heads against plain logits."""

import pytest
import torch
from torch.nn import functional

from recsys.errors import ConfigError, InputError
from recsys.heads import BinaryHead, CatalogueHead, RealHead
from recsys.losses import GBCE, BinaryCrossEntropy, CrossEntropy, InfoNCE, MeanSquaredError, SampledSoftmax
from recsys.losses.negatives import Uniform
from recsys.nn.repeats import RepeatBias
from tests.losses.sampling import plain_loss


def test_scores_leave_reserved_ids_out_and_agree_with_the_loss():
    torch.manual_seed(0)
    head = CatalogueHead(hidden_size=6, cardinality=9, reserved=3, loss=CrossEntropy(ignore_rows=3), bias=True)
    torch.nn.init.normal_(head.bias)
    hidden, targets = torch.randn(5, 6), torch.tensor([3, 8, 4, 4, 7])
    scores = head.scores(hidden)
    assert torch.isinf(scores[:, :3]).all()
    torch.testing.assert_close(scores[:, 3:], (hidden @ head.weight.T + head.bias)[:, 3:])
    expected = functional.cross_entropy(scores[:, 3:], targets - 3, reduction="sum")
    output = head.loss(hidden, targets)
    torch.testing.assert_close(output.sum, expected)
    assert float(output.count) == 5


def test_a_tied_head_scores_with_the_projected_embedding():
    head = CatalogueHead(hidden_size=6, cardinality=9, reserved=3, loss=CrossEntropy(ignore_rows=3), tied_size=4)
    embedding, hidden = torch.randn(9, 4, requires_grad=True), torch.randn(2, 6)
    expected = hidden @ (embedding @ head.tied.weight.T).T
    torch.testing.assert_close(head.scores(hidden, embedding)[:, 3:], expected[:, 3:])
    head.loss(hidden, torch.tensor([3, 4]), embedding).sum.backward()
    assert embedding.grad.abs().sum() > 0


def test_a_real_head_predicts_one_number():
    head = RealHead(hidden_size=6, loss=MeanSquaredError())
    hidden, targets = torch.randn(4, 6), torch.randn(4)
    torch.testing.assert_close(head.loss(hidden, targets).sum, ((head.scores(hidden) - targets) ** 2).sum())


@pytest.mark.parametrize("tied", [None, 4])
@pytest.mark.parametrize("learned", [False, True])
def test_cosine_scores_divided_by_the_temperature(tied, learned):
    torch.manual_seed(0)
    head = CatalogueHead(
        hidden_size=6,
        cardinality=9,
        reserved=3,
        loss=CrossEntropy(ignore_rows=3),
        bias=True,
        tied_size=tied,
        similarity="cosine",
        temperature=0.05,
        learn_temperature=learned,
    ).double()
    torch.nn.init.normal_(head.bias)
    embedding = torch.randn(9, 4, dtype=torch.float64)
    hidden, targets = torch.randn(5, 6, dtype=torch.float64, requires_grad=True), torch.tensor([3, 8, 4, 4, 7])
    cosine = functional.cosine_similarity(hidden[:, None], head.table(embedding)[None], dim=-1)
    expected = cosine / 0.05 + head.bias
    torch.testing.assert_close(head.scores(hidden, embedding)[:, 3:], expected[:, 3:])
    want = functional.cross_entropy(expected[:, 3:], targets - 3, reduction="sum")
    got = head.loss(hidden, targets, embedding).sum
    torch.testing.assert_close(got, want)
    leaves = [hidden, *(x for x in head.parameters() if x is not head.log_temperature)]
    for a, b in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # the learned one was float32


def test_a_learned_temperature_learns_and_stays_above_its_floor():
    torch.manual_seed(0)
    head = CatalogueHead(
        hidden_size=6, cardinality=9, reserved=3, loss=CrossEntropy(ignore_rows=3), learn_temperature=True
    ).double()
    hidden, targets = torch.randn(5, 6, dtype=torch.float64), torch.tensor([3, 8, 4, 4, 7])
    grad = torch.autograd.grad(head.loss(hidden, targets).sum, head.log_temperature)[0]
    t = torch.ones((), dtype=torch.float64, requires_grad=True)
    logits = hidden @ head.weight.T[:, 3:] / t
    want = torch.autograd.grad(functional.cross_entropy(logits, targets - 3, reduction="sum"), t)[0]
    torch.testing.assert_close(grad, want)
    with torch.no_grad():
        head.log_temperature.fill_(-50.0)
    torch.testing.assert_close(head.scores(hidden)[:, 3:], 100 * hidden @ head.weight.T[:, 3:])


@pytest.mark.parametrize("tied", [None, 4])
@pytest.mark.parametrize("per_position", [False, True])
def test_a_sampled_loss_touches_its_rows_and_no_others(tied, per_position, monkeypatch):
    torch.manual_seed(0)
    sampler = Uniform(50, 3, 6, per_position)
    head = CatalogueHead(
        hidden_size=6,
        cardinality=50,
        reserved=3,
        loss=SampledSoftmax(),
        bias=True,
        tied_size=tied,
        sampler=sampler,
        similarity="cosine",
        temperature=0.1,
    ).double()
    torch.nn.init.normal_(head.bias)
    embedding = torch.randn(50, 4, dtype=torch.float64, requires_grad=True)
    hidden, targets = torch.randn(5, 6, dtype=torch.float64, requires_grad=True), torch.tensor([3, 48, 4, 4, 7])
    drawn = sampler(targets)
    monkeypatch.setattr(sampler, "forward", lambda _: drawn)
    scores = head.scores(hidden, embedding)
    values = plain_loss("softmax", scores, torch.arange(50), targets, drawn.ids, log_counts=drawn.log_counts)
    leaves = [hidden, head.bias, embedding if tied else head.weight]
    want = torch.autograd.grad(values.sum(), leaves)
    monkeypatch.setattr(head, "table", None)  # the whole table is never asked for
    got = head.loss(hidden, targets, embedding)
    torch.testing.assert_close(got.sum, values.sum())
    found = torch.autograd.grad(got.sum, leaves)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b)
    touched = set(targets.tolist()) | set(drawn.ids.flatten().tolist())
    assert set(found[2].abs().sum(1).nonzero().flatten().tolist()) <= touched


def test_a_sampled_loss_is_measured_as_full_cross_entropy():
    head = CatalogueHead(
        hidden_size=6, cardinality=50, reserved=3, loss=GBCE(0.1), sampler=Uniform(50, 3, 5), temperature=0.5
    )
    hidden, targets = torch.randn(5, 6), torch.tensor([3, 48, 4, 4, 7])
    first, again = head.loss(hidden, targets).sum, head.loss(hidden, targets).sum
    assert first.item() != again.item()
    head.eval()
    want = functional.cross_entropy(head.scores(hidden)[:, 3:], targets - 3, reduction="sum")
    torch.testing.assert_close(head.loss(hidden, targets).sum, want)


def test_info_nce_needs_no_sampler():
    torch.manual_seed(0)
    head = CatalogueHead(hidden_size=6, cardinality=50, reserved=3, loss=InfoNCE())
    hidden, targets = torch.randn(5, 6), torch.tensor([3, 48, 4, 4, 7])
    scores = head.scores(hidden)[:, [3, 4, 7, 48]]
    want = functional.cross_entropy(scores, torch.tensor([0, 3, 1, 1, 2]), reduction="sum")
    torch.testing.assert_close(head.loss(hidden, targets).sum, want)
    assert head.loss(hidden[:0], targets[:0]).sum.item() == 0


@pytest.mark.parametrize("sampled", [False, True])
def test_class_weights_weigh_by_the_target_and_are_not_saved(sampled):
    torch.manual_seed(0)
    weights = torch.rand(9)
    head = CatalogueHead(
        hidden_size=6,
        cardinality=9,
        reserved=3,
        loss=SampledSoftmax() if sampled else CrossEntropy(ignore_rows=3),
        sampler=Uniform(9, 3, 6) if sampled else None,
        class_weights=weights,
    )
    hidden, targets = torch.randn(5, 6), torch.tensor([3, 8, 4, 4, 7])
    each = functional.cross_entropy(head.scores(hidden)[:, 3:], targets - 3, reduction="none")
    got = head.loss(hidden, targets)  # 6 of 6 items drawn: the full cross entropy
    torch.testing.assert_close(got.sum, (each * weights[targets]).sum())
    torch.testing.assert_close(got.count, weights[targets].sum())
    assert list(head.state_dict()) == ["weight"]


def test_bad_input_of_a_head_is_named():
    def make(**changes: object) -> CatalogueHead:
        settings = {"hidden_size": 6, "cardinality": 9, "reserved": 3, "loss": CrossEntropy(ignore_rows=3)}
        return CatalogueHead(**(settings | changes))

    for changes, message in (
        ({"temperature": 0.0}, r"temperature \(0.0\) must be a finite number above 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 0.001, "learn_temperature": True}, "at least 0.01"),
        ({"class_weights": torch.ones(8)}, r"class_weights \[8\] must be \[9\]"),
        ({"loss": SampledSoftmax()}, "SampledSoftmax needs a sampler"),
        ({"loss": SampledSoftmax(), "sampler": Uniform(8, 3, 2)}, "draws from 8 ids, the head has 9"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(**changes)
    for target, message in ((9, "target 9 is out of range"), (2, "target 2 is a reserved id")):
        sampled = {"loss": SampledSoftmax(), "sampler": Uniform(9, 3, 2)}
        for head in (make(), make(**sampled), make(class_weights=torch.ones(9)), make(loss=InfoNCE())):
            with pytest.raises(InputError, match=message):
                head.loss(torch.zeros(1, 6), torch.tensor([target]))


def test_a_binary_head_predicts_the_second_class():
    head = BinaryHead(hidden_size=6, loss=BinaryCrossEntropy(), first_id=3)
    hidden, targets = torch.randn(4, 6), torch.tensor([3, 4, 4, 3])
    p = torch.sigmoid(head.scores(hidden))
    want = -(p[[1, 2]].log().sum() + (1 - p[[0, 3]]).log().sum())
    torch.testing.assert_close(head.loss(hidden, targets).sum, want)
    with pytest.raises(InputError, match="target 2 is no class of two"):
        head.loss(hidden, targets + 1)


def test_a_repeat_bias_moves_the_items_of_the_history_alone():
    torch.manual_seed(0)
    loss = CrossEntropy(ignore_rows=3)
    head = CatalogueHead(
        hidden_size=6, cardinality=9, reserved=3, loss=loss, temperature=0.5, repeats=RepeatBias(4)
    ).double()
    torch.nn.init.normal_(head.repeats.weight)
    hidden = torch.randn(2, 6, dtype=torch.float64)
    history = torch.tensor([[0, 5, 1, 8], [0, 0, 0, 3]])  # newest last; 0 and 1 are reserved
    new, two, four = head.repeats.weight.tolist()
    expected = hidden @ head.weight.T / 0.5
    for row, item, gain in ((0, 8, new), (0, 5, four), (1, 3, new)):
        expected[row, item] += gain / 0.5
    assert two  # age 2 is a reserved id's in one history, and nothing's in the other
    torch.testing.assert_close(head.scores(hidden, None, history)[:, 3:], expected[:, 3:])
    targets = torch.tensor([8, 4])
    found = head.loss(hidden, targets, None, history).sum
    torch.testing.assert_close(found, functional.cross_entropy(expected[:, 3:], targets - 3, reduction="sum"))
    found.backward()
    assert head.repeats.weight.grad.count_nonzero() == 2


def test_a_repeat_bias_wants_histories_and_the_whole_catalogue():
    sizes = {"hidden_size": 6, "cardinality": 9, "reserved": 3}
    head = CatalogueHead(**sizes, loss=CrossEntropy(ignore_rows=3), repeats=RepeatBias(4))
    with pytest.raises(InputError, match="given each position's history"):
        head.scores(torch.zeros(1, 6))
    with pytest.raises(ConfigError, match="SampledSoftmax sees a sample of the items; use cross_entropy"):
        CatalogueHead(**sizes, loss=SampledSoftmax(), sampler=Uniform(9, 3, 4), repeats=RepeatBias(4))

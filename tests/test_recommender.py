"""The whole model: what scores may depend on, what the loss adds up to, what learns."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.data.batch import Batch
from recsys.data.collate import Collator
from recsys.data.windows import evaluation_windows
from recsys.errors import TrainingError
from recsys.nn.masking import causal
from recsys.recommender import Recommender
from tests.data.models import make_model
from tests.data.sequences import make_dataset

AUXILIARY = [
    {"column": "classification", "weight": 0.5},
    {"column": "cat", "weight": 0.25, "loss": {"name": "cross_entropy"}},
    {"column": "timestamp_interval", "weight": 0.1},
]


def make_batch(heads: list[str], lengths: tuple[int, ...] = (6, 3, 9)) -> Batch:
    data = make_dataset(list(lengths))
    windows = evaluation_windows(data, 16, "all")
    return Collator(data, heads, causal)(windows)


def test_scores_do_not_depend_on_padding_or_batch():
    model = make_model().eval()
    together = make_batch(["item_id"])
    hidden = model.hidden(together)
    data = make_dataset([6, 3, 9])
    windows = evaluation_windows(data, 16, "all")
    collate = Collator(data, ["item_id"], causal)
    for row in range(3):
        alone = collate(windows[np.array([row])])
        length = int(alone.lengths)
        one = model.item_scores(model.hidden(alone)[0])
        torch.testing.assert_close(model.item_scores(hidden[row, :length]), one, rtol=1e-4, atol=1e-5)


def test_what_stands_in_the_padding_is_not_read():
    model = make_model().eval()
    batch = make_batch(["item_id"])
    noise = batch["inputs.item_id"].clone()
    noise[1, 2:] = 7
    changed = model.hidden(batch.with_tensors({"inputs.item_id": noise}))
    torch.testing.assert_close(changed[1, :2], model.hidden(batch)[1, :2])


def test_loss_is_the_weighted_sum_of_the_heads_means():
    model = make_model(auxiliary=AUXILIARY).eval()
    batch = make_batch(list(model.heads))
    output = model(batch)
    hidden = model.hidden(batch).flatten(0, 1)
    expected = 0.0
    for name, weight in (
        ("item_id", 1.0),
        ("classification", 0.5),
        ("cat", 0.25),
        ("timestamp_interval", 0.1),
    ):
        positions, targets = batch.labels(name)
        loss = model.heads[name].loss(hidden[positions], targets)
        expected += weight * float((loss.sum / loss.count).detach())
    assert float(output.loss) == pytest.approx(expected, rel=1e-5)
    halved = model(batch, counts={name: 2 * float(count) for name, count in output.counts.items()})
    assert float(halved.loss) == pytest.approx(expected / 2, rel=1e-5)


def weighted(weights: list[float], task_weights: str = "fixed") -> Recommender:
    """A model without dropout, in double precision, with class weights of its second head."""
    loss = {"name": "cross_entropy", "class_weights": weights}
    head = {"column": "classification", "weight": 0.5, "loss": loss}
    return make_model(auxiliary=[head], loss={"name": "cross_entropy"}, task_weights=task_weights).double().eval()


def doubled(batch: Batch) -> Batch:
    return batch.with_tensors({name: t.double() for name, t in batch.items() if t.is_floating_point()})


def gradients(model: Recommender, batches: list[Batch]) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of a step over batches, with the counts of all of them as the trainer gives them."""
    found = [model.label_counts(batch) for batch in batches]
    counts = {name: sum(each[name] for each in found) for name in found[0]}
    losses = [model(batch, counts).loss for batch in batches]
    total = torch.stack(losses).sum()
    return float(total.detach()), list(torch.autograd.grad(total, list(model.parameters())))


@pytest.mark.parametrize("counted", [False, True])
def test_class_weights_are_weighed_as_torch_weighs_them(counted):
    weights = [0.02, 0.3, 0.001, 0.1]  # of which no batch has a sum of 1
    model = weighted(weights)
    batch = doubled(make_batch(list(model.heads), (3, 3)))
    hidden = model.hidden(batch).flatten(0, 1)
    expected = 0.0
    for name, weight, classes in (("item_id", 1.0, None), ("classification", 0.5, torch.tensor(weights).double())):
        positions, targets = batch.labels(name)
        logits = hidden[positions] @ model.heads[name].weight.T[:, 3:]
        expected += weight * float(functional.cross_entropy(logits, targets - 3, classes).detach())
    found = model(batch, model.label_counts(batch) if counted else None)
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert float(found.counts["classification"]) < 1


@pytest.mark.parametrize("task_weights", ["fixed", "uncertainty"])
@pytest.mark.parametrize("scale", [10.0, 0.01])
def test_class_weights_that_are_all_alike_change_nothing(scale, task_weights):
    plain, model = weighted([1.0] * 4, task_weights), weighted([scale] * 4, task_weights)
    batch = doubled(make_batch(list(model.heads)))
    for (loss, mine), (wanted, theirs) in [
        (gradients(model, [batch]), gradients(plain, [batch])),
        (gradients(model, [batch, batch]), gradients(plain, [batch])),
    ]:
        assert loss == pytest.approx(wanted, rel=1e-6)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("task_weights", ["fixed", "uncertainty"])
def test_several_small_batches_are_one_large_batch(task_weights):
    model = weighted([0.5, 4.0, 0.0, 1.0], task_weights)
    data = make_dataset([6, 3, 9, 2])
    windows, collate = evaluation_windows(data, 16, "all"), Collator(data, list(model.heads), causal)
    whole = doubled(collate(windows))
    parts = [doubled(collate(windows[np.array(rows)])) for rows in ([0], [1, 2], [3])]
    (loss, mine), (wanted, theirs) = gradients(model, parts), gradients(model, [whole])
    assert loss == pytest.approx(wanted, rel=1e-6)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)
    assert wanted == pytest.approx(float(model(whole).loss.detach()), rel=1e-6)


def test_gradients_reach_every_parameter():
    model = make_model(auxiliary=AUXILIARY).train()
    model(make_batch(list(model.heads))).loss.backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_it_learns_a_repeating_pattern():
    torch.manual_seed(0)
    model = make_model(auxiliary=[]).train()
    data = make_dataset([12] * 8)
    data.columns["item_id"] = np.resize([3, 5, 9, 4], len(data.items))
    windows = evaluation_windows(data, 16, "all")
    batch = Collator(data, ["item_id"], causal)(windows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(batch).loss.backward()
        optimizer.step()
    model.eval()
    positions, targets = batch.labels("item_id")
    best = model.item_scores(model.hidden(batch).flatten(0, 1)[positions]).argmax(-1)
    assert (best == targets).float().mean() > 0.95


def test_a_loss_that_is_not_finite_names_the_rows():
    model = make_model()
    batch = make_batch(list(model.heads))
    broken = batch["inputs.timestamp_interval"].clone()
    broken[0, 0] = float("inf")
    column = "input column 'timestamp_interval' is not finite there"
    with pytest.raises(TrainingError, match=rf"^loss is nan on dataset rows \[0, 1, 2\]; {column}$"):
        model(batch.with_tensors({"inputs.timestamp_interval": broken}))
    with torch.no_grad():
        model.heads["item_id"].weight.fill_(float("inf"))
    many = batch.with_tensors({"row_id": torch.arange(30)})
    with pytest.raises(TrainingError, match=r"19\] and 10 more; lower training.learning_rate$"):
        model(many)

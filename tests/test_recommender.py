"""The whole model: what scores may depend on, what the loss adds up to, what learns."""

import numpy as np
import pytest
import torch

from recsys.data.batch import Batch
from recsys.data.collate import Collator
from recsys.data.windows import evaluation_windows
from recsys.errors import TrainingError
from recsys.nn.masking import causal
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

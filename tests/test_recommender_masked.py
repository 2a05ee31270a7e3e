"""Models that hide what they predict: nothing leaks, training and serving read alike, every kind of batch is taken."""

import numpy as np
import pytest
import torch

from recsys.build import build_masking
from recsys.config import MaskedConfig
from recsys.data.batch import Batch
from recsys.data.collate import Collator
from recsys.data.dataset import SequenceDataset, Windows
from recsys.data.windows import evaluation_windows
from recsys.errors import InputError
from recsys.recommender import EVENTS, Recommender
from tests.data.models import make_model
from tests.data.sequences import make_dataset, make_items, make_schema

BERT = {"name": "bert", "hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 32}
XLNET = {**BERT, "name": "xlnet"}
CASES = [("mlm", BERT), ("span", BERT), ("replaced", BERT), ("mlm", XLNET), ("permutation", XLNET)]
HEADS = [
    {"column": "classification", "weight": 0.5},
    {"column": "cat", "weight": 0.25},
    {"column": "timestamp_interval", "weight": 0.1},
]


def model_of(masking: str, backbone: dict[str, object], **changes: object) -> Recommender:
    return make_model(masking=masking, backbone=backbone, auxiliary=HEADS, **changes)


def batch_of(data: SequenceDataset, model: Recommender, seed: int = 0, **settings: object) -> Batch:
    windows = Windows(np.arange(len(data)), data.offsets[:-1], data.offsets[1:], draw=(seed,))
    masked = MaskedConfig.model_validate({"probability": 0.4, **settings})
    masking = build_masking(model.masking, masked, make_schema().item(), make_items())
    return Collator(data, list(model.heads), masking)(windows)


def changed_at(batch: Batch, chosen: torch.Tensor) -> Batch:
    """The batch with other values in every input column where bool ``[B, T]`` says so."""
    other = {}
    for name, values in batch.inputs.items():
        noise = values + 1.5 if values.is_floating_point() else (values + 1) % 5
        other[f"inputs.{name}"] = torch.where(chosen, noise, values)
    return batch.with_tensors(other)


@pytest.mark.parametrize(("masking", "backbone"), CASES)
@torch.no_grad()
def test_no_label_leaks(masking, backbone):
    """What is hidden may be anything: no state that predicts moves, for no head. What is shown is read."""
    model, data = model_of(masking, backbone).eval(), make_dataset([6, 3, 9])
    batch = batch_of(data, model)
    positions, _ = batch.labels("item_id")
    assert len(positions)
    before = model.hidden(batch).flatten(0, 1)[positions]
    hidden = torch.zeros(batch.inputs["item_id"].shape, dtype=torch.bool)
    hidden.view(-1)[positions] = True
    if masking != "permutation":
        torch.testing.assert_close(model.hidden(changed_at(batch, hidden)).flatten(0, 1)[positions], before)
        assert (batch["input_mask"] == hidden).all()
    else:  # each event is hidden from itself and from those predicted before it, not from those after it
        seen = batch["attention_mask"]
        for position, state in zip(positions.tolist(), before, strict=True):
            row, step = divmod(position, hidden.shape[1])
            unseen = torch.zeros_like(hidden)
            unseen[row] = ~seen[row, step]
            assert unseen[row, step]
            after = model.hidden(changed_at(batch, unseen)).flatten(0, 1)[position]
            torch.testing.assert_close(after, state, atol=1e-5, rtol=1e-4)
    moved = model.hidden(changed_at(batch, ~hidden)).flatten(0, 1)[positions]
    assert (moved - before).abs().max() > 1e-4


@pytest.mark.parametrize(("masking", "backbone"), CASES)
@torch.no_grad()
def test_the_state_behind_a_history_is_that_of_a_hidden_last_event(masking, backbone):
    """Serving appends what training hides: the same state as in a batch whose last events are hidden."""
    model, data = model_of(masking, backbone).eval(), make_dataset([6, 3, 9])
    batch = batch_of(data, model, last_probability=1.0)
    positions, targets = batch.labels("item_id")
    assert targets.tolist() == data.items[data.offsets[1:] - 1].tolist()
    trained = model.hidden(batch).flatten(0, 1)[positions]
    for row, length in enumerate(data.lengths.tolist()):
        history = {name: values[row : row + 1, : length - 1] for name, values in batch.inputs.items()}
        served = model.predictive(model.inputs(history), torch.tensor([length - 1]))[0, -1]
        torch.testing.assert_close(served, trained[row], atol=1e-5, rtol=1e-4)


def test_a_batch_that_hides_nothing_is_refused():
    model = model_of("mlm", BERT)
    data = make_dataset([4, 5])
    plain = Collator(data, ["item_id"], build_masking("causal"))(evaluation_windows(data, 16, "all"))
    with pytest.raises(InputError, match="masking 'mlm' reads batches that this masking made"):
        model.hidden(plain)


@pytest.mark.parametrize(("masking", "backbone"), CASES)
def test_gradients_reach_every_parameter(masking, backbone):
    model = model_of(masking, backbone).train()
    model(batch_of(make_dataset([12, 9, 14]), model)).loss.backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A shift of all keys is nothing to softmax: its gradient is rounding noise or zero.
    assert [n for n in still if "key.bias" not in n] == []


def test_a_mask_vector_is_there_only_where_it_is_used():
    vector = [n for n, _ in model_of("mlm", BERT).named_parameters() if n == "mask_vector"]
    assert vector == ["mask_vector"]
    for model in (make_model(), model_of("permutation", XLNET)):
        assert "mask_vector" not in model.state_dict()


@pytest.mark.parametrize("replacements", ["model", "uniform", "popularity"])
def test_the_detector_adds_its_weighted_loss_over_all_events(replacements):
    model = model_of("replaced", BERT, masked={"replaced_weight": 0.5}).eval()
    batch = batch_of(make_dataset([6, 3, 9]), model, replacements=replacements)
    assert ("replacement_ids" in batch) == (replacements != "model")
    torch.manual_seed(3)
    output = model(batch)
    heads = sum(model.weights[n] * output.sums[n] / output.counts[n] for n in model.heads)
    assert int(output.counts["masking.replaced"]) == 18
    expected = float(heads + 0.5 * output.sums["masking.replaced"] / 18)
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-5)
    torch.manual_seed(3)
    halved = model(batch, counts={n: 2 * c for n, c in model.label_counts(batch).items()})
    assert float(halved.loss.detach()) == pytest.approx(expected / 2, rel=1e-5)
    assert model.label_counts(batch)[EVENTS] == 18


@pytest.mark.parametrize("lucky", [False, True])
def test_the_detector_reads_drawn_ids_and_is_told_which_differ(lucky):
    """Where every drawn id is the true one, all events are true."""
    model = model_of("replaced", BERT).eval()
    batch = batch_of(make_dataset([6, 3, 9]), model, replacements="uniform")
    ids = batch.inputs["item_id"]
    drawn = ids if lucky else batch["replacement_ids"]
    with torch.no_grad():
        states = model.encode(model.inputs({**batch.inputs, "item_id": drawn}), batch.lengths)
        logits = model.detector.linear(states).squeeze(-1)
    expected, told = 0.0, 0
    for row, length in enumerate(batch.lengths.tolist()):
        for step in range(length):
            false = bool(drawn[row, step] != ids[row, step])
            assert not false or batch["input_mask"][row, step]
            p = float(torch.sigmoid(logits[row, step]))
            expected, told = expected - np.log(p if false else 1 - p), told + false
    assert (told == 0) == lucky
    output = model(batch.with_tensors({"replacement_ids": drawn}))
    assert float(output.sums["masking.replaced"]) == pytest.approx(expected, rel=1e-5)


def test_the_model_draws_ids_for_hidden_events_from_its_own_scores(monkeypatch):
    model = model_of("replaced", BERT).eval()
    batch = batch_of(make_dataset([6, 3, 9]), model)
    read = []
    monkeypatch.setattr(model.inputs, "forward", spy(model.inputs.forward, read))
    with torch.no_grad():
        model.heads["item_id"].weight.zero_()  # all items alike, so any may be drawn
    for _ in range(30):
        model(batch)
    given, mask = batch.inputs["item_id"], batch["input_mask"]
    drawn = torch.stack(read[1::2])  # every second pass reads drawn ids
    assert (drawn[:, ~mask] == given[~mask]).all()
    assert drawn[:, mask].unique().tolist() == list(range(3, 15))


def spy(forward, read):
    """The function, noting the items that it reads."""

    def noting(inputs, **more):
        read.append(inputs["item_id"])
        return forward(inputs, **more)

    return noting


@pytest.mark.parametrize(("masking", "backbone"), [("causal", None), *CASES])
def test_batches_of_one_row_without_labels_or_of_unknown_items_train(masking, backbone):
    model = model_of(masking, backbone).train() if backbone else make_model(auxiliary=HEADS).train()
    data = make_dataset([4])
    unknown = make_dataset([4, 3])
    unknown.columns["item_id"] = np.full(7, 2)
    for given, labels in ((data, None), (make_dataset([1, 1]), 0), (unknown, 0)):
        if len(given.items) == 2 and masking == "causal":
            continue  # windows of one event have no input; training makes none
        model.zero_grad()
        batch = batch_of(given, model)
        output = model(batch)
        assert torch.isfinite(output.loss)
        output.loss.backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
        if labels is not None:
            assert int(output.counts["item_id"]) == labels == batch.num_labels("item_id")


class Router(torch.nn.Module):
    """A causal backbone with a loss of its own."""

    is_causal = True

    def __init__(self, extra: float) -> None:
        super().__init__()
        self.extra_loss = torch.tensor(extra)

    def forward(self, vectors: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return vectors.cumsum(dim=1)


def test_a_loss_of_the_backbones_own_is_a_mean_over_events():
    model = make_model(auxiliary=[]).eval()
    batch = batch_of(make_dataset([6, 3, 9]), model)
    losses = []
    for extra in (0.0, 0.7):
        model.backbone = Router(extra)
        losses.append(float(model(batch).loss.detach()))
        counts = {n: 4 * c for n, c in model.label_counts(batch).items()}
        assert float(model(batch, counts=counts).loss.detach()) == pytest.approx(losses[-1] / 4, rel=1e-5)
    assert losses[1] - losses[0] == pytest.approx(0.7, abs=1e-5)

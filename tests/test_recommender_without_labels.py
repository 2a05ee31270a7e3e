"""Batches with few labels or none: a loss of zero with gradients of zero, whatever the loss and the backbone."""

import numpy as np
import pytest
import torch

from recsys.build import build_masking
from recsys.data.batch import Batch
from recsys.data.collate import Collator
from recsys.data.dataset import SequenceDataset, Windows
from recsys.data.windows import evaluation_windows
from recsys.nn.masking import causal
from recsys.recommender import Recommender
from tests.backbones.cases import BIDIRECTIONAL, CASES, config_of
from tests.data.models import TINY, make_model
from tests.data.sequences import make_dataset, make_frame, make_items, make_schema

INPUTS = {**TINY["inputs"], "dropout": 0.0}
BACKBONE = {"name": "gru", "hidden_size": 16, "num_layers": 1}
WEIGHTS = [0.5, 1.5] * 6
CATALOGUE = [
    {"name": "cross_entropy"},
    {"name": "cross_entropy", "label_smoothing": 0.1},
    {"name": "cross_entropy", "dtype": "bfloat16"},
    {"name": "cross_entropy", "class_weights": WEIGHTS},
    {"name": "focal"},
    {"name": "tversky"},
    {"name": "info_nce"},
    {"name": "info_nce", "max_cosine": 0.9},
]
NEGATIVES = [
    {"name": "uniform", "num": 3},
    {"name": "uniform", "num": 3, "per_position": True},
    {"name": "popularity", "num": 3},
    {"name": "in_batch", "num": 3},
    {"name": "mixed", "num": 3},
]
SAMPLED = [
    {"name": name, "negatives": negatives}
    for name in ("sampled_softmax", "bce", "gbce")
    for negatives in NEGATIVES
    if name != "gbce" or negatives["name"] == "uniform"
]
LOSSES = [*CATALOGUE, *SAMPLED, {**SAMPLED[3], "class_weights": WEIGHTS}]
HEADS = [  # of other columns than the item's
    {"column": "timestamp_interval", "loss": {"name": "mse"}},
    {"column": "timestamp_interval", "loss": {"name": "huber"}},
    {"column": "merge_count", "kind": "binary"},
    {"column": "cat", "kind": "binary"},
    *({"column": "classification", "loss": {k: v for k, v in loss.items() if k != "class_weights"}} for loss in LOSSES),
]


def describe(value: dict) -> str:
    settings = value.get("loss", value)
    negatives = settings.get("negatives", {})
    said = {"column": value.get("column", ""), **settings, **{f"n_{k}": v for k, v in negatives.items()}}
    return "-".join(str(v) for v in said.values() if isinstance(v, str | bool | float) and v != "")


def make_batch(model: Recommender, lengths: list[int], unknown: bool = False) -> Batch:
    data = make_dataset(lengths)
    if unknown:
        data.columns["item_id"] = np.ones_like(data.columns["item_id"])
    return Collator(data, list(model.heads), causal)(evaluation_windows(data, 16, "all"))


def without_labels(batch: Batch, *heads: str) -> Batch:
    names = [f"labels.{head}.{part}" for head in heads for part in ("positions", "targets")]
    return batch.with_tensors({name: batch[name][:0] for name in names})


def passed(model: Recommender, batch: Batch, counts: dict[str, float] | None) -> float:
    """The loss; every parameter has its gradient afterwards."""
    loss = model.train()(batch, counts).loss
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    return float(loss.detach())


def largest_gradient(model: Recommender) -> float:
    return max(float(p.grad.abs().max()) for p in model.parameters())


@pytest.mark.parametrize("counted", [False, True], ids=["alone", "beside_others"])
@pytest.mark.parametrize("lengths", [[2], [4, 3]], ids=["one_row", "rows"])
@pytest.mark.parametrize("loss", LOSSES, ids=describe)
def test_a_batch_without_labels_adds_nothing(loss: dict, lengths: list[int], counted: bool) -> None:
    model = make_model(inputs=INPUTS, backbone=BACKBONE, loss=loss, auxiliary=[])
    others = model.label_counts(make_batch(model, [5, 4])) if counted else None
    batch = without_labels(make_batch(model, lengths), "item_id")
    assert passed(model, batch, others) == 0 and largest_gradient(model) == 0


@pytest.mark.parametrize("loss", LOSSES, ids=describe)
def test_a_batch_of_unknown_items_adds_nothing(loss: dict) -> None:
    model = make_model(inputs=INPUTS, backbone=BACKBONE, loss=loss, auxiliary=[])
    batch = make_batch(model, [3], unknown=True)
    assert batch.num_labels("item_id") == 0 and int(batch.lengths) == 2
    assert passed(model, batch, None) == 0 and largest_gradient(model) == 0


@pytest.mark.parametrize("loss", LOSSES, ids=describe)
def test_one_row_with_one_label_is_a_batch(loss: dict) -> None:
    model = make_model(inputs=INPUTS, backbone=BACKBONE, loss=loss, auxiliary=[])
    found = passed(model, make_batch(model, [2]), None)
    alone = loss["name"] == "info_nce" or loss.get("negatives", {}).get("name") == "in_batch"
    if alone and loss["name"] != "bce":  # its own target is the only candidate
        assert found == 0
    else:
        assert found > 0 and largest_gradient(model) > 0


@pytest.mark.parametrize("task_weights", ["fixed", "uncertainty"])
@pytest.mark.parametrize("head", HEADS, ids=describe)
def test_a_head_without_labels_adds_nothing(head: dict, task_weights: str) -> None:
    """Beside an item head without any, of a step that has labels elsewhere."""
    settings = {"loss": {"name": "cross_entropy"}, "task_weights": task_weights, "auxiliary": [head]}
    model = make_model(inputs=INPUTS, backbone=BACKBONE, **settings)
    whole = make_batch(model, [5, 4])
    others = model.label_counts(whole)
    assert passed(model, without_labels(whole, "item_id", head["column"]), others) == 0
    assert largest_gradient(model) == 0


@pytest.mark.parametrize("changes", [{"tied": True}, {"bias": True}, {"similarity": "cosine", "temperature": 0.1}])
@pytest.mark.parametrize("loss", [LOSSES[0], SAMPLED[3]], ids=describe)
def test_whatever_the_output_layer_is(loss: dict, changes: dict) -> None:
    model = make_model(inputs=INPUTS, backbone=BACKBONE, loss=loss, auxiliary=[], **changes)
    batch = without_labels(make_batch(model, [3]), "item_id")
    assert passed(model, batch, None) == 0 and largest_gradient(model) == 0


HIDING = [(case, masking) for case in BIDIRECTIONAL for masking in ("mlm", "span")]
HIDING += [("t5", "replaced"), ("xlnet", "permutation")]
ZOO = [*((case, "causal") for case in CASES if case not in BIDIRECTIONAL), *HIDING]
every_backbone = pytest.mark.parametrize(("case", "masking"), ZOO)


def model_of(case: str, masking: str) -> Recommender:
    backbone = config_of(case).model_dump()
    loss = {"name": "cross_entropy"}
    return make_model(inputs=INPUTS, backbone=backbone, masking=masking, loss=loss, auxiliary=[])


def masked_batch(model: Recommender, lengths: list[int], unknown: bool = False) -> Batch:
    """Whole sequences with times, as the model's masking hides them."""
    data = SequenceDataset.from_frame(make_frame(lengths), make_schema(), make_items(), times=True)
    if unknown:
        data.columns["item_id"] = np.full_like(data.columns["item_id"], 2)
    windows = Windows(np.arange(len(data)), data.offsets[:-1], data.offsets[1:], draw=(0,))
    return Collator(data, list(model.heads), build_masking(model.masking))(windows)


def require_nothing_learnt(model: Recommender, batch: Batch) -> None:
    """Of items; what a router or the detector of replaced events learns from events needs no label."""
    assert batch.num_labels("item_id") == 0 < int(batch.lengths.min())
    loss, own = passed(model, batch, None), model.backbone.extra_loss
    assert not model.heads["item_id"].weight.grad.any()
    if own is not None:
        assert loss == pytest.approx(float(own.detach()))
    elif model.detector is not None:
        assert np.isfinite(loss)
    else:
        assert loss == 0 == largest_gradient(model)


@every_backbone
def test_one_row_of_two_events_is_learnt_from(case: str, masking: str) -> None:
    model = model_of(case, masking)
    batch = masked_batch(model, [2])
    assert batch.num_labels("item_id") == 1 == len(batch.lengths)
    assert passed(model, batch, None) > 0 and largest_gradient(model) > 0


@every_backbone
@pytest.mark.parametrize("lengths", [[2], [6, 3]], ids=["one_row", "rows"])
def test_no_backbone_learns_without_labels(lengths: list[int], case: str, masking: str) -> None:
    model = model_of(case, masking)
    require_nothing_learnt(model, without_labels(masked_batch(model, lengths), "item_id"))


@every_backbone
@pytest.mark.parametrize("lengths", [[2], [6, 3]], ids=["one_row", "rows"])
def test_no_backbone_learns_from_unknown_items(lengths: list[int], case: str, masking: str) -> None:
    model = model_of(case, masking)
    require_nothing_learnt(model, masked_batch(model, lengths, unknown=True))


@pytest.mark.parametrize("lengths", [[1], [1, 1]], ids=["one_row", "rows"])
@pytest.mark.parametrize(("case", "masking"), HIDING)
def test_rows_of_one_event_hide_nothing(case: str, masking: str, lengths: list[int]) -> None:
    model = model_of(case, masking)
    batch = masked_batch(model, lengths)
    assert not batch.get("input_mask", torch.zeros(1)).any()
    require_nothing_learnt(model, batch)

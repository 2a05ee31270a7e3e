"""Heads by the configuration and the schema; what does not fit is refused in a line that names the column."""

import numpy as np
import polars as pl
import pytest
import torch

from recsys.build.heads import build_heads, build_task_weights
from recsys.config import ModelConfig, parse
from recsys.data.collate import Collator
from recsys.data.windows import evaluation_windows
from recsys.errors import ConfigError
from recsys.heads import BinaryHead, CatalogueHead, RealHead
from recsys.losses import CrossEntropy, Focal, Huber, MeanSquaredError, SampledSoftmax
from recsys.nn.masking import causal
from tests.data.models import make_model
from tests.data.sequences import make_dataset, make_items, make_schema

OLD_LOSS = {"name": "focal", "gamma": 2.0, "label_smoothing": 0.0, "dtype": "float32"}


def build(items: pl.DataFrame | None = None, **changes: object):
    config = parse(ModelConfig, changes, "test")
    heads, weights = build_heads(config, make_schema(), make_items() if items is None else items)
    return heads, weights, build_task_weights(config, heads, weights)


def test_kinds_follow_the_column_and_the_configuration():
    auxiliary = [
        {"column": "classification", "loss": {"name": "sampled_softmax", "negatives": {"num": 2}}},
        {"column": "cat", "kind": "binary", "weight": 0.25},
        {"column": "timestamp_interval", "loss": {"name": "huber", "delta": 0.5}},
        {"column": "merge_count"},
    ]
    heads, weights, learned = build(auxiliary=auxiliary)
    assert isinstance(heads["classification"].loss_function, SampledSoftmax)
    assert heads["classification"].sampler.num_ids == 7
    assert isinstance(heads["cat"], BinaryHead) and heads["cat"].first_id == 3
    assert isinstance(heads["timestamp_interval"].loss_function, Huber)
    assert isinstance(heads["merge_count"].loss_function, MeanSquaredError)
    assert weights == {
        "item_id": 1.0,
        "classification": 0.5,
        "cat": 0.25,
        "timestamp_interval": 0.5,
        "merge_count": 0.5,
    }
    assert learned is None


def test_heads_saved_before_keep_their_meaning():
    heads, _, _ = build(auxiliary=[{"column": "merge_count", "loss": OLD_LOSS}, {"column": "cat", "loss": OLD_LOSS}])
    assert isinstance(heads["merge_count"].loss_function, MeanSquaredError)
    assert isinstance(heads["cat"].loss_function, Focal) and isinstance(heads["cat"], CatalogueHead)
    assert list(heads["item_id"].state_dict()) == ["weight"]
    assert list(heads["merge_count"].state_dict()) == ["linear.weight", "linear.bias"]


def test_default_heads_beside_a_sampled_loss_have_plain_ones():
    heads, _, _ = build(loss={"name": "sampled_softmax", "negatives": {"num": 4}})
    assert isinstance(heads["item_id"].loss_function, SampledSoftmax)
    assert isinstance(heads["classification"].loss_function, CrossEntropy)
    heads, _, _ = build(loss={"name": "focal", "gamma": 1.5})
    assert heads["classification"].loss_function.gamma == 1.5


def test_settings_of_the_item_head():
    heads, _, _ = build(similarity="cosine", temperature=0.05, learn_temperature=True, bias=True, auxiliary=[])
    head = heads["item_id"]
    assert head.cosine and head.log_temperature.exp().item() == pytest.approx(0.05)
    assert set(head.state_dict()) == {"weight", "bias", "log_temperature"}


def test_class_weights_come_from_the_counts_of_the_items():
    weights = build(loss={"name": "cross_entropy", "class_weights": "inverse_frequency"})[0]["item_id"].class_weights
    counts = torch.tensor([100.0 - n for n in range(12)])
    torch.testing.assert_close(weights[3:], counts.sum() / (12 * counts))
    auxiliary = [{"column": "classification", "loss": {"class_weights": "inverse_frequency"}}]
    weights = build(auxiliary=auxiliary)[0]["classification"].class_weights
    of_class = counts.view(3, 4).sum(0)  # item n has class n % 4
    torch.testing.assert_close(weights[3:], counts.sum() / (4 * of_class))
    given = [{"column": "cat", "loss": {"name": "focal", "class_weights": [1.0, 3.0]}}]
    assert build(auxiliary=given)[0]["cat"].class_weights.tolist() == [0, 0, 0, 1, 3]


def test_learned_task_weights_are_parameters_only_where_chosen():
    auxiliary = [{"column": "merge_count", "weight": 0.1}, {"column": "cat", "kind": "binary", "weight": 0.2}]
    plain, model = make_model(auxiliary=auxiliary), make_model(auxiliary=auxiliary, task_weights="uncertainty")
    assert set(model.state_dict()) - set(plain.state_dict()) == {"task_weights.log_variances"}
    assert model.task_weights.factors == {"item_id": 1.0, "merge_count": 0.5, "cat": 1.0}
    data = make_dataset([6, 3, 9])
    batch = Collator(data, list(model.heads), causal)(evaluation_windows(data, 16, "all"))
    with torch.no_grad():
        start = model.eval()(batch).loss - model.task_weights.log_variances.sum() / 2
        torch.testing.assert_close(start, plain.eval()(batch).loss)
        step = {name: 3 * count for name, count in model.label_counts(batch).items()}
        torch.testing.assert_close(3 * model(batch, step).loss, model(batch).loss)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"name": "mse"}}, "model.loss: loss 'mse' does not fit a head of kind classes; use cross_entropy"),
        ({"loss": {"name": "bce"}}, "256 negatives are more than the 12 items"),
        ({"loss": {"class_weights": [1.0, 2.0]}}, "2 values for the 12 classes of 'item_id'"),
        (
            {"auxiliary": [{"column": "classification", "kind": "binary"}]},
            "column 'classification' has 4 classes; a binary head needs 2",
        ),
        ({"auxiliary": [{"column": "cat", "kind": "real"}]}, "'cat' is categorical; take kind: real out"),
        (
            {"auxiliary": [{"column": "merge_count", "kind": "classes"}]},
            "'merge_count' is continuous and has no classes",
        ),
        (
            {"auxiliary": [{"column": "merge_count", "loss": {"name": "focal"}}]},
            "'merge_count': loss 'focal' does not fit a head of kind real; use mse, huber",
        ),
        (
            {"auxiliary": [{"column": "cat", "loss": {"class_weights": "inverse_frequency"}}]},
            "column 'cat': the item table has no counts of it; give class_weights as a list",
        ),
        (
            {"task_weights": "uncertainty", "auxiliary": [{"column": "cat", "weight": 0}]},
            r"weight of 'cat' \(0.0\) must be above 0 to be learned",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(**changes)


def test_an_item_table_without_counts_is_named():
    loss = {"name": "sampled_softmax", "negatives": {"name": "popularity", "num": 3}}
    with pytest.raises(ConfigError, match="the item table has no column 'count'"):
        build(make_items().drop("count"), loss=loss)


def test_a_real_head_is_no_binary_one():
    heads, _, _ = build(auxiliary=[{"column": "merge_count", "kind": "binary"}])
    assert heads["merge_count"].first_id == 0
    heads, _, _ = build(auxiliary=[{"column": "merge_count"}])
    assert type(heads["merge_count"]) is RealHead


LEARNING = [
    {"name": "tversky", "alpha": 0.3, "beta": 0.3},
    {"name": "cross_entropy", "class_weights": "inverse_frequency"},
    {"name": "sampled_softmax", "negatives": {"name": "popularity", "num": 12, "power": 0.75}},
    {"name": "sampled_softmax", "negatives": {"name": "in_batch", "num": 40}},
    {"name": "sampled_softmax", "negatives": {"name": "mixed", "num": 40, "uniform_share": 0.2}},
    {"name": "gbce", "negatives": {"num": 4, "per_position": True}},
    {"name": "info_nce"},
]


@pytest.mark.parametrize("loss", LEARNING, ids=lambda loss: "-".join(str(v) for v in loss.values() if v)[:40])
def test_every_loss_teaches_a_repeating_pattern(loss):
    cosine = {"similarity": "cosine", "temperature": 0.1} if loss["name"] == "info_nce" else {}
    model = make_model(auxiliary=[], loss=loss, bias=loss["name"] == "gbce", **cosine).train()
    data = make_dataset([12] * 8)
    data.columns["item_id"] = np.resize([3, 5, 9, 4], len(data.items))
    batch = Collator(data, ["item_id"], causal)(evaluation_windows(data, 16, "all"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(batch).loss.backward()
        optimizer.step()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []
    model.eval()
    positions, targets = batch.labels("item_id")
    scores = model.item_scores(model.hidden(batch).flatten(0, 1)[positions])
    seen = torch.tensor([3, 4, 5, 9])  # in-batch negatives say nothing of the others
    best = seen[scores[:, seen].argmax(-1)]
    assert (best == targets).float().mean() > 0.95


def test_a_repeat_bias_learns_that_nothing_comes_again():
    torch.manual_seed(0)
    model = make_model(auxiliary=[], loss={"name": "focal"}, repeat_bias=True).train()
    data = make_dataset([8] * 32)
    data.columns["item_id"] = np.concatenate([np.random.default_rng(n).permutation(12)[:8] + 3 for n in range(32)])
    batch = Collator(data, ["item_id"], causal)(evaluation_windows(data, 8, "all"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(batch).loss.backward()
        optimizer.step()
    assert (model.heads["item_id"].repeats.weight[:4] < -0.1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masking": "mlm", "backbone": {"name": "bert"}}, "masking 'mlm' hides what a history is; use causal, "),
        ({"loss": {"name": "info_nce"}}, "repeat_bias: InfoNCE sees a sample of the items; use cross_entropy"),
    ],
)
def test_a_repeat_bias_wants_whole_histories_and_the_whole_catalogue(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_model(auxiliary=[], repeat_bias=True, **changes)

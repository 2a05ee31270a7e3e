from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.build import build_model
from recsys.data.batch import Batch
from recsys.data.dataset import SequenceDataset
from recsys.nn.masking import final_value
from recsys.training.validation import Validator, pessimistic_ranks
from tests.training.conftest import item_table, schema, sequences, tiny_config

LENGTH = 12


@pytest.fixture(scope="module")
def data():
    return SequenceDataset.from_frame(sequences(15, np.random.default_rng(0)), schema(), item_table())


@pytest.fixture(scope="module")
def model():
    config = tiny_config().model
    config.loss.name = "cross_entropy"
    torch.manual_seed(0)
    return build_model(config, schema(), item_table())


def one_by_one(model, data):
    """Loss and rank of every scored position among the first LENGTH + 1 events, each from its own prefix.

    Where none of a row's positions there is scored, of its first scored one.
    """
    losses, ranks = [], []
    for row in range(len(data)):
        begin, end = data.offsets[row], data.offsets[row + 1]
        first = 1 if data.scored_from is None else max(1, int(data.scored_from[row]))
        scored = [at for at in range(begin + first, end) if at <= begin + max(LENGTH, first)]
        for at in scored:
            start = max(begin, at - LENGTH)
            inputs = {
                "inputs.item_id": torch.tensor(data.items[start:at].astype(np.int64))[None],
                "inputs.timestamp_interval": torch.tensor(data.columns["timestamp_interval"][start:at])[None],
                "lengths": torch.tensor([at - start]),
            }
            hidden = model.hidden(Batch(inputs))[0, -1]
            scores = (model.heads["item_id"].weight @ hidden)[3:]  # reserved ids are no candidates
            target = int(data.items[at]) - 3
            if target < 0:
                ranks.append(None)
                continue
            losses.append(float(functional.cross_entropy(scores[None], torch.tensor([target]))))
            ranks.append(1 + sum(float(s) >= float(scores[target]) for i, s in enumerate(scores) if i != target))
    return losses, ranks


@pytest.mark.parametrize("told", [False, True])
@torch.no_grad()
def test_figures_are_those_of_each_position_on_its_own(model, data, told):
    model.eval()
    if told:  # among them sequences without a scored event, and such whose first one lies beyond LENGTH
        scored = np.random.default_rng(1).integers(0, data.lengths + 2).astype(np.int32)
        assert (scored >= data.lengths).any() and ((scored > LENGTH) & (scored < data.lengths)).any()
        data = replace(data, scored_from=scored)
    losses, ranks = one_by_one(model, data)
    assert None in ranks
    hits = [0.0 if r is None or r > 10 else 1.0 for r in ranks]
    gains = [0.0 if r is None or r > 10 else 1 / np.log2(r + 1) for r in ranks]
    figures = Validator(data, LENGTH, batch_size=4)(model)
    assert figures["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert figures["recall@10"] == pytest.approx(np.mean(hits))
    assert figures["ndcg@10"] == pytest.approx(np.mean(gains))


@torch.no_grad()
def test_the_loss_is_the_weighted_mean(model, data):
    """Weights that are all alike change nothing, however large."""
    weighted = deepcopy(model)
    weighted.heads["item_id"].class_weights = torch.full((len(model.heads["item_id"].weight),), 10.0)
    with_weights, without = (Validator(data, LENGTH, batch_size=4)(m) for m in (weighted, model))
    assert with_weights["loss"] == pytest.approx(without["loss"], rel=1e-5)


def test_another_masking_gives_other_targets(model, data):
    """Under `final_value` every position of a first window is scored against the window's last event."""
    model.eval()
    hits = []
    for row in range(len(data)):
        begin, end = data.offsets[row], min(data.offsets[row + 1], data.offsets[row] + LENGTH + 1)
        for at in range(begin + 1, end):
            inputs = {f"inputs.{n}": torch.tensor(v[begin:at])[None] for n, v in data.columns.items()}
            inputs["inputs.item_id"] = inputs["inputs.item_id"].long()
            hidden = model.hidden(Batch({**inputs, "lengths": torch.tensor([at - begin])}))[0, -1]
            scores = model.heads["item_id"].weight @ hidden
            target = int(data.items[end - 1])
            hits.append(target >= 3 and int((scores[3:] >= scores[target]).sum()) <= 10)
    figures = Validator(data, LENGTH, batch_size=4, masking=final_value)(model)
    assert figures["recall@10"] == pytest.approx(np.mean(hits))


@torch.no_grad()
def test_ties_count_against_the_model(model):
    hidden = torch.zeros(2, 16)  # every item scores 0
    assert pessimistic_ranks(model, hidden, torch.tensor([5, 2])).tolist() == [20, 0]


def test_training_mode_is_given_back(model, data):
    model.train()
    Validator(data, LENGTH, batch_size=4)(model)
    assert model.training

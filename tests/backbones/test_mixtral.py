"""Mixtral's router: its loss as transformers computes it, without padding, in the loss and in the log."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from recsys.config import RunConfig, parse
from recsys.etl import preprocess
from recsys.training import train
from tests.backbones.cases import SIZE, make
from tests.tiny_run import make_commands, make_config, make_events

LENGTHS = torch.tensor([9, 4, 1])


def vectors() -> Tensor:
    torch.manual_seed(3)
    return torch.randn(3, 9, SIZE)


def test_extra_loss_is_transformers_own_without_padding() -> None:
    model = make("mixtral", router_loss=0.25).train()
    x = vectors()
    model(x, LENGTHS)
    logits = model.model(inputs_embeds=x, output_router_logits=True).router_logits
    expected = load_balancing_loss_func(logits, 4, 2, torch.arange(9) < LENGTHS[:, None])
    torch.testing.assert_close(model.extra_loss, 0.25 * expected)
    unmasked = load_balancing_loss_func(logits, 4, 2)
    assert (expected - unmasked).abs() > 1e-3


def test_padding_changes_neither_loss_nor_load() -> None:
    model = make("mixtral").train()
    x = vectors()
    model(x, LENGTHS)
    loss, log = model.extra_loss, model.pop_log()
    x[1, 4:], x[2, 1:] = 50.0, -50.0
    model(x, LENGTHS)
    torch.testing.assert_close(model.extra_loss, loss)
    assert model.pop_log() == pytest.approx(log)


def test_load_is_the_share_of_the_events_that_each_expert_gets() -> None:
    model = make("mixtral").train()
    x = vectors()
    model(x, LENGTHS)
    log = model.pop_log()
    counts = [0, 0, 0, 0]
    for layer in model.model(inputs_embeds=x, output_router_logits=True).router_logits:
        for row, length in enumerate(LENGTHS.tolist()):
            for event in layer.view(3, 9, 4)[row, :length].tolist():
                for expert in sorted(range(4), key=lambda e, event=event: -event[e])[:2]:
                    counts[expert] += 1
    assert [log[f"expert_{e}_load"] for e in range(4)] == pytest.approx([c / sum(counts) for c in counts])
    assert model.pop_log() == {}


def test_router_learns_from_the_extra_loss_alone_and_evaluation_has_none() -> None:
    model = make("mixtral").train()
    model(vectors(), LENGTHS)
    model.extra_loss.backward()
    assert all(layer.mlp.gate.weight.grad.any() for layer in model.model.layers)
    model.eval()(vectors(), LENGTHS)
    assert model.extra_loss is None and "router_loss" in model.pop_log()


def test_a_runs_log_holds_the_load_and_its_loss_the_balance(tmp_path: Path) -> None:
    def history(name: str, weight: float) -> dict[str, float]:
        backbone = {"name": "mixtral", "hidden_size": SIZE, "num_experts": 4, "router_loss": weight}
        config = make_config(backbone=backbone, auxiliary=[]).model_dump(mode="json")
        config["training"] |= {"max_steps": 1, "batch_size": 8}
        run = train(tmp_path / "data", parse(RunConfig, config, name), tmp_path / name)
        return json.loads(run.history_file.read_text())["train"][-1]

    preprocess(make_events(sessions=20), make_config(), tmp_path / "data", commands=make_commands())
    without, balanced = history("without", 0.0), history("with", 3.0)
    assert sum(balanced[f"expert_{e}_load"] for e in range(4)) == pytest.approx(1)
    assert without["router_loss"] == pytest.approx(balanced["router_loss"])
    assert balanced["loss"] - without["loss"] == pytest.approx(3 * balanced["router_loss"], rel=1e-4)
    assert balanced["item_loss"] == pytest.approx(without["item_loss"])

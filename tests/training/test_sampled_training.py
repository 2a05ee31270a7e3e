"""Training with negatives that are drawn and weights that are learned: repeatable, resumable, evaluated as served."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from recsys.config import RunConfig
from recsys.training.train import train
from tests.training.conftest import tiny_config

SETTINGS = {
    "loss": {"name": "sampled_softmax", "negatives": {"num": 5}},
    "similarity": "cosine",
    "temperature": 0.1,
    "learn_temperature": True,
    "task_weights": "uncertainty",
}


def sampled_config(**training: object) -> RunConfig:
    values = tiny_config(**training).model_dump()
    return RunConfig.model_validate({**values, "model": {**values["model"], **SETTINGS}})


def test_stopped_and_resumed_draws_what_it_would_have_drawn(dataset, tmp_path):
    config = sampled_config(max_steps=12, save_steps=6, evaluate_steps=6, patience=None)
    run = train(dataset, config, tmp_path / "run")
    expected, history = load_file(run.weights), run.read_json(run.history_file)
    stopped = tmp_path / "stopped"
    shutil.copytree(run.path, stopped)
    shutil.rmtree(stopped / "checkpoints" / "checkpoint-12")
    (stopped / "model.safetensors").unlink()
    (stopped / "history.json").unlink()
    resumed = train(dataset, config, stopped, resume=True)
    found = load_file(resumed.weights)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    found = resumed.read_json(resumed.history_file)["validation"]
    assert [v | {"cpu_seconds": 0.0} for v in found] == [v | {"cpu_seconds": 0.0} for v in history["validation"]]
    start = torch.tensor([1.0, 0.5]).reciprocal().log()  # of the item's and the class's weight
    assert (expected["task_weights.log_variances"] != start).all()
    assert expected["heads.item_id.log_temperature"].exp().item() != pytest.approx(0.1, rel=1e-6)

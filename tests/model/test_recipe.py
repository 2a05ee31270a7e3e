"""Flags of the recipes: what they set, what they leave behind, and a run of each recipe to its figures."""

import json

import pytest
import yaml

from model import train_eval_baseline_models, train_eval_full_models
from model.recipe import changed, choices, count_parameters
from recsys.errors import ConfigError
from recsys.etl import preprocess
from recsys.inference import load
from recsys.run_directory import RunDirectory
from tests.tiny_run import make_commands, make_config, make_events

SETTINGS = {
    "model": {
        "max_length": 6,
        "inputs": {"embedding_size": 8, "fusion_size": 16, "fusion_heads": 2},
        "backbone": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 32},
        "loss": {"name": "focal", "gamma": 1.0},
    },
    "training": {"epochs": 1, "batch_size": 16},
    "evaluation": {"bootstrap_samples": 20},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a dataset and a run's YAML."""
    folder = tmp_path_factory.mktemp("recipe")
    preprocess(make_events(), make_config(), folder / "data", commands=make_commands())
    (folder / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


def flags(work, out, *more):
    return ["--data", str(work / "data"), "--config", str(work / "run.yaml"), "--out", str(work / out), *more]


def test_every_choice_is_a_flag():
    assert {"llama", "gru"} <= set(choices("model.backbone.name"))
    assert {"focal", "cross_entropy"} <= set(choices("model.loss.name"))
    assert {"self_attention", "sum"} <= set(choices("model.inputs.fusion"))
    assert "causal" in choices("model.masking") and choices("training.epochs") == []


def test_a_new_name_leaves_behind_what_it_has_no_use_for():
    made = changed(SETTINGS, {"model.backbone.name": "gru", "model.loss.name": "cross_entropy"}, "flags")
    assert made["model"]["backbone"] == {"hidden_size": 16, "num_layers": 1, "name": "gru"}
    assert made["model"]["loss"] == {"name": "cross_entropy"}
    assert SETTINGS["model"]["backbone"]["num_kv_heads"] == 1, "what was given stays as it was"
    with pytest.raises(ConfigError, match=r"^grid: model.backbone.name: no 'grru' \(did you mean 'gru'\?\)$"):
        changed(SETTINGS, {"model.backbone.name": "grru"}, "grid")
    with pytest.raises(ConfigError, match="'max_length' is not a section"):
        changed(SETTINGS, {"model.max_length.x": 1}, "grid")


def test_the_full_model_by_flags(work, capsys):
    more = ["--backbone", "gru", "--fusion", "sum", "--seed", "3", "--no-auxiliary", "--set", "model.bias=true"]
    assert train_eval_full_models.main(flags(work, "gru", *more)) == 0
    config = RunDirectory(work / "gru").load_config()
    model = config.model
    assert (model.backbone.name, model.inputs.fusion, model.loss.name, config.seed) == ("gru", "sum", "focal", 3)
    assert model.loss.gamma == 1.0 and model.auxiliary == [] and model.bias
    printed = capsys.readouterr().out
    figures = json.loads((work / "gru" / "metrics.json").read_text())
    recall = figures["splits"]["test"]["positions"]["all"]["model"]["recall@10"]
    assert f"{recall:.4f}"[:5] in printed and "Markov-1" in printed and "gru, causal, sum, focal" in printed
    tensors = load(work / "gru").model.state_dict().values()
    parameters = count_parameters(RunDirectory(work / "gru"))
    assert parameters == sum(tensor.numel() for tensor in tensors)
    assert f"{parameters:,} parameters" in printed
    assert train_eval_full_models.main(flags(work, "gru")) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_the_baseline_reads_ids_alone(work, capsys):
    assert train_eval_baseline_models.main(flags(work, "baseline")) == 0
    config = RunDirectory(work / "baseline").load_config()
    assert config.model.inputs.streams == ["item_id"] and config.model.loss.name == "cross_entropy"
    assert list(load(work / "baseline").model.heads) == ["item_id"]
    assert train_eval_baseline_models.main(flags(work, "focal", "--loss", "focal")) == 0
    assert RunDirectory(work / "focal").load_config().model.loss.name == "focal"
    capsys.readouterr()


def test_mistakes_are_one_line(work, capsys):
    with pytest.raises(SystemExit):
        train_eval_full_models.main(flags(work, "x", "--backbone", "lama"))
    assert "invalid choice: 'lama'" in capsys.readouterr().err
    assert train_eval_full_models.main(flags(work, "x", "--set", "model.backbne.hidden_size=8")) == 2
    assert "unknown key 'model.backbne' (did you mean 'backbone'?)" in capsys.readouterr().err
    assert not (work / "x").exists()

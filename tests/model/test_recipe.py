"""Flags of the recipes: what they set, what they leave behind, and a run of each recipe to its figures."""

import json
import shutil

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

from model import train_eval_baseline_models, train_eval_full_models
from model.recipe import FLAGS, SHAPE, changed, configuration, count_trained, names_in, parse_arguments, run, why_train
from recsys.build import settle
from recsys.config import BackboneConfig, ModelConfig, RunConfig
from recsys.errors import ConfigError
from recsys.etl import preprocess
from recsys.inference import load
from recsys.run_directory import RunDirectory
from recsys.schema import Schema
from tests.peft_ext.cases import save_model
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


def fields_of(section, prefix):
    """Dotted keys of a section's settings, and the type of each."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.annotation


CHOICES = {key: names_in(kind) for key, kind in fields_of(ModelConfig, "model.") if names_in(kind)}
BY_COLUMN = ["model.inputs.gaps", "model.auxiliary"]  # sections by column: --gaps, and --set for heads
NEEDED = {  # what must be said beside a choice for it to mean anything
    "model.backbone.name": ["--set", "model.backbone.architecture={model_type: bert}"],  # of auto
    "model.backbone.norm": ["--backbone", "sasrec"],
    "model.peft.target_modules": ["--peft", "lora"],
    "model.peft.quantization": ["--peft", "lora"],
    "model.loss.negatives.name": ["--loss", "bce"],
}


def given(*more):
    return parse_arguments("x", None, ["--data", "data", "--out", "out", *more])


def test_the_choices_are_all_there():
    """The walk over the sections finds what is known to be a choice; only settings by column lie deeper."""
    assert {"gru", "llama"} <= set(CHOICES["model.backbone.name"]) and CHOICES["model.similarity"] == ["dot", "cosine"]
    assert CHOICES["model.loss.class_weights"] == ["inverse_frequency"] and "model.tied" not in CHOICES
    deeper = [key for key, kind in fields_of(ModelConfig, "model.") if "Config" in str(kind)]
    assert deeper == BY_COLUMN


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, names in CHOICES.items() for name in names])
def test_every_choice_is_a_flag(key, name):
    """The real parser takes each name of each choice, and hands it to its field."""
    flag = next((flag for flag, sets in FLAGS.items() if sets == key), None)
    assert flag is not None, f"{key} has no flag"
    more = NEEDED.get(key, []) if key != "model.backbone.name" or name == "auto" else []
    value = configuration(given(f"--{flag}", name, *more))
    for part in key.split("."):
        value = getattr(value, part)
    assert value == name


def test_no_flag_takes_another_name(capsys):
    for flag, key in FLAGS.items():
        if key in CHOICES:
            with pytest.raises(SystemExit):
                given(f"--{flag}", "nothing")
            assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_switches_numbers_and_gaps(work):
    base = ["--config", str(work / "run.yaml")]
    model = configuration(given(*base, "--tied", "--repeat-bias", "--temperature", "0.05", "--no-bias")).model
    assert (model.tied, model.repeat_bias, model.bias, model.temperature) == (True, True, False, 0.05)
    assert not configuration(given("--no-direct", "--set", "model.tied=true")).model.inputs.direct
    gaps = configuration(given("--gaps", "wait=sqrt", "pause")).model.inputs.gaps
    assert {name: gap.scale for name, gap in gaps.items()} == {"wait": "sqrt", "pause": "log"}
    with pytest.raises(ConfigError, match="gaps.wait.scale: 'cube'"):
        configuration(given("--gaps", "wait=cube"))
    plain = configuration(given(*base))
    assert plain == RunConfig.model_validate(SETTINGS), "what is not given stays as the YAML has it"


def test_pretrained_takes_the_sizes_of_the_yaml_out(tmp_path):
    save_model("llama", tmp_path / "base")
    stated = {"num_experts": 4, "experts_per_token": 1, "rope_theta": 500.0, "residual_dropout": 0.25}
    sizes = SETTINGS["model"]["backbone"] | {"num_layers": 7, "name": "auto"} | stated
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"model": {"backbone": sizes}}))
    base = ["--config", str(tmp_path / "run.yaml"), "--pretrained", str(tmp_path / "base"), "--backbone", "llama"]
    backbone = settle(configuration(given(*base)).model).backbone
    assert (backbone.hidden_size, backbone.num_layers, backbone.residual_dropout) == (64, 2, 0.25)
    with pytest.raises(ConfigError, match="num_heads comes with the architecture; leave it out"):
        configuration(given(*base, "--set", "model.backbone.num_heads=2"))
    with pytest.raises(ConfigError, match=r"hidden_size: is 32, but .* has 64; leave it out"):
        settle(configuration(given(*base, "--set", "model.backbone.hidden_size=32")).model)


def test_shape_is_all_that_an_architecture_brings():
    """Every size that the section refuses beside `pretrained` is taken out by the flag, and nothing else is."""
    refused = {"hidden_size", "num_layers"}  # compared with the architecture's by `settle`
    for field, default in ((name, info.default) for name, info in BackboneConfig.model_fields.items()):
        if isinstance(default, int | float) or default is None:
            try:
                BackboneConfig.model_validate(
                    {"name": "mixtral", "pretrained": "x", field: 0.5 if "dropout" in field else 6}
                )
            except ValueError as error:
                refused |= {field} if "comes with the architecture" in str(error) else set()
    assert refused == set(SHAPE)


@pytest.fixture(scope="module")
def kept(work):
    """A finished run on a pretrained model and a text table, and its configuration before it was settled."""
    save_model("llama", work / "base")
    items = Schema.load(work / "data" / "schema.json").item().num_ids()
    np.save(work / "text.npy", np.vstack([np.zeros((3, 4)), np.ones((items - 3, 4))]).astype(np.float32))
    arguments = ["--pretrained", str(work / "base"), "--set", f"model.inputs.text_table={work / 'text.npy'}"]
    config = configuration(given("--config", str(work / "run.yaml"), *arguments))
    return run(work / "data", config, work / "kept")[0], config


def test_a_run_is_kept_where_everything_is_the_same(work, kept, tmp_path):
    directory, config = kept
    assert why_train(directory, config, work / "data") is None
    assert why_train(RunDirectory(tmp_path), config, work / "data") == "trained, since no finished run is there"
    other = config.model_copy(update={"seed": 8})
    assert why_train(directory, other, work / "data") == "trained again, since its configuration is another"
    directory.metrics_file.rename(tmp_path / "metrics.json")
    assert "no finished run" in why_train(directory, config, work / "data")
    (tmp_path / "metrics.json").rename(directory.metrics_file)


def test_a_run_is_not_kept_where_its_files_changed(work, kept, tmp_path):
    directory, config = kept
    preprocess(make_events(seed=1), make_config(), tmp_path / "data", commands=make_commands())
    from_another = "trained again, since it was made from another"
    assert why_train(directory, config, tmp_path / "data") == f"{from_another} dataset"
    table = work / "text.npy"
    before = table.read_bytes()
    np.save(table, np.load(table) * 2)
    assert why_train(directory, config, work / "data") == f"{from_another} text_table"
    table.write_bytes(before)
    shutil.copytree(work / "base", tmp_path / "base")
    save_model("llama", work / "base", seed=6)
    assert why_train(directory, config, work / "data") == f"{from_another} base"
    shutil.copytree(tmp_path / "base", work / "base", dirs_exist_ok=True)
    assert why_train(directory, config, work / "data") is None


def test_trained_parameters_are_those_that_can_change(kept):
    """The text table, which no step changes, is in the weights and not in the figure."""
    directory, _ = kept
    model = load(directory.path).model
    table = model.state_dict()["inputs.pretrained.table"]
    assert count_trained(directory) == sum(p.numel() for p in model.parameters())
    assert sum(t.numel() for t in model.state_dict().values()) >= count_trained(directory) + table.numel()


def test_a_new_name_leaves_behind_what_it_has_no_use_for():
    made = changed(SETTINGS, {"model.backbone.name": "gru", "model.loss.name": "cross_entropy"}, "flags")
    assert made["model"]["backbone"] == {"hidden_size": 16, "num_layers": 1, "name": "gru"}
    assert made["model"]["loss"] == {"name": "cross_entropy"}
    negatives = {"name": "popularity", "num": 9, "power": 0.5}
    made = changed(
        {"model": {"loss": {"name": "bce", "negatives": negatives}}}, {"model.loss.negatives.name": "uniform"}, ""
    )
    assert made["model"]["loss"]["negatives"] == {"name": "uniform", "num": 9}
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
    trained = sum(p.numel() for p in load(work / "gru").model.parameters())
    assert f"{trained:,} trained parameters" in printed
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

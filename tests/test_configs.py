"""Every YAML of configs/: loads strictly, holds what it claims, and trains a step at reduced size."""

import copy
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from recsys.build import build_model
from recsys.cleaning.profile import Profile, load_profile
from recsys.config import RunConfig, load_config, parse
from recsys.errors import ConfigError
from recsys.etl import preprocess
from recsys.recommender import own_state
from recsys.training import train
from tests.data.sequences import make_items, make_schema
from tests.tiny_run import make_commands, make_events

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
RUNS = sorted(CONFIGS.glob("*.yaml"))
PROFILES = sorted((CONFIGS / "profiles").glob("*.yaml"))
MODEL = ("model", "model.inputs", "model.backbone", "model.peft", "model.loss")
SECTIONS = ("", "split", "etl", *MODEL, "training", "evaluation")


def by_name(path: Path) -> str:
    return path.stem


def shrink(config: RunConfig) -> RunConfig:
    """The same choices, heads and layers at widths that a test can afford."""
    values = config.model_dump(mode="json")
    inputs, backbone = values["model"]["inputs"], values["model"]["backbone"]
    values["model"]["max_length"] = 12
    inputs |= {"embedding_size": 8, "fusion_size": 4 * inputs["fusion_heads"]}
    if inputs["direct"]:
        width = 4 * backbone["num_heads"]
        inputs |= {"embedding_size": width, "fusion_size": width, "fusion_heads": 1}
        backbone |= {"hidden_size": width, "intermediate_size": width}
    elif backbone["architecture"] is None:
        backbone |= {"hidden_size": 2 * backbone["num_heads"], "intermediate_size": 24}
    else:
        size = {"hidden_size": 2 * backbone["architecture"]["num_attention_heads"]}
        backbone["architecture"] |= {**size, "intermediate_size": 24, "num_hidden_layers": 2}
        backbone |= {**size, "num_layers": 2}
    if "negatives" in values["model"]["loss"]:
        values["model"]["loss"]["negatives"]["num"] = 4
    values["training"] |= {"max_steps": 1, "batch_size": 8}
    return parse(RunConfig, values, "reduced")


def test_there_are_configs_of_both_kinds() -> None:
    found = {p.stem for p in RUNS}
    assert {"llama_lora", "llama_lora_small", "paper_llama", "paper_llama_baseline"} <= found
    assert {"vectorworks", "visual_studio"} <= found
    assert {"vectorworks", "visual_studio"} <= {p.stem for p in PROFILES}


def with_base(config: RunConfig, folder: Path) -> RunConfig:
    """The reduced run with a small pretrained backbone to freeze, where it freezes one."""
    values = shrink(config).model_dump(mode="json")
    backbone = values["model"]["backbone"]
    if config.model.peft.freezes:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
        architecture = dict(backbone["architecture"] or {"model_type": backbone["name"], **sizes})
        shape = AutoConfig.for_model(architecture.pop("model_type"), vocab_size=9, pad_token_id=1, **architecture)
        AutoModel.from_config(shape).save_pretrained(folder)
        values["model"]["backbone"] = {"name": backbone["name"], "pretrained": str(folder)}
    return parse(RunConfig, values, "reduced")


@pytest.mark.parametrize("path", RUNS, ids=by_name)
def test_config_builds_and_takes_one_step(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    reduced = with_base(config, tmp_path / "base")
    events = make_events(sessions=75, longest=30).with_columns(cat=pl.lit("Menu"))
    made = preprocess(events, config, tmp_path / "dataset", commands=make_commands())
    assert made.report["splits"]["train"]["sequences"] > 8
    run = train(made.path, reduced, tmp_path / "run")

    assert json.loads(run.history_file.read_text())["train"][-1]["step"] == 1
    weights = load_file(run.weights)
    torch.manual_seed(config.seed)
    items = pl.read_parquet(made.path / "workflow" / "items.parquet")
    fresh = own_state(build_model(reduced.model, made.schema, items))
    assert {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in fresh.items()}
    assert all(t.isfinite().all() for t in weights.values() if t.is_floating_point())
    moved = {name for name, tensor in weights.items() if not torch.equal(tensor, fresh[name])}
    assert any(name.startswith("backbone.") for name in moved)
    if reduced.model.peft.freezes:
        kept = {name for name in weights if name.startswith("backbone.")}
        assert kept and all(".lora_" in name for name in kept)
    expected = {"item_id"} if config.model.auxiliary == [] else {"item_id", "classification", "target"}
    if config.model.tied and config.model.inputs.direct and not config.model.repeat_bias:
        expected.remove("item_id")  # the embedding is the output table, and the head has nothing else
    assert {name.split(".")[1] for name in moved if name.startswith("heads.")} == expected


@pytest.mark.parametrize("path", RUNS, ids=by_name)
def test_config_names_a_cleaning_profile(path: Path) -> None:
    profile = load_config(path).profile
    if path.stem.startswith("beauty_"):  # a table of events, not a log
        assert profile is None
        return
    assert profile is not None
    assert load_profile(profile).name == profile


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("path", RUNS, ids=by_name)
def test_unknown_key_is_refused_in_every_section(path: Path, section: str, tmp_path: Path) -> None:
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    at = values
    for key in section.split(".") if section else ():
        at = at.setdefault(key, {})
    at["sede"] = 1
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(values))
    where = f"{section}.sede" if section else "sede"
    with pytest.raises(ConfigError, match=f"changed.yaml: unknown key '{where}'"):
        load_config(changed)


@pytest.mark.parametrize("path", PROFILES, ids=by_name)
def test_profile_loads_by_name_and_by_path(path: Path) -> None:
    profile = load_profile(path.stem)
    assert profile == load_profile(path)
    assert profile.name == path.stem
    stated = yaml.safe_load(path.read_text())
    assert set(stated) <= set(Profile.model_fields)
    assert profile.min_length == stated.get("min_length", 1)


@pytest.mark.parametrize("path", PROFILES, ids=by_name)
def test_profile_with_an_unknown_key_is_refused(path: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    changed = copy.deepcopy(values)
    changed["undo"]["mod"] = changed["undo"].pop("mode")
    file = tmp_path / "changed.yaml"
    file.write_text(yaml.safe_dump(changed))
    with pytest.raises(ConfigError, match=r"unknown key 'undo\.mod' \(did you mean 'mode'\?\)"):
        load_profile(file)


def test_visual_studio_profile_holds_the_fixed_rules() -> None:
    profile = load_profile("visual_studio")
    assert (profile.gap_minutes, profile.min_length, profile.collapse) == (30, 5, True)
    assert profile.undo.mode == "keep"
    assert len(profile.noise.messages) == 18
    assert profile.metadata.target_before == "."
    split = load_config(CONFIGS / "visual_studio.yaml").split
    assert (split.rule, split.by, split.every) == ("every_nth", "user_id", 5)


@pytest.mark.parametrize("name", ["paper_llama", "paper_llama_baseline"])
def test_paper_configs_hold_the_documents_numbers(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    backbone, training, inputs = config.model.backbone, config.training, config.model.inputs
    assert (backbone.name, backbone.num_layers, backbone.hidden_size) == ("llama", 2, 2048)
    assert (backbone.num_heads, backbone.num_kv_heads, backbone.intermediate_size) == (32, 8, 8192)
    assert config.model.max_length == 110
    assert (inputs.embedding_size, inputs.fusion_size, inputs.fusion_heads) == (1024, 1024, 4)
    assert (training.batch_size, training.epochs, training.patience) == (128, 10, 10)
    assert config.etl.chunk is not None
    assert (config.etl.chunk.min_items, config.etl.chunk.max_items) == (10, 100)


def test_the_adapted_llama_is_the_documents() -> None:
    config = load_config(CONFIGS / "llama_lora.yaml")
    shape, peft = config.model.backbone.architecture, config.model.peft
    assert isinstance(shape, dict) and config.model.backbone.pretrained is None
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert [shape[name] for name in sizes] == [4096, 32, 32, 11008]
    assert config.model.max_length == 110
    assert (peft.method, peft.quantization, peft.double_quantization) == ("qlora", "nf4", True)
    assert (peft.r, peft.alpha, peft.dropout, peft.target_modules) == (16, 64, 0.05, "all-linear")
    assert peft.compute_dtype == "bfloat16"
    assert config.training.batch_size * config.training.accumulation == 128
    small = load_config(CONFIGS / "llama_lora_small.yaml").model.peft
    assert (small.r, small.alpha, small.dropout, small.target_modules) == (16, 64, 0.05, "all-linear")


def test_the_papers_full_model_and_its_baseline_differ_as_the_document_says() -> None:
    full, baseline = (load_config(CONFIGS / f"{name}.yaml") for name in ("paper_llama", "paper_llama_baseline"))
    assert (full.training.learning_rate, baseline.training.learning_rate) == (3e-5, 1e-4)
    assert (full.model.loss.name, full.model.loss.gamma) == ("focal", 2)
    assert baseline.model.loss.name == "cross_entropy"
    assert (full.model.inputs.fusion, baseline.model.inputs.fusion) == ("self_attention", "sum")
    assert (full.model.inputs.streams, baseline.model.inputs.streams) == (None, ["item_id"])
    assert full.model.backbone == baseline.model.backbone

    models = [build_model(shrink(config).model, make_schema(), make_items()) for config in (full, baseline)]
    assert models[0].weights == {"item_id": 1.0, "classification": 0.5}  # the document's lambda
    assert models[1].weights == {"item_id": 1.0}

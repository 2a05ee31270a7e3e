"""The model of a plan: the shapes, types and trained parameters of the real one, and no memory."""

from pathlib import Path

import pytest
import torch

from recsys.build import build_model, settle
from recsys.build.planned import build_planned
from recsys.config import BackboneConfig, ModelConfig
from recsys.errors import ConfigError
from recsys.schema import Column, Kind, Schema, Scope
from tests.backbones.cases import GPT_NEOX
from tests.data.sequences import make_items, make_schema
from tests.peft_ext.cases import SHAPES, save_model

SIZES = {"embedding_size": 8, "fusion_size": 16, "fusion_heads": 2}
LORA = {"method": "lora", "r": 4, "compute_dtype": "bfloat16"}
TARGETS = ({"target_modules": "all-linear"}, {"target_modules": "attention"})


def config(kind: str, peft: dict, **backbone: object) -> ModelConfig:
    masking = "mlm" if kind in ("bert", "t5") else "causal"
    values = {"max_length": 12, "masking": masking, "inputs": SIZES, "peft": peft}
    return ModelConfig.model_validate({**values, "backbone": {"name": kind, **backbone}})


def described(model: torch.nn.Module) -> dict[str, tuple]:
    return {n: (tuple(p.shape), p.dtype, p.requires_grad) for n, p in model.named_parameters()}


@pytest.mark.parametrize("targets", TARGETS, ids=lambda t: t["target_modules"])
@pytest.mark.parametrize("kind", SHAPES)
def test_it_has_the_real_models_parameters(kind: str, targets: dict, tmp_path: Path) -> None:
    save_model(kind, tmp_path)
    asked = config(kind, {**LORA, **targets}, pretrained=str(tmp_path))
    real = build_model(asked, make_schema(), make_items())
    planned, quantised = build_planned(asked, make_schema(), make_items())
    assert described(planned) == described(real) and quantised is None
    assert {t.device.type for t in (*planned.parameters(), *planned.buffers())} == {"meta"}


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_it_names_the_weights_that_are_quantised(kind: str, tmp_path: Path) -> None:
    save_model(kind, tmp_path)
    asked = config(kind, {"method": "qlora", "r": 4, "compute_dtype": "float32"}, pretrained=str(tmp_path))
    real = build_model(asked, make_schema(), make_items())
    planned, quantised = build_planned(asked, make_schema(), make_items())
    found = {name for name, p in real.named_parameters() if not p.is_floating_point()}
    assert quantised is not None and quantised.names == found
    assert (quantised.kind, quantised.double, quantised.compute_size) == ("nf4", True, 4)
    assert [n for n, _ in planned.named_parameters()] == [n for n, _ in real.named_parameters()]


def test_neither_weights_nor_memory_are_needed() -> None:
    shape = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 32}
    asked = config("llama", {"method": "qlora"}, architecture={**shape, "intermediate_size": 11008})
    with pytest.raises(ConfigError, match="would be frozen untrained"):
        build_model(asked, make_schema(), make_items())
    planned, quantised = build_planned(asked, make_schema(), make_items())
    assert quantised is not None and len(quantised.names) == 14
    frozen = sum(p.numel() for p in planned.backbone.parameters() if not p.requires_grad)
    assert frozen == 2 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096


ROBERTA = {"model_type": "roberta", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
ROBERTA |= {"intermediate_size": 24, "max_position_embeddings": 20}


@pytest.mark.parametrize(("architecture", "masking"), [(GPT_NEOX, "causal"), (ROBERTA, "mlm")])
def test_another_architecture_is_planned_as_it_is_built(architecture: dict, masking: str) -> None:
    """What `auto` names is tried out with numbers, and a plan has none."""
    asked = config("gru", {}).model_copy(update={"masking": masking})
    asked.backbone = BackboneConfig(name="auto", architecture=architecture)
    real = build_model(settle(asked), make_schema(), make_items())
    planned, quantised = build_planned(asked, make_schema(), make_items())
    assert described(planned) == described(real) and quantised is None
    assert planned.backbone.is_causal is real.backbone.is_causal is (masking == "causal")
    assert {t.device.type for t in (*planned.parameters(), *planned.buffers())} == {"meta"}


def test_text_that_only_initialises_is_no_stream() -> None:
    text = Column(name="text", kind=Kind.PRETRAINED, scope=Scope.ITEM, dtype="float32", dimension=6)
    schema = Schema(columns=[*make_schema().columns, text])
    asked = config("gru", {})
    asked.inputs.text_use = "initialiser"
    assert build_planned(asked, schema, make_items())[0].inputs.pretrained is None
    asked.inputs.text_use = "projected"
    assert build_planned(asked, schema, make_items())[0].inputs.pretrained is not None


def test_a_target_that_matches_nothing_is_one_line() -> None:
    asked = config("llama", {**LORA, "target_modules": ["qq"]}, hidden_size=16, num_heads=2)
    with pytest.raises(ConfigError, match=r"^model\.peft: target_modules: no layer 'qq' \(there are .*q_proj"):
        build_planned(asked, make_schema(), make_items())

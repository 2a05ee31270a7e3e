"""Architectures by name, folder or values; pretrained weights; the document's shapes."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from recsys.build import build_model, settle
from recsys.build.backbones import build_backbone
from recsys.config import BackboneConfig, ModelConfig, RunConfig, load_config, parse
from recsys.errors import ConfigError
from recsys.etl import preprocess
from recsys.inference import load
from recsys.training import train
from tests.backbones.cases import GPT_NEOX
from tests.data.sequences import make_items, make_schema
from tests.tiny_run import make_commands, make_config, make_events

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
INPUTS = {"embedding_size": 8, "fusion_size": 8, "fusion_heads": 2}
SHAPES = {
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24},
    "bert": {"num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 20},
    "gpt2": {"n_head": 4, "n_positions": 20},
    "gpt_neox": {"num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 20},
    "roberta": {"num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 20},
}


def save(kind: str, folder: Path) -> PreTrainedModel:
    """A model with eleven words, as others save it."""
    sizes = {"n_embd": 16, "n_layer": 3} if kind == "gpt2" else {"hidden_size": 16, "num_hidden_layers": 3}
    config = AutoConfig.for_model(kind, vocab_size=11, pad_token_id=1, **sizes, **SHAPES[kind])
    torch.manual_seed(5)
    model = AutoModel.from_config(config)
    model.save_pretrained(folder)
    return model


def model_config(max_length: int = 8, masking: str = "causal", **backbone: object) -> ModelConfig:
    values = {"max_length": max_length, "inputs": INPUTS, "backbone": backbone, "masking": masking}
    return parse(ModelConfig, values, "test")


@pytest.mark.parametrize("kind", SHAPES)
def test_pretrained_weights_are_those_of_the_folder(kind: str, tmp_path: Path) -> None:
    given = save(kind, tmp_path).state_dict()
    name = "auto" if kind in ("gpt_neox", "roberta") else kind
    masking = "mlm" if kind in ("bert", "roberta") else "causal"
    config = settle(model_config(masking=masking, name=name, pretrained=str(tmp_path)))
    assert (config.backbone.hidden_size, config.backbone.num_layers) == (16, 3)
    model = build_model(config, make_schema(), make_items())
    own = model.backbone.model.state_dict()
    assert own and any(not torch.equal(given[n], t) for n, t in own.items())  # fresh until they are loaded
    model = build_model(config, make_schema(), make_items(), start_pretrained=True)
    assert all(torch.equal(given[name], tensor) for name, tensor in model.backbone.model.state_dict().items())
    vectors, lengths = torch.randn(1, 5, 16), torch.tensor([5])
    theirs = AutoModel.from_pretrained(tmp_path).eval()(inputs_embeds=vectors).last_hidden_state
    torch.testing.assert_close(model.backbone.eval()(vectors, lengths), theirs, rtol=1e-4, atol=1e-5)
    left = {name for name in given if name not in own}
    assert left and all("emb" in name or "wte" in name or "pooler" in name for name in left)


def test_a_run_is_loaded_without_the_folder_that_it_started_from(tmp_path: Path) -> None:
    given = save("llama", tmp_path / "given").state_dict()
    config = make_config(backbone={"name": "llama", "pretrained": str(tmp_path / "given")}).model_dump(mode="json")
    config["model"]["backbone"] = {"name": "llama", "pretrained": str(tmp_path / "given")}
    config["training"] |= {"max_steps": 1, "batch_size": 8, "learning_rate": 1e-6}
    preprocess(make_events(sessions=20), make_config(), tmp_path / "data", commands=make_commands())
    run = train(tmp_path / "data", parse(RunConfig, config, "test"), tmp_path / "run")
    shutil.rmtree(tmp_path / "given")
    loaded = load(run.path, device="cpu")
    assert loaded.config.model.backbone.architecture["model_type"] == "llama"
    assert loaded.model.backbone.hidden_size == 16 and len(loaded.model.backbone.model.layers) == 3
    for name, tensor in loaded.model.backbone.model.state_dict().items():
        torch.testing.assert_close(tensor, given[name], rtol=0, atol=1e-5)  # one tiny step from the folder's weights


def test_a_configuration_in_a_folder_gives_the_shape_and_fresh_weights(tmp_path: Path) -> None:
    given = save("gpt_neox", tmp_path).state_dict()
    config = settle(model_config(name="auto", architecture=str(tmp_path)))
    model = build_model(config, make_schema(), make_items(), start_pretrained=True)
    own = model.backbone.model.state_dict()
    assert {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in given.items() if n in own}
    assert not torch.equal(own["layers.0.attention.dense.weight"], given["layers.0.attention.dense.weight"])


def test_settling_twice_changes_nothing(tmp_path: Path) -> None:
    save("llama", tmp_path)
    once = settle(model_config(name="llama", pretrained=str(tmp_path)))
    assert settle(once) == once and settle(model_config()) == model_config()
    assert parse(ModelConfig, once.model_dump(mode="json"), "saved") == once


def test_what_a_written_architecture_leaves_open_comes_from_the_folder(tmp_path: Path) -> None:
    """Else a run that is loaded without the folder would compute with another base of its positions."""
    config = AutoConfig.for_model("llama", vocab_size=11, hidden_size=16, num_hidden_layers=3, **SHAPES["llama"])
    config.rope_parameters = {"rope_type": "default", "rope_theta": 77.0}
    AutoModel.from_config(config).save_pretrained(tmp_path)
    stated = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
    stated["rms_norm_eps"] = 1e-4
    given = model_config(name="llama", pretrained=str(tmp_path), architecture=stated)
    found = settle(given, complete=True).backbone.architecture
    assert found["rope_parameters"]["rope_theta"] == 77.0 and found["num_key_value_heads"] == 2
    assert found["rms_norm_eps"] == 1e-4 and settle(given).backbone.architecture == stated


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            {"name": "bert", "pretrained": "{folder}"},
            r"model.backbone.name: is bert, but .* is llama; set name to llama",
        ),
        (
            {"name": "llama", "pretrained": "{folder}", "hidden_size": 32},
            r"hidden_size: is 32, but .* has 16; leave it",
        ),
        ({"name": "llama", "pretrained": "{folder}x"}, r"{folder}x .no such folder here; .*: no configuration"),
        ({"name": "auto", "architecture": {"hidden_size": 16}}, "has no model_type; give one"),
        ({"name": "auto", "architecture": {"model_type": "gpt9"}}, "'gpt9' cannot be used"),
    ],
)
def test_what_cannot_be_settled_is_refused_in_one_line(
    backbone: dict[str, object], message: str, tmp_path: Path
) -> None:
    save("llama", tmp_path)
    named = {k: v.format(folder=tmp_path) if isinstance(v, str) else v for k, v in backbone.items()}
    with pytest.raises(ConfigError, match=message.format(folder=tmp_path)) as caught:
        settle(model_config(**named))
    assert "\n" not in str(caught.value)


def test_fewer_positions_than_the_model_reads_are_refused() -> None:
    architecture = {**GPT_NEOX, "max_position_embeddings": 10}
    config = settle(model_config(max_length=12, name="auto", architecture=architecture)).backbone
    with pytest.raises(ConfigError, match=r"this gpt_neox has 10 positions and 12 are needed; lower .* by 2$"):
        build_backbone(config, 12)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save("llama", tmp_path)
    other = {**SHAPES["llama"], "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 4}
    config = settle(model_config(name="llama", pretrained=str(tmp_path), architecture=other)).backbone
    with pytest.raises(ConfigError, match="has no 'layers.3"):
        build_backbone(config, 8, start_pretrained=True)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        # attention 4 H^2 (LLaMA 2.5: 8 of 32 key-value heads), feed-forward of each, over all layers
        ("paper_llama", 2 * (2.5 * 2048**2 + 3 * 2048 * 8192)),
        ("paper_mixtral", 2 * (4 * 1024**2 + 8 * 3 * 1024 * 3584 + 8 * 1024)),
        ("paper_bert", 2 * 12 * 1024**2),
        ("paper_bert_base", 12 * 12 * 768**2),
        ("paper_bert_large", 24 * 12 * 1024**2),
        ("paper_t5", 2 * (12 + 16) * 1024**2),
    ],
)
def test_presets_have_the_documents_sizes(preset: str, parameters: float) -> None:
    config = load_config(CONFIGS / f"{preset}.yaml").model
    with torch.device("meta"):
        backbone = build_backbone(config.backbone, config.max_length + 1)
    matrices = sum(p.numel() for p in backbone.parameters() if p.ndim >= 2 and min(p.shape[-2:]) > 111)
    matrices += sum(p.numel() for n, p in backbone.named_parameters() if n.endswith("gate.weight"))
    assert matrices == parameters
    assert all(p.is_meta for p in backbone.parameters())
    assert backbone.is_causal == (config.masking == "causal")


def test_the_page_names_the_parameters_of_a_layer() -> None:
    """What a third layer adds, over H², in the table of docs/models.md."""
    page = (CONFIGS.parent / "docs" / "models.md").read_text(encoding="utf-8")
    stated = {name: int(number) for name, number in re.findall(r"^\| `(\w+)` \|.* (\d+) H² \|", page, re.MULTILINE)}
    found = {}
    for name in stated:
        sizes = []
        for layers in (2, 3):
            with torch.device("meta"):
                backbone = build_backbone(BackboneConfig(name=name, hidden_size=64, num_layers=layers), 50)
            sizes.append(sum(p.numel() for p in backbone.parameters() if p.ndim >= 2 and p.numel() > 64 * 32))
        found[name] = (sizes[1] - sizes[0]) / 64**2
    assert found == stated and len(stated) == 11

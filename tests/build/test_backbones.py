"""Architectures by name, folder or values; pretrained weights; the document's shapes."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForPreTraining, PreTrainedModel

from recsys.backbones.base import Backbone
from recsys.build import build_model, settle
from recsys.build.backbones import build_backbone
from recsys.config import BackboneConfig, ModelConfig, RunConfig, load_config, parse
from recsys.errors import ConfigError
from recsys.etl import preprocess
from recsys.inference import load
from recsys.nn.masking import permutation
from recsys.training import train
from tests.backbones.cases import GPT_NEOX, enlarge
from tests.data.sequences import make_items, make_schema
from tests.tiny_run import make_commands, make_config, make_events

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
INPUTS = {"embedding_size": 8, "fusion_size": 8, "fusion_heads": 2}
WIDE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24}
SHAPES = {  # what they have beside our own fields must survive: gates, decoders and heads of another size
    "llama": {**WIDE, "num_key_value_heads": 2},
    "qwen3": {**WIDE, "num_key_value_heads": 2, "head_dim": 6},
    "mixtral": {**WIDE, "num_key_value_heads": 2, "num_local_experts": 4},
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 20},
    "gpt_neox": {**WIDE, "max_position_embeddings": 20},
    "bert": {**WIDE, "max_position_embeddings": 20},
    "roberta": {**WIDE, "max_position_embeddings": 20},
    "t5": {
        "d_model": 16,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "d_kv": 6,
        "d_ff": 24,
        "feed_forward_proj": "gated-gelu",
    },
    "xlnet": {"d_model": 16, "n_layer": 3, "n_head": 4, "d_inner": 24},
}
BOTH_WAYS = ("bert", "roberta", "t5", "xlnet")
STARTS = [*((kind, "mlm" if kind in BOTH_WAYS else "causal") for kind in SHAPES), ("xlnet", "permutation")]
WORDS_AND_POOLER = {"embeddings.word_embeddings.weight", "pooler.dense.weight", "pooler.dense.bias"}
UNUSED = {  # words come as vectors, segments there are none, and states are read without a pooler
    "gpt2": {"wte.weight"},
    "gpt_neox": {"embed_in.weight"},
    "bert": WORDS_AND_POOLER,
    "roberta": WORDS_AND_POOLER,
    "t5": {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"},
    "xlnet": {"word_embedding.weight"}
    | {f"layer.{layer}.rel_attn.{part}" for layer in range(3) for part in ("seg_embed", "r_s_bias")},
}


def save(kind: str, folder: Path, head: bool = False) -> PreTrainedModel:
    """A model with eleven words, as others save it: every tensor is unlike a fresh one, and shows in the states."""
    config = AutoConfig.for_model(kind, vocab_size=11, pad_token_id=1, **SHAPES[kind])
    torch.manual_seed(5)
    headed = AutoModelForPreTraining if kind in ("bert", "roberta", "t5") else AutoModelForCausalLM
    model = enlarge((headed if head else AutoModel).from_config(config))
    model.save_pretrained(folder)
    return model


def start(kind: str, masking: str, folder: Path, start_pretrained: bool = True) -> Backbone:
    """The backbone of a model that starts from a folder; `auto` where the architecture has no name of its own."""
    name = "auto" if kind in ("gpt_neox", "roberta") else kind
    config = settle(model_config(masking=masking, name=name, pretrained=str(folder)))
    assert (config.backbone.hidden_size, config.backbone.num_layers) == (16, 3)
    return build_model(config, make_schema(), make_items(), start_pretrained=start_pretrained).backbone.eval()


def model_config(max_length: int = 8, masking: str = "causal", **backbone: object) -> ModelConfig:
    values = {"max_length": max_length, "inputs": INPUTS, "backbone": backbone, "masking": masking}
    return parse(ModelConfig, values, "test")


@pytest.mark.parametrize(("kind", "masking"), STARTS)
def test_pretrained_weights_are_those_of_the_folder(kind: str, masking: str, tmp_path: Path) -> None:
    given = save(kind, tmp_path).state_dict()
    fresh = start(kind, masking, tmp_path, start_pretrained=False).model.state_dict()
    assert fresh and not [name for name, tensor in fresh.items() if torch.equal(given[name], tensor)]
    own = start(kind, masking, tmp_path).model.state_dict()
    assert own.keys() == fresh.keys()
    assert [name for name, tensor in own.items() if not torch.equal(given[name], tensor)] == []
    query = {"mask_emb"} if (kind, masking) == ("xlnet", "mlm") else set()  # begins the stream of permutation LM
    assert given.keys() - own.keys() == UNUSED.get(kind, {"embed_tokens.weight"}) | query


@pytest.mark.parametrize("kind", SHAPES)
def test_the_head_of_a_folder_is_left_out(kind: str, tmp_path: Path) -> None:
    """Most models are shared with the layer that turns states to words; their names then have a prefix."""
    headed = save(kind, tmp_path, head=True)
    given = headed.base_model.state_dict()
    own = start(kind, "mlm" if kind in BOTH_WAYS else "causal", tmp_path).model.state_dict()
    assert len(headed.state_dict()) > len(own) > 0
    assert [name for name, tensor in own.items() if not torch.equal(given[name], tensor)] == []


def asked(kind: str, backbone: Backbone, vectors: Tensor, seen: Tensor | None) -> dict[str, Tensor]:
    """What a model of transformers is to be given so that it computes what ours does with vectors ``[B, T, H]``."""
    if seen is not None:  # bool [B, T, T]; every event is asked for, in its own place
        every = torch.eye(vectors.shape[1]).expand(len(vectors), -1, -1)
        return {"inputs_embeds": vectors, "perm_mask": 1.0 - seen.float(), "target_mapping": every}
    if kind != "t5":
        return {"inputs_embeds": vectors}
    shifted = vectors.roll(1, dims=1)  # the decoder is one event behind
    shifted[:, 0] = backbone.start.detach()
    return {"inputs_embeds": vectors, "decoder_inputs_embeds": shifted}


@pytest.mark.parametrize(("kind", "masking"), STARTS)
@torch.no_grad()
def test_states_of_pretrained_weights_are_those_of_transformers(kind: str, masking: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    backbone, source = start(kind, masking, tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    vectors, lengths = torch.randn(2, 6, 16), torch.tensor([6, 6])
    seen, more = None, {}
    if masking == "permutation":
        generator = torch.Generator().manual_seed(0)
        seen = permutation(torch.full((2, 6), 3), lengths, generator, probability=0.5).attention_mask
        more["attention_mask"] = seen
    theirs = source(**asked(kind, backbone, vectors, seen)).last_hidden_state
    assert theirs.std(dim=1).mean() > 0.05  # events differ
    torch.testing.assert_close(backbone(vectors, lengths, **more), theirs, rtol=1e-4, atol=1e-5)


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
    config = AutoConfig.for_model("llama", vocab_size=11, **SHAPES["llama"])
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
    other = {**SHAPES["llama"], "model_type": "llama", "num_hidden_layers": 4}
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

"""Models of transformers as backbones: what is taken out, what is measured, what older runs hold."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, LlamaConfig, LlamaModel

from recsys.backbones.hf import Transformer, probe
from recsys.errors import ConfigError
from tests.backbones.cases import GPT_NEOX, LENGTH, SIZE, make, run


def test_llama_has_the_names_and_the_draws_of_earlier_runs() -> None:
    config = LlamaConfig(
        vocab_size=1,
        hidden_size=SIZE,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(7)
    expected = {f"model.{k}": v for k, v in LlamaModel(config).state_dict().items() if not k.startswith("embed_tokens")}
    from recsys.build.backbones import build_backbone
    from tests.backbones.cases import config_of

    torch.manual_seed(7)
    state = build_backbone(config_of("llama", intermediate_size=24), LENGTH).state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("case", ["llama", "mixtral", "qwen3", "gpt2", "bert", "t5", "xlnet", "auto", "auto_roberta"])
def test_no_table_of_words_is_kept(case: str) -> None:
    names = [name for name, _ in make(case).named_parameters()]
    words = ("embed_tokens", "word_emb", "wte", "shared", "embed_in", "pooler", "mask_emb", "seg_embed")
    assert names and not [name for name in names if any(word in name for word in words)]


@pytest.mark.parametrize("case", ["llama", "mixtral", "qwen3", "gpt2"])
def test_causal_models_get_no_mask(case: str) -> None:
    """With an explicit mask of valid events, the states of valid events are the same."""
    model = make(case)
    vectors, lengths = torch.randn(2, 8, SIZE), torch.tensor([8, 3])
    mask = torch.arange(8) < lengths[:, None]
    explicit = model.model(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(run(model, vectors, lengths)[mask], explicit[mask], rtol=1e-4, atol=1e-5)


def fresh(**values: object) -> torch.nn.Module:
    torch.manual_seed(0)
    config = {**GPT_NEOX, "vocab_size": 1, "pad_token_id": None, **values}
    return AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))


@pytest.mark.parametrize(
    ("values", "causal"),
    [({}, True), ({"model_type": "bert"}, False), ({"model_type": "roberta", "pad_token_id": 0}, False)],
)
def test_causality_is_measured(values: dict[str, object], causal: bool) -> None:
    assert probe(fresh(**values), 5) is causal


def test_measuring_moves_neither_the_generator_nor_the_mode() -> None:
    model = fresh().train()
    state = torch.get_rng_state()
    with torch.no_grad():  # as one may load a run
        probe(model, 4)
    assert torch.equal(state, torch.get_rng_state()) and model.training


def test_parameters_that_vectors_never_reach_are_frozen() -> None:
    model = fresh(model_type="bert")
    probe(model, 4)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {"embeddings.word_embeddings.weight", "pooler.dense.weight", "pooler.dense.bias"}
    kept = [name for name, weight in Transformer(model, max_length=8).named_parameters() if not weight.requires_grad]
    assert kept == []


def test_too_few_positions_are_found_out() -> None:
    with pytest.raises(
        ConfigError, match="^model.backbone: this bert cannot read 9 vectors; lower model.max_length .*$"
    ):
        probe(fresh(model_type="bert", max_position_embeddings=8), 9)


def test_a_model_that_wants_more_than_vectors_is_refused_in_a_line() -> None:
    model = fresh(model_type="bart", encoder_layers=1, decoder_layers=1, d_model=SIZE, vocab_size=5, pad_token_id=1)
    with pytest.raises(ConfigError, match=r"^model.backbone: 'bart' takes no vectors alone \(.*\); use another$"):
        probe(model, 4)

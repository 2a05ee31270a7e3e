"""The decoder read at each row's newest event gives the states that the whole model gives there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, MixtralConfig, MixtralModel, Qwen3Config, Qwen3Model

from recsys.export.decoder import NewestDecoder, newest_decoder
from recsys.inference import load
from tests.tiny_bundle import SIZES
from tests.tiny_run import make_config, make_events, make_run

HEADS = {"num_heads": 4, "intermediate_size": 16, **SIZES}
READ = ("llama", "qwen3", "mixtral")
SHAPE = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 4}
LENGTHS = torch.tensor([5, 2, 1])


@torch.no_grad()
def states_of(model: nn.Module, vectors: Tensor, lengths: Tensor) -> Tensor:
    """Of the whole model, each history alone."""
    rows = [model(inputs_embeds=v[None, :n]).last_hidden_state[0, -1] for v, n in zip(vectors, lengths, strict=True)]
    return torch.stack(rows)


@torch.no_grad()
def drawn(model: nn.Module) -> nn.Module:
    """With norms and biases that are neither 1 nor 0."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(0.0 if parameter.ndim > 1 else 1.0, 0.5)
    return model.eval()


@pytest.mark.parametrize("name", [*READ, "gpt2", "sasrec"])
@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_states_of_a_run(name: str, layers: int, tmp_path: Path) -> None:
    shared = {"num_kv_heads": 2} if name in READ else {}
    backbone: dict[str, Any] = {"name": name, **HEADS, **shared, "num_layers": layers}
    _, run = make_run(tmp_path, make_events(sessions=12), make_config(backbone=backbone))
    model = load(run, device="cpu").model
    vectors, lengths = torch.randn(4, 6, 8), torch.tensor([6, 1, 3, 5])
    decoder = newest_decoder(model)
    assert (decoder is not None) == (name in READ)
    if decoder is not None:
        whole = model.predictive(vectors, lengths)[torch.arange(4), lengths - 1]
        torch.testing.assert_close(decoder(vectors, lengths), whole)


@pytest.mark.parametrize(
    "model",
    [
        LlamaModel(LlamaConfig(**SHAPE, num_key_value_heads=2, attention_bias=True, mlp_bias=True)),
        LlamaModel(LlamaConfig(**{**SHAPE, "intermediate_size": 1024}, num_key_value_heads=1, hidden_act="gelu")),
        LlamaModel(LlamaConfig(**{**SHAPE, "intermediate_size": 1024, "head_dim": 6}, mlp_bias=True)),
        Qwen3Model(Qwen3Config(**SHAPE, num_key_value_heads=4, rms_norm_eps=0.1)),
        MixtralModel(MixtralConfig(**SHAPE, num_key_value_heads=2, num_local_experts=3, sliding_window=None)),
    ],
    ids=["biases", "crowded", "crowded with biases", "norms", "experts"],
)
@torch.no_grad()
def test_every_part_of_a_layer_counts(model: nn.Module) -> None:
    model.config.use_cache = False
    for layer in model.layers:
        layer.self_attn.scaling = 0.3
    vectors = torch.randn(3, 5, 8)
    whole = states_of(drawn(model), vectors, LENGTHS)
    torch.testing.assert_close(NewestDecoder(model, 9)(vectors, LENGTHS), whole)


@pytest.mark.parametrize(
    ("rotation", "is_read"),
    [
        ({"rope_type": "default", "rope_theta": 100.0}, True),
        ({"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}, True),
        (
            {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
            True,
        ),
        ({"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}, False),
    ],
    ids=["default", "linear", "llama3", "dynamic"],
)
@torch.no_grad()
def test_positions_of_every_kind(rotation: dict[str, Any], is_read: bool) -> None:
    config = LlamaConfig(**SHAPE, max_position_embeddings=64, rope_parameters=rotation, use_cache=False)
    model = drawn(LlamaModel(config))
    decoder = newest_decoder(recommender(model))
    assert (decoder is not None) == is_read
    if decoder is not None:
        vectors = torch.randn(3, 5, 8)
        torch.testing.assert_close(decoder(vectors, LENGTHS), states_of(model, vectors, LENGTHS))


@pytest.mark.parametrize("kinds", [("full", "sliding"), ("sliding", "full")])
def test_a_model_with_a_layer_that_does_not_see_all_events_stays(kinds: tuple[str, str]) -> None:
    windows = {"use_sliding_window": True, "sliding_window": 3, "layer_types": [f"{kind}_attention" for kind in kinds]}
    model = Qwen3Model(Qwen3Config(**SHAPE, num_key_value_heads=2, **windows))
    assert newest_decoder(recommender(model)) is None


def test_other_states_than_the_newest_are_asked_for() -> None:
    """A model that hides events sees what follows an event, too."""
    found = recommender(LlamaModel(LlamaConfig(**SHAPE)))
    assert newest_decoder(found) is not None
    found.rule.every_position = False
    assert newest_decoder(found) is None


def recommender(model: nn.Module) -> Any:
    """What `newest_decoder` reads of one."""

    class Found:
        rule = type("Rule", (), {"every_position": True})()
        backbone = type("Backbone", (), {"model": model, "max_length": 64})()

    return Found()

"""The cut last layer gives the states that the whole one gives at each row's newest event."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

from recsys.export.newest import NewestLayer, cut_last_layer, newest_states
from recsys.inference import load
from tests.tiny_bundle import SIZES
from tests.tiny_run import make_config, make_events, make_run

HEADS = {"num_heads": 4, "intermediate_size": 16, **SIZES}
CUT = ("llama", "qwen3", "mixtral")


@pytest.mark.parametrize("name", [*CUT, "gpt2", "sasrec"])
@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_newest_states(name: str, layers: int, tmp_path: Path) -> None:
    shared = {"num_kv_heads": 2} if name in CUT else {}
    backbone: dict[str, Any] = {"name": name, **HEADS, **shared, "num_layers": layers}
    _, run = make_run(tmp_path, make_events(sessions=12), make_config(backbone=backbone))
    model = load(run, device="cpu").model
    vectors, lengths = torch.randn(4, 6, 8), torch.tensor([6, 1, 3, 5])
    whole = model.predictive(vectors, lengths)[torch.arange(4), lengths - 1]
    torch.testing.assert_close(newest_states(model, vectors, lengths, None), whole)
    cut_last_layer(getattr(model.backbone, "model", model.backbone))
    cuts = [m for m in model.modules() if isinstance(m, NewestLayer)]
    assert len(cuts) == (name in CUT)
    torch.testing.assert_close(newest_states(model, vectors, lengths, None), whole)
    assert all(cut.lengths == [] for cut in cuts)


@torch.no_grad()
def test_biases_of_an_attention_count() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaModel(LlamaConfig(**sizes, num_key_value_heads=2, attention_bias=True, use_cache=False)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_()
    vectors, lengths = torch.randn(3, 5, 8), torch.tensor([5, 2, 1])
    whole = model(inputs_embeds=vectors).last_hidden_state[torch.arange(3), lengths - 1]
    cut_last_layer(model)
    assert isinstance(model.layers[-1], NewestLayer)
    model.layers[-1].lengths.append(lengths)
    torch.testing.assert_close(model(inputs_embeds=vectors).last_hidden_state.squeeze(1), whole)


def test_a_layer_that_does_not_see_all_events_stays() -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    windows = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
    model = Qwen3Model(Qwen3Config(**sizes, num_key_value_heads=2, head_dim=2, **windows))
    cut_last_layer(model)
    assert not isinstance(model.layers[-1], NewestLayer)

"""Pretrained models of a few thousand parameters, as others save them, and runs that adapt them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from recsys.config import RunConfig, parse
from recsys.etl import preprocess
from tests.tiny_run import make_commands, make_config

logging.disable_progress_bar()
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
ROTARY = {**SIZES, "num_key_value_heads": 2, "pad_token_id": 1}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": ROTARY,
    "qwen3": {**ROTARY, "head_dim": 16},
    "mixtral": {**ROTARY, "num_local_experts": 4},
    "bert": SIZES,
    "t5": {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
}
MASKING = {"bert": "mlm", "t5": "mlm"}


def save_model(kind: str, folder: Path, seed: int = 5) -> PreTrainedModel:
    """A model with eleven words in `folder`, of weights larger than fresh ones, so that each layer tells."""
    torch.manual_seed(seed)
    model = AutoModel.from_config(AutoConfig.for_model(kind, vocab_size=11, **SHAPES[kind])).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    model.save_pretrained(folder)
    return model


def save_data(folder: Path) -> Path:
    """A sequence dataset of 30 short sessions in which each command follows the one before it, so that it is learnt."""
    rows = []
    for session in range(30):
        length = 4 + session % 9
        names = [f"command {(session + step) % 14:02d}" for step in range(length)]
        times = [1_600_000_000_000_000 + session * 10**10 + step * 10**7 for step in range(length)]
        rows += [(f"s{session:02d}", f"u{session // 3}", *pair, 1) for pair in zip(names, times, strict=True)]
    columns = ["session_id", "user_id", "item_id", "timestamp", "merge_count"]
    preprocess(pl.DataFrame(rows, schema=columns, orient="row"), make_config(), folder, commands=make_commands())
    return folder


def config_of(kind: str, base: Path, peft: Mapping[str, Any], **training: Any) -> RunConfig:
    """A run on the pretrained model in `base`."""
    values = make_config(masking=MASKING.get(kind, "causal")).model_dump(mode="json")
    values["model"]["backbone"] = {"name": kind, "pretrained": str(base)}
    values["model"]["inputs"]["dropout"] = 0.1
    values["model"]["peft"] = dict(peft)
    values["training"] |= {"max_steps": 3, "batch_size": 8, "learning_rate": 1e-2, **training}
    return parse(RunConfig, values, "test")


def states(model: torch.nn.Module) -> dict[str, str]:
    """How each parameter is held: trainable, frozen or quantised."""
    found = {}
    for name, parameter in model.named_parameters():
        still = "frozen" if parameter.is_floating_point() else "quantised"
        found[name] = "trainable" if parameter.requires_grad else still
    return found

"""Small backbones of every name, for tests that hold for all of them."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from recsys.backbones.base import Backbone
from recsys.build.backbones import build_backbone
from recsys.config import BackboneConfig, parse

Model = TypeVar("Model", bound=nn.Module)
SIZE, LENGTH = 16, 12
GPT_NEOX = {
    "model_type": "gpt_neox",
    "hidden_size": SIZE,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
ROBERTA = {**GPT_NEOX, "model_type": "roberta", "layer_norm_eps": 0.1, "pad_token_id": 2}  # no defaults: kept or lost
CASES: dict[str, dict[str, object]] = {
    "llama": {"num_kv_heads": 2},
    "mixtral": {"num_experts": 4},
    "qwen3": {},
    "gpt2": {},
    "bert": {},
    "t5": {},
    "xlnet": {},
    "auto": {"architecture": GPT_NEOX},
    "auto_roberta": {"architecture": ROBERTA},
    "sasrec": {},
    "sasrec_post": {"norm": "post"},
    "sasrec_query": {"norm": "query"},
    "ligr": {},
    "hstu": {},
    "hstu_without_times": {"time_buckets": 0},
    "gru": {},
}
"""Settings of each backbone; what follows a `_` in the name is no part of the backbone's."""
BIDIRECTIONAL = ("bert", "t5", "xlnet", "auto_roberta")
"""Those that see later events too."""


def config_of(case: str, **changes: object) -> BackboneConfig:
    """Two layers of width 16."""
    values = {"name": case.split("_")[0], "hidden_size": SIZE, **CASES.get(case, {}), **changes}
    return parse(BackboneConfig, values, case)


def make(case: str, permutation: bool = False, **changes: object) -> Backbone:
    """In evaluation mode, with weights so large that every part shows."""
    torch.manual_seed(0)
    model = build_backbone(config_of(case, **changes), LENGTH, permutation).eval()
    return enlarge(model)


def enlarge(model: Model) -> Model:
    """The model with matrices of a size that attention shows in."""
    for weight in model.parameters():
        if weight.ndim >= 2:
            nn.init.normal_(weight, std=0.3)
        else:
            weight.data += torch.randn_like(weight) * 0.1
    return model


def run(model: Backbone, vectors: Tensor, lengths: Tensor | list[int], times: Tensor | None = None) -> Tensor:
    """Hidden states, with event times where the model asks for them."""
    lengths = torch.as_tensor(lengths)
    if not model.needs_times:
        return model(vectors, lengths)
    return model(vectors, lengths, times=make_times(vectors) if times is None else times)


def make_times(vectors: Tensor) -> Tensor:
    """int64 ``[B, T]``, seconds to days apart; the same for the same place."""
    generator = torch.Generator().manual_seed(1)
    gaps = (torch.rand(LENGTH + 1, generator=generator, dtype=torch.float64) * 12).exp() * 1e6
    return gaps.cumsum(0).long()[: vectors.shape[1]].expand(vectors.shape[:2])

"""Small models over the sequences of `tests.data.sequences`."""

import torch

from recsys.build import build_model
from recsys.config import ModelConfig, parse
from recsys.recommender import Recommender
from tests.data.sequences import make_items, make_schema

TINY = {
    "max_length": 16,
    "inputs": {"embedding_size": 8, "fusion_size": 16, "fusion_heads": 2, "dropout": 0.1},
    "backbone": {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "residual_dropout": 0.1,
    },
}


def make_model(seed: int = 0, **changes: object) -> Recommender:
    """A two-layer LLaMA of width 16; `changes` replace top-level keys of the model section."""
    torch.manual_seed(seed)
    return build_model(parse(ModelConfig, {**TINY, **changes}, "test"), make_schema(), make_items())

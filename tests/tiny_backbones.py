"""Settings of a tiny model of each backbone that is exported, and runs of them."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from recsys.inference import load
from tests.tiny_bundle import SIZES
from tests.tiny_run import make_config, make_events, make_run

HEADS = {"num_heads": 2, "intermediate_size": 16, **SIZES}
BACKBONES: dict[str, dict[str, Any]] = {  # the issue names these
    "llama": {"backbone": {"name": "llama", **HEADS}, "bias": True},
    "mixtral": {"backbone": {"name": "mixtral", **HEADS, "num_experts": 4}},
    "bert": {"backbone": {"name": "bert", **HEADS}, "masking": "mlm"},
    "t5": {"backbone": {"name": "t5", **HEADS}, "masking": "replaced"},
    "sasrec": {"backbone": {"name": "sasrec", **HEADS}, "tied": True},
    "ligr": {"backbone": {"name": "ligr", **HEADS}, "similarity": "cosine", "temperature": 0.05},
    "hstu": {"backbone": {"name": "hstu", "num_heads": 2, **SIZES}, "learn_temperature": True, "temperature": 0.5},
    "gru": {"backbone": {"name": "gru", "hidden_size": 8, "num_layers": 2}, "masking": "causal_last"},
    "repeats": {"backbone": {"name": "sasrec", **HEADS}, "repeat_bias": True, "temperature": 0.5, "bias": True},
}


@torch.no_grad()
def make_backbone_run(folder: Path, settings: dict[str, Any]) -> Path:
    """A run over few columns of which every weight tells: fresh biases (of time, of repeats) are near 0."""
    inputs = {"embedding_size": 4, "fusion_size": 8, "fusion": "sum"}
    _, run = make_run(folder, make_events(sessions=12), make_config(inputs=inputs, **settings))
    model, generator = load(run, device="cpu").model, torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    save_file(model.state_dict(), run / "model.safetensors")
    return run

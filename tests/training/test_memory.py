"""Memory of runs: what is planned from a configuration beside what their first step really held."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.config import RunConfig, parse
from recsys.data.batch import Batch
from recsys.errors import ConfigError
from recsys.etl import preprocess
from recsys.training import memory as memory_module
from recsys.training import train
from recsys.training.memory_plan import Planner, Sample, distinct_values, plan_step, sample_of
from tests.peft_ext.cases import SHAPES, config_of, save_data, save_model
from tests.tiny_run import make_commands, make_config, make_events

EXACT = ("weights", "gradients", "optimizer")
SIZE = {"hidden_size": 16, "num_layers": 2}
HEADS = {**SIZE, "num_heads": 2, "intermediate_size": 32}
BACKBONES: dict[str, tuple[dict[str, Any], str]] = {
    "llama": ({**HEADS, "num_kv_heads": 1, "residual_dropout": 0.1}, "causal"),
    "mixtral": ({**HEADS, "num_experts": 4}, "causal"),
    "gpt2": (HEADS, "causal"),
    "sasrec": ({**HEADS, "attention_dropout": 0.1}, "causal"),
    "hstu": ({**SIZE, "num_heads": 2}, "causal"),
    "gru": (SIZE, "causal"),
    "bert": (HEADS, "mlm"),
    "t5": (HEADS, "span"),
    "xlnet": (HEADS, "permutation"),
    "ligr": (HEADS, "causal_last"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory") / "data"
    preprocess(make_events(longest=14), make_config(), folder, commands=make_commands())
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bases")
    for kind in SHAPES:
        save_model(kind, root / kind)
    save_data(root / "data")
    return root


def config(name: str, batch_size: int = 8, **inputs: Any) -> RunConfig:
    backbone, masking = BACKBONES[name]
    values = make_config(masking=masking, max_length=12).model_dump(mode="json", exclude_unset=True)
    values["model"]["backbone"] = {"name": name, **backbone}
    values["model"]["inputs"] |= {"dropout": 0.1, **inputs}
    return parse(RunConfig, {**values, "training": {"max_steps": 1, "batch_size": batch_size}}, "test")


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "memory.json").read_text())
    return found


def test_a_run_of_two_passes_is_planned(data: Path, tmp_path: Path) -> None:
    asked = config("bert")
    asked.model.masking = "replaced"
    check(record(train(data, asked, tmp_path / "run").path))


def check(found: dict[str, Any], tolerance: float = 0.05) -> None:
    measured, planned = found["measured"], found["planned"]
    assert {part: planned[part] for part in EXACT} == {part: measured[part] for part in EXACT}
    assert planned["activations"] == pytest.approx(measured["activations"], rel=tolerance)
    assert sum(planned["weights_by_type"].values()) == planned["weights"]
    assert measured["resident_peak"] >= measured["resident_at_start"] > 0


@pytest.mark.parametrize("name", BACKBONES)
def test_a_run_holds_what_was_planned(name: str, data: Path, tmp_path: Path) -> None:
    asked = config(name)
    found = record(train(data, asked, tmp_path / "run").path)
    check(found)
    assert found["device"] == "cpu" and found["first_batch"]["sequences"] <= 8
    # The model of the plan is not the one that was trained.
    planner = Planner(data, asked)
    planned = planner.build(asked)
    assert {p.device.type for p in planned.model.parameters()} == {"meta"}
    assert found["parameters"] == sum(p.numel() for p in planned.model.parameters()) == found["trainable"]


@pytest.mark.parametrize(
    "peft",
    [
        {"method": "lora", "r": 4, "compute_dtype": "bfloat16"},
        {"method": "lora", "r": 4, "compute_dtype": "float32", "gradient_checkpointing": True},
        {"method": "dora", "r": 4, "compute_dtype": "float32"},
        {"method": "frozen"},
        {"method": "qlora", "r": 4},
        {"method": "qlora", "r": 4, "quantization": "int8", "compute_dtype": "float32"},
    ],
    ids=lambda peft: "-".join(map(str, peft.values())),
)
def test_an_adapted_run_holds_what_was_planned(peft: dict[str, Any], bases: Path, tmp_path: Path) -> None:
    asked = config_of("llama", bases / "llama", peft, max_steps=1)
    found = record(train(bases / "data", asked, tmp_path / "run").path)
    check(found)
    assert 0 < found["trainable"] < found["parameters"]
    assert found["parameters"] > 60_000  # of a quantised model, the numbers that its weights stand for
    planner = Planner(bases / "data", asked)
    again = planner.plan(asked, gpu=False)
    assert (again.all_weights, again.gradients, again.optimizer) == tuple(found["planned"][part] for part in EXACT)


@pytest.mark.parametrize(
    ("kind", "quantization"),
    [*((kind, held) for kind in ("qwen3", "mixtral", "bert", "t5") for held in ("none", "nf4")), ("gpt2", "int8")],
)
def test_other_backbones_adapted_hold_what_was_planned(
    kind: str, quantization: str, bases: Path, tmp_path: Path
) -> None:
    peft = {"method": "lora" if quantization == "none" else "qlora", "quantization": quantization, "r": 4}
    asked = config_of(kind, bases / kind, peft, max_steps=1)
    found = record(train(bases / "data", asked, tmp_path / "run").path)
    check(found)
    assert found["parameters"] == found["planned"]["parameters"]
    assert 0 < found["measured"]["adapters"] == found["measured"]["adapters_by_formula"] < found["trainable"]


@pytest.mark.slow
def test_adapters_are_counted_beside_the_formula(bases: Path, tmp_path: Path) -> None:
    """r (d + k), summed over the targets; DoRA has d more of each, an expert its own."""
    queries, gates = 2 * 4 * (64 + 64), 2 * 4 * (128 + 64)
    experts = 2 * 4 * 4 * ((64 + 2 * 128) + (64 + 128))
    cases = {
        "llama": ({"method": "lora", "target_modules": ["q_proj", "gate_proj"]}, queries + gates),
        "qwen3": ({"method": "dora", "target_modules": ["q_proj"]}, queries + 2 * 64),
        "mixtral": (
            {"method": "lora", "target_modules": ["q_proj"], "adapt_experts": True, "dropout": 0.0},
            queries + experts,
        ),
        "gpt2": ({"method": "dora", "target_modules": ["c_fc"]}, 2 * 4 * (256 + 64) + 2 * 256),
    }
    for kind, (peft, expected) in cases.items():
        asked = config_of(kind, bases / kind, {**peft, "r": 4}, max_steps=1)
        measured = record(train(bases / "data", asked, tmp_path / kind).path)["measured"]
        assert (measured["adapters"], measured["adapters_by_formula"]) == (expected, expected), kind
    frozen = train(
        bases / "data", config_of("llama", bases / "llama", {"method": "frozen"}, max_steps=1), tmp_path / "f"
    )
    assert "adapters" not in record(frozen.path)["measured"]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_run_without_a_plan_has_the_same_share(
    quantization: str, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four-bit weights are packed, two numbers in a byte."""
    asked = config_of("llama", bases / "llama", {"method": "qlora", "quantization": quantization}, max_steps=1)
    planned = record(train(bases / "data", asked, tmp_path / "planned").path)
    monkeypatch.setattr(memory_module, "plan_step", refuse)
    found = record(train(bases / "data", asked, tmp_path / "run").path)
    assert found["planned"] is None
    assert found["parameters"] == planned["planned"]["parameters"] and found["trainable"] == planned["trainable"]


def refuse(*_: object) -> None:
    raise ConfigError("memory of training: the pass cannot be planned: no")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("sequences", "events"), [(2, 5), (3, 31), (16, 12)])
def test_any_batch_is_within_a_twentieth(
    sequences: int, events: int, checkpointing: bool, data: Path, bases: Path
) -> None:
    from peft_ext.activations import count_saved
    from recsys.build import build_model

    peft = {"method": "lora", "r": 4, "compute_dtype": "float32", "gradient_checkpointing": checkpointing}
    asked = config_of("llama", bases / "llama", peft)
    asked.model.max_length = 31
    planner = Planner(data, asked)
    model = build_model(asked.model, planner.schema, planner.items).train()
    shapes = planner._sample(asked, model).resized(sequences, events)
    batch = Batch({name: torch.zeros(size, dtype=kind) for name, (size, kind) in shapes.items()})
    ids = torch.randint(3, 17, (sequences, events))
    labels = {name: torch.full_like(batch[name], 3) for name in batch if name.endswith(".targets")}
    batch = batch.with_tensors({"inputs.item_id": ids, "lengths": torch.full((sequences,), events), **labels})
    with count_saved(model) as saved:
        model(batch)
    plan = plan_step(planner.build(asked), shapes, asked, gpu=False)
    assert plan.activations == pytest.approx(saved.bytes, rel=0.05)


def test_a_full_batch_has_the_labels_of_its_events() -> None:
    shapes = {
        "inputs.item_id": ((3, 5), torch.int64),
        "inputs.user": ((3,), torch.int64),
        "attention_mask": ((3, 5, 5), torch.bool),
        "labels.item_id.positions": ((12,), torch.int64),
        "inputs.tags": ((30,), torch.int64),
        "lengths": ((3,), torch.int64),
    }
    full = Sample(shapes, 3, 5).resized(6, 10)
    sizes = {name: size for name, (size, _) in full.items()}
    assert sizes == {
        "inputs.item_id": (6, 10),
        "inputs.user": (6,),
        "attention_mask": (6, 10, 10),
        "labels.item_id.positions": (48,),
        "inputs.tags": (120,),
        "lengths": (6,),
    }
    batch = {name: torch.zeros(size, dtype=kind) for name, (size, kind) in shapes.items()}
    assert sample_of(batch, "item_id") == Sample(shapes, 3, 5)


def test_streams_have_no_more_values_than_their_tables(data: Path) -> None:
    planner = Planner(data, config("llama"))
    model = planner.build(config("llama")).model
    items, *others = distinct_values(model.inputs)
    assert items == 14 + 3
    assert others == [model.inputs.embeddings[n].num_embeddings for n in model.inputs.item_attributes]


def test_recording_changes_nothing_and_leaves_no_hook(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    plain = memory_module.MemoryRecord.write
    monkeypatch.setattr(memory_module.MemoryRecord, "write", lambda self, run: (seen.append(self), plain(self, run)))
    with_record = train(data, config("sasrec"), tmp_path / "with")
    assert seen[0].model._forward_hooks == {} and seen[0].model._forward_pre_hooks == {}
    monkeypatch.setattr(memory_module.MemoryRecord, "_enter", lambda self, *_: None)
    without = train(data, config("sasrec"), tmp_path / "without")
    assert with_record.weights.read_bytes() == without.weights.read_bytes()
    assert not (without.path / "memory.json").exists()


def test_a_pass_that_cannot_be_planned_is_trained_and_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory_module, "plan_step", refuse)
    found = record(train(data, config("gru"), tmp_path / "run").path)
    assert found["planned"] is None and "cannot be planned" in found["not_planned"]
    assert found["measured"]["activations"] > 0 and found["trainable"] == found["parameters"]
    assert "note: memory of training" in capsys.readouterr().err

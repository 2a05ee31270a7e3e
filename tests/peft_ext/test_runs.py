"""Training with adapters: what a run keeps, that it goes on exactly, what it is bound to."""

import json
import shutil
import socket
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recsys.backbones.source import fingerprint
from recsys.config import RunConfig
from recsys.errors import ConfigError, RunError
from recsys.evaluation import evaluate
from recsys.inference import load
from recsys.run_directory import RunDirectory
from recsys.training import train
from recsys.training.train import build_trainer, load_parts
from recsys.training.trainer import SequenceTrainer
from tests.peft_ext.cases import config_of, save_model, states
from tests.training.test_trainer import Halves, trained

KINDS = ("llama", "qwen3", "mixtral", "bert", "t5")
QUANTISED = {"mixtral": {"q_proj", "k_proj", "v_proj", "o_proj"}, "t5": {"q", "k", "v", "o", "wi"}}
TIMELESS = ("step", "epoch", "loss", "item_loss", "learning_rate", "grad_norm", "label_positions")


def losses(run: RunDirectory) -> list[list[Any]]:
    return [[record[key] for key in TIMELESS] for record in run.read_json(run.history_file)["train"]]


@pytest.mark.parametrize(
    ("kind", "peft"),
    [
        *((kind, {"method": "qlora"}) for kind in KINDS),
        ("llama", {"method": "lora"}),
        ("llama", {"method": "qlora", "quantization": "int8"}),
        ("llama", {"method": "dora", "quantization": "fp4"}),
        ("mixtral", {"method": "lora", "adapt_experts": True, "dropout": 0.0}),
        ("bert", {"method": "frozen"}),
    ],
)
def test_all_of_ours_is_trained_and_kept_and_nothing_of_the_base(kind: str, peft: dict, bases, data, tmp_path) -> None:
    run = train(data, config_of(kind, bases(kind), peft, max_steps=2), tmp_path / "run")
    model = load(run.path, device="cpu").model
    found = states(model)
    inner = {name for name in found if name.startswith("backbone.model.")}
    assert {name for name, state in found.items() if state == "trainable"} == {
        name for name in found if name not in inner or "lora_" in name
    }
    quantised = {name.split(".")[-3] for name, state in found.items() if state == "quantised"}
    if peft["method"] in ("lora", "frozen"):
        assert not quantised
    elif kind in QUANTISED:
        assert quantised == QUANTISED[kind]
    else:
        assert quantised and not any(
            state == "frozen" and p.ndim > 1 and "embeddings" not in name
            for (name, p), state in zip(model.named_parameters(), found.values(), strict=True)
        )
    kept = load_file(run.weights)
    buffers = {name for name, _ in model.named_buffers() if name in model.state_dict() and name not in inner}
    ours = {name for name in buffers if not name.startswith("backbone.model.")}
    assert set(kept) == {name for name, state in found.items() if state == "trainable"} | ours
    assert all(tensor.is_floating_point() for name, tensor in kept.items() if "lora_" in name)
    checkpoint = next((run.path / "checkpoints").iterdir())
    assert (checkpoint / "model.safetensors").stat().st_size == run.weights.stat().st_size


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_stays_as_it_is_bit_for_bit_and_the_loss_falls(kind: str, bases, data, tmp_path) -> None:
    parts = load_parts(data, config_of(kind, bases(kind), {"method": "qlora"}))
    trainer = build_trainer(parts, config_of(kind, bases(kind), {"method": "qlora"}), RunDirectory(tmp_path / "run"))
    model, batch = parts.model, next(iter(trainer.get_train_dataloader()))
    before = {n: t.clone() for n, t in model.backbone.state_dict().items() if n in model.backbone.external}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(16):
        loss = model.train(step < 15)(batch).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, 4):
            trainer.validator(model)  # in which bitsandbytes would repack the weights of some CPUs
    after = model.backbone.state_dict()
    assert len(before) > 10 and all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(p.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n)  # all have learnt
    assert losses[-1] < 0.8 * losses[0]


def test_a_killed_run_goes_on_exactly(bases, data, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("llama", bases("llama"), {"method": "qlora"}, max_steps=8, save_steps=3, evaluate_steps=4)
    whole = train(data, config, tmp_path / "whole")
    calls = []
    compute = SequenceTrainer.compute_loss

    def stop_at_the_sixth(self, *given, **options):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return compute(self, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SequenceTrainer, "compute_loss", stop_at_the_sixth)
        with pytest.raises(KeyboardInterrupt):
            train(data, config, tmp_path / "killed")
    resumed = train(data, config, tmp_path / "killed", resume=True)
    assert losses(resumed) == losses(whole)
    expected, found = load_file(whole.weights), load_file(resumed.weights)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_run_does_not_go_on_with_another_base(bases, data, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first checkpoint there are no weights yet that would name theirs."""
    base = shutil.copytree(bases("llama"), tmp_path / "base")
    for method in ("lora", "none"):
        config, out = config_of("llama", base, {"method": method}), tmp_path / method
        with monkeypatch.context() as patch:
            patch.setattr(SequenceTrainer, "compute_loss", interrupt)
            with pytest.raises(KeyboardInterrupt):
                train(data, config, out)
        assert not list(out.rglob("checkpoint-*"))
    save_model("llama", base, seed=6)
    for method in ("lora", "none"):
        config, out = config_of("llama", base, {"method": method}), tmp_path / method
        with pytest.raises(RunError, match=rf"{method}: cannot resume: .*base is not what it was when the run started"):
            train(data, config, out, resume=True)
    shutil.copyfile(bases("llama") / "model.safetensors", base / "model.safetensors")
    assert train(data, config, out, resume=True).weights.is_file()


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["llama", "mixtral", "bert"])
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_scores_do_not_depend_on_the_batch_and_the_padding(quantization: str, kind: str, bases, data) -> None:
    peft = {"method": "qlora", "quantization": quantization, "compute_dtype": "float32"}
    model = load_parts(data, config_of(kind, bases(kind), peft)).model.eval().backbone
    torch.manual_seed(1)
    vectors, lengths = torch.randn(3, 6, 64), torch.tensor([4, 6, 2])
    vectors[1] *= 30  # numbers far above the 6 at which bitsandbytes would single out columns
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        together = model(vectors, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = model(vectors[row : row + 1, :length], lengths[row : row + 1])[0]
            torch.testing.assert_close(together[row, :length], alone, rtol=1e-3, atol=1e-3)


def test_accumulated_batches_are_one_large_batch(bases, data, tmp_path) -> None:
    """Losses are summed and divided by the labels of the whole step, however it is cut."""
    peft = {"method": "lora", "dropout": 0.0, "compute_dtype": "float32"}
    whole, parts = (config_of("llama", bases("llama"), peft, max_steps=4, accumulation=n) for n in (1, 2))
    whole.model.inputs.dropout = parts.model.inputs.dropout = 0.0
    one, other = trained(data, whole, tmp_path / "whole"), trained(data, parts, tmp_path / "parts", Halves)
    left, right = ([r["loss"] for r in t.state.log_history if "loss" in r] for t in (one, other))
    assert left == pytest.approx(right, rel=1e-4) and len(left) == 4
    assert one.cost["label_positions"] == other.cost["label_positions"]
    for (name, ours), theirs in zip(other.model.named_parameters(), one.model.parameters(), strict=True):
        if "lora_" in name:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3, msg=name)


def test_a_run_is_bound_to_its_base_by_hash(bases, data, tmp_path) -> None:
    base = shutil.copytree(bases("llama"), tmp_path / "base")
    run = train(data, config_of("llama", base, {"method": "lora"}), tmp_path / "run")
    noted = json.loads(run.environment_file.read_text())
    assert noted["versions"]["peft"] == version("peft") and "bitsandbytes" not in noted["versions"]
    noted = noted["base"]
    assert noted == {"path": str(base), "sha256": fingerprint(str(base))}
    shutil.rmtree(base)
    with pytest.raises(RunError, match=r"base \(no such folder here"):
        load(run.path, device="cpu")
    save_model("llama", base, seed=6)  # the same architecture, other weights
    with pytest.raises(RunError, match=rf"adapts pretrained weights of SHA-256 {noted['sha256'][:12]}…, and those of"):
        load(run.path, device="cpu")
    other = config_of("llama", base, {"method": "lora"}, init_from=str(run.path))
    with pytest.raises(RunError, match="adapts pretrained weights"):
        train(data, other, tmp_path / "next")


def test_a_run_starts_from_the_adapters_of_another(bases, data, tmp_path) -> None:
    first = train(data, config_of("llama", bases("llama"), {"method": "lora"}), tmp_path / "first")
    config = config_of("llama", bases("llama"), {"method": "lora"}, init_from=str(first.path))
    kept, model = load_file(first.weights), load_parts(data, config).model
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in kept.items())
    whole = config_of("llama", bases("llama"), {"method": "none"}, init_from=str(first.path))
    with pytest.raises(RunError, match="holds adapters alone, and a whole model is asked for"):
        load_parts(data, whole)


def test_runs_load_without_the_network(bases, data, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(data, config_of("llama", bases("llama"), {"method": "qlora"}), tmp_path / "run")
    expected = evaluate(run.path, data).metrics

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    loaded = load(run.path, device="cpu")
    assert loaded.model.backbone.base == fingerprint(str(bases("llama")))
    assert evaluate(run.path, data).metrics == expected


def test_a_backbone_that_nobody_trained_is_not_frozen(data) -> None:
    config = RunConfig.model_validate({"model": {"peft": {"method": "lora"}}})
    with pytest.raises(ConfigError, match=r"lora freezes the backbone, .* name a trained one by model.backbone.pre"):
        load_parts(data, config)


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        ({"method": "lora", "target_modules": ["q_prj"]}, r"model.peft: target_modules: no layer 'q_prj' \(there are"),
        ({"method": "lora", "adapt_experts": True, "dropout": 0.0}, "model.peft: adapt_experts: this model has no"),
    ],
)
def test_what_cannot_be_adapted_is_refused_before_anything_is_written(
    peft: dict, message: str, bases, data, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        train(data, config_of("llama", bases("llama"), peft), tmp_path / "run")
    assert not (tmp_path / "run").exists() and "\n" not in str(caught.value)


def test_the_whole_model_trains_without_the_packages(bases, data, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base installation is enough where nothing is adapted."""
    for name in ("peft", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, name, None)
    run = train(data, config_of("llama", bases("llama"), {"method": "none"}), tmp_path / "run")
    assert load(run.path, device="cpu").model.backbone.base is None
    with pytest.raises(
        ConfigError, match=r"model.peft: adapters need the package peft .*; pip install 'recsys\[llm\]'"
    ):
        load_parts(data, config_of("llama", bases("llama"), {"method": "lora"}))

"""A merged run is an ordinary one with the same scores, whatever its backbone was held in."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from peft_ext.adapt import Adapters, PeftError, adapt
from peft_ext.adapters import adapter_state, merge_
from peft_ext.merge import difference, main, merge
from peft_ext.quantise import configuration, weight_of
from recsys.errors import InputError, RunError
from recsys.evaluation import evaluate
from recsys.inference import load
from recsys.training import train
from tests.peft_ext.cases import config_of

KINDS = ("llama", "qwen3", "mixtral", "bert", "t5", "gpt2")


def randomise(model: torch.nn.Module) -> None:
    torch.manual_seed(4)
    for tensor in adapter_state(model).values():
        tensor.add_(torch.randn_like(tensor) * 0.1)


def run_model(model: torch.nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    given = {"inputs_embeds": vectors, "decoder_inputs_embeds": vectors}
    if model.config.model_type != "t5":
        del given["decoder_inputs_embeds"]
    with torch.no_grad():
        return model.eval()(**given).last_hidden_state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("quantization", "use_dora"), [(None, False), ("nf4", False), ("nf4", True), ("int8", False)])
def test_a_merged_model_is_a_plain_one_that_computes_the_same(kind, quantization, use_dora, bases) -> None:
    options = {}
    if quantization is not None:
        options["quantization_config"] = configuration(quantization, True, torch.float32, torch.device("cpu"))
    model = AutoModel.from_pretrained(bases(kind), dtype=torch.float32, **options)
    adapters = Adapters(r=4, alpha=8, use_dora=use_dora, experts=kind == "mixtral" and not use_dora)
    adapt(model, adapters, dtype=torch.float32)
    vectors = torch.randn(3, 6, 64)
    untrained = run_model(model, vectors)
    randomise(model)
    expected = run_model(model, vectors)
    assert (expected - untrained).abs().mean() > 0.05  # the adapters tell
    merge_(model, adapters)
    apart = (run_model(model, vectors) - expected).abs()
    if quantization == "int8":  # rounds what its layers read, too
        assert apart.mean() < 0.25 * expected.abs().mean()
    else:
        assert apart.max() < 1e-3
    plain = AutoModel.from_pretrained(bases(kind), dtype=torch.float32)
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in plain.state_dict().items()}
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_merged_weights_are_the_formula_on_dequantised_ones(bases) -> None:
    settings = configuration("nf4", True, torch.float32, torch.device("cpu"))
    model = AutoModel.from_pretrained(bases("llama"), dtype=torch.float32, quantization_config=settings)
    base = weight_of(model.layers[0].self_attn.q_proj)
    adapters = Adapters(r=4, alpha=8)
    adapt(model, adapters, dtype=torch.float32)
    randomise(model)
    layer = model.layers[0].self_attn.q_proj
    expected = base + 2.0 * layer.lora_B["default"].weight.data @ layer.lora_A["default"].weight.data
    merge_(model, adapters)
    torch.testing.assert_close(model.layers[0].self_attn.q_proj.weight.data, expected)


def test_other_adapters_than_those_given_are_refused(bases) -> None:
    model = AutoModel.from_pretrained(bases("llama"), dtype=torch.float32)
    adapt(model, Adapters(r=4), dtype=torch.float32)
    with pytest.raises(PeftError, match="other adapters"):
        merge_(model, Adapters(r=5))


@pytest.mark.parametrize(
    ("kind", "peft"),
    [
        ("llama", {"method": "lora", "compute_dtype": "float32"}),
        ("llama", {"method": "qlora"}),
        ("mixtral", {"method": "qlora", "adapt_experts": True, "dropout": 0.0}),
        ("t5", {"method": "dora", "quantization": "fp4"}),
        ("bert", {"method": "frozen", "quantization": "int8"}),
    ],
)
def test_a_merged_run_is_an_ordinary_one_with_the_same_scores(kind, peft, bases, data, tmp_path, capsys) -> None:
    base = shutil.copytree(bases(kind), tmp_path / "base")
    run = train(data, config_of(kind, base, peft, max_steps=4), tmp_path / "run")
    assert main(["--run", str(run.path), "--out", str(tmp_path / "merged")]) == 0
    noted = json.loads((tmp_path / "merged" / "environment.json").read_text())["merged"]
    found = noted["difference"]
    # bfloat16 keeps eight bits: over two layers scores move by about a hundredth of how far they spread; where that
    # sends an event to another expert, by several
    limit = 1e-4 if peft.get("compute_dtype") == "float32" else 0.02
    assert found["mean"] < limit * found["spread"] and found["spread"] > 0.05
    assert found["largest"] < 5 * limit * found["spread"]
    assert f"largest difference {found['largest']:.2g}" in capsys.readouterr().out
    shutil.rmtree(base)
    loaded = load(tmp_path / "merged", device="cpu")
    config = loaded.config.model
    assert (config.peft.method, config.backbone.pretrained, loaded.model.backbone.base) == ("none", None, None)
    assert {type(m).__module__.split(".")[0] for m in loaded.model.modules()} <= {"torch", "transformers", "recsys"}
    assert all(p.requires_grad for n, p in loaded.model.named_parameters() if n.startswith("backbone.model."))
    ranked = evaluate(tmp_path / "merged", data).metrics["splits"]
    assert ranked and not (tmp_path / "merged" / "checkpoints").exists()
    assert load_file(loaded.directory.weights).keys() == loaded.model.state_dict().keys()
    with pytest.raises(RunError, match="merged: is merged already, so there is nothing to merge"):
        merge(tmp_path / "merged", tmp_path / "again")


def test_what_cannot_be_merged_is_refused(bases, data, tmp_path, capsys) -> None:
    plain = train(data, config_of("llama", bases("llama"), {"method": "none"}, max_steps=1), tmp_path / "plain")
    assert main(["--run", str(plain.path), "--out", str(tmp_path / "merged")]) == 2
    assert "has no adapters (model.peft.method is none)" in capsys.readouterr().err
    adapted = train(data, config_of("llama", bases("llama"), {"method": "lora"}, max_steps=1), tmp_path / "adapted")
    with pytest.raises(InputError, match=r"nowhere: no sequence dataset .* give --data DIR, or --unchecked"):
        merge(adapted.path, tmp_path / "merged", Path("nowhere"))
    with pytest.raises(InputError, match="exists already"):
        merge(adapted.path, plain.path)
    assert "difference" not in merge(adapted.path, tmp_path / "merged", compare=False)


def test_a_difference_is_measured_on_what_it_says() -> None:
    before, after = torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.tensor([[0.5, 2.0], [-2.0, -1.0]])
    assert difference(before, after) == {
        "histories": 2.0,
        "largest": 3.0,
        "mean": 3.5 / 4,
        "spread": pytest.approx(2**0.5),
        "same_first": 0.5,
    }

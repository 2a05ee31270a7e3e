"""A merged run is an ordinary one with the same scores, whatever its backbone was held in."""

import json
import re
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from peft_ext.adapt import Adapters, PeftError, adapt
from peft_ext.adapters import adapter_state, merge_
from peft_ext.merge import difference, main, merge, tolerance
from peft_ext.quantise import configuration, weight_of
from recsys.config import PeftConfig
from recsys.errors import InputError, RunError, SchemaError
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


@pytest.fixture(scope="module")
def adapted(bases, data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with adapters, in float32."""
    peft = {"method": "lora", "compute_dtype": "float32"}
    return train(data, config_of("llama", bases("llama"), peft, max_steps=1), tmp_path_factory.mktemp("run") / "r").path


def emptied(data: Path, copy: Path, *splits: str) -> Path:
    """A copy of a dataset in which those splits have files without a row, as ETL writes them."""
    shutil.copytree(data, copy, ignore=shutil.ignore_patterns(".cache"))
    for name in splits:
        for file in (copy / name).glob("*.parquet"):
            pl.read_parquet(file).clear().write_parquet(file)
    return copy


def test_histories_are_of_the_first_split_that_has_some(adapted: Path, data: Path, tmp_path: Path) -> None:
    without = emptied(data, tmp_path / "data", "test")
    sizes = {name: pl.read_parquet(without / name / "*.parquet").height for name in ("test", "val", "train")}
    assert sizes["test"] == 0 and len(set(sizes.values())) == 3
    found = merge(adapted, tmp_path / "merged", without)["difference"]
    assert found["histories"] == sizes["val"]
    shutil.rmtree(without / "val")
    shutil.rmtree(without / "test")
    assert merge(adapted, tmp_path / "again", without)["difference"]["histories"] == sizes["train"]
    nothing = emptied(data, tmp_path / "nothing", "test", "val", "train")
    with pytest.raises(InputError, match=r"nothing: no sequence to compare scores on; .* or --unchecked$"):
        merge(adapted, tmp_path / "third", nothing)
    assert not (tmp_path / "third").exists()


def test_histories_of_another_vocabulary_are_refused(adapted: Path, data: Path, tmp_path: Path) -> None:
    other = shutil.copytree(data, tmp_path / "other", ignore=shutil.ignore_patterns(".cache"))
    schema = json.loads((other / "schema.json").read_text())
    next(c for c in schema["columns"] if c["name"] == "item_id")["vocabulary_sha256"] = "0" * 64
    (other / "schema.json").write_text(json.dumps(schema))
    with pytest.raises(SchemaError, match=r"other: column 'item_id' has another vocabulary than the run"):
        merge(adapted, tmp_path / "merged", other)
    assert not (tmp_path / "merged").exists()


def test_scores_further_apart_than_tolerated_are_said(adapted: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    assert main(["--run", str(adapted), "--out", str(tmp_path / "near")]) == 0
    assert "note:" not in capsys.readouterr().err
    module = sys.modules["peft_ext.merge"]
    real = module._scores

    def moved(model: torch.nn.Module, histories: object) -> torch.Tensor:
        scores = real(model, histories)
        return scores if "lora_" in " ".join(model.state_dict()) else scores + 0.05 * scores.std()

    monkeypatch.setattr(module, "_scores", moved)
    assert main(["--run", str(adapted), "--out", str(tmp_path / "far")]) == 0  # the merged run itself is right
    said = capsys.readouterr().err
    assert re.search(r"^note: .*far: scores differ by [\d.]+ of their spread .*, more than the 0\.01 .* float32", said)
    kept = json.loads((tmp_path / "far" / "environment.json").read_text())["merged"]
    assert kept["tolerance"] == 0.01 and kept["difference"]["mean"] > 0.01 * kept["difference"]["spread"]


def test_the_tolerance_goes_by_type_and_kind() -> None:
    def limit(**peft: object) -> float:
        return tolerance(PeftConfig.model_validate({"method": "qlora", **peft}))

    assert limit(compute_dtype="float32") == limit(compute_dtype="float32", quantization="fp4") == 0.01
    assert limit(compute_dtype="bfloat16") == limit(compute_dtype="float16") == 0.05
    assert limit(compute_dtype="float32", quantization="int8") == limit(quantization="int8") == 0.1


def test_it_is_merged_on_the_cpu(adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a GPU is, a dequantised base in float32 may not fit the card that it was trained on."""
    devices = []
    inference = sys.modules["recsys.inference"]
    monkeypatch.setattr(inference, "load", lambda path, device=None: (devices.append(device), load(path, "cpu"))[1])
    merge(adapted, tmp_path / "merged")
    assert devices == ["cpu", "cpu"]


def test_a_difference_is_measured_on_what_it_says() -> None:
    before, after = torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.tensor([[0.5, 2.0], [-2.0, -1.0]])
    assert difference(before, after) == {
        "histories": 2.0,
        "largest": 3.0,
        "mean": 3.5 / 4,
        "spread": pytest.approx(2**0.5),
        "same_first": 0.5,
    }

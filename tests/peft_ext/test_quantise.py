"""Four and eight bits against the papers' definitions, and layers that stay as they are."""

import copy

import bitsandbytes
import pytest
import torch
from torch import nn
from transformers import AutoModel
from transformers.pytorch_utils import Conv1D

from peft_ext import quantise
from peft_ext.quantise import PeftError, configuration, dequantise_, quantise_, quantised, weight_of

CPU = torch.device("cpu")
# Dettmers et al. 2023, appendix E
NF4 = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]


def make_layer(inner: int = 128, outer: int = 48, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inner, outer, bias=bias)


def reference_nf4(weight: torch.Tensor) -> torch.Tensor:
    """Blocks of 64 numbers, divided by the largest, each moved to the nearest of the sixteen values."""
    blocks = weight.reshape(-1, 64)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    values = torch.tensor(NF4)
    nearest = (blocks / largest)[..., None].sub(values).abs().argmin(dim=-1)
    return (values[nearest] * largest).reshape(weight.shape)


def test_nf4_is_what_the_paper_defines() -> None:
    layer = make_layer()
    torch.testing.assert_close(
        weight_of(quantised(copy.deepcopy(layer), "nf4", False, torch.float32)), reference_nf4(layer.weight.data)
    )


def test_double_quantisation_moves_the_scales_little() -> None:
    layer = make_layer()
    single, double = (quantised(copy.deepcopy(layer), "nf4", flag, torch.float32) for flag in (False, True))
    apart = (weight_of(single) - weight_of(double)).abs().max()
    assert 0 < apart < 0.02 * layer.weight.abs().max()
    assert double.weight.quant_state.absmax.dtype == torch.uint8


def test_int8_is_a_scale_a_row() -> None:
    layer = make_layer()
    layer.weight.data = layer.weight.data.half().float()  # which it is cast to first
    scale = layer.weight.data.abs().amax(dim=1, keepdim=True) / 127
    expected = (layer.weight.data / scale).round() * scale
    found = weight_of(quantised(copy.deepcopy(layer), "int8", True, torch.float32))
    apart = (found - expected).abs()
    assert (apart > 0.01 * scale).double().mean() < 1e-3  # halves go either way
    assert (apart < 1.01 * scale).all()


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_a_layer_computes_with_its_dequantised_weight_before_and_after_an_evaluation(kind: str) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes would repack 4-bit weights in evaluation, and give no gradient then."""
    layer = quantised(make_layer(), kind, True, torch.float32)
    before, dense = layer.weight.data.clone(), weight_of(layer)
    with torch.no_grad():
        layer.eval()(torch.randn(3, 128))
    vectors = torch.randn(5, 128, requires_grad=True)
    output = layer.train()(vectors)
    torch.testing.assert_close(output, vectors @ dense.T + layer.bias, rtol=1e-3, atol=2e-3)
    output.square().sum().backward()
    expected = 2 * output.detach() @ dense
    torch.testing.assert_close(vectors.grad, expected, rtol=1e-2, atol=2e-2)
    assert torch.equal(layer.weight.data, before)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mixtral", "bert", "t5", "gpt2"])
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_a_model_is_quantised_in_place_as_it_is_while_it_is_read(kind: str, architecture: str, bases) -> None:
    """GPT-2's layers hold their weight the other way round; T5's `wo` stays as it is."""
    settings = configuration(kind, True, torch.bfloat16, CPU)
    read = AutoModel.from_pretrained(bases(architecture), quantization_config=settings, dtype=torch.bfloat16)
    model = AutoModel.from_pretrained(bases(architecture), dtype=torch.bfloat16)
    quantise_(model, settings)
    expected, found = read.state_dict(), model.state_dict()
    assert {n for n in found if "weight_format" not in n} == {n for n in expected if "weight_format" not in n}
    assert any(tensor.dtype in (torch.uint8, torch.int8) for tensor in found.values())
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]) and tensor.dtype == expected[name].dtype, name
    assert described(model) == described(read)
    dequantise_(model)
    plain = AutoModel.from_pretrained(bases(architecture), dtype=torch.float32)
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in plain.state_dict().items()}


def described(model: nn.Module) -> dict[str, tuple[object, ...]]:
    """What its quantised layers are made of."""
    return {
        name: (type(layer), layer.in_features, layer.out_features, layer.source_cls, threshold(layer))
        for name, layer in model.named_modules()
        if hasattr(layer, "source_cls")
    }


def threshold(layer: nn.Module) -> float | None:
    state = getattr(layer, "state", None)
    return None if state is None else state.threshold


def test_a_model_in_which_nothing_can_be_quantised_is_refused() -> None:
    with pytest.raises(PeftError, match="^quantization: this model has no linear layer .*; set quantization to none$"):
        quantise_(nn.Sequential(nn.LayerNorm(4), nn.Conv1d(4, 4, 1)), configuration("nf4", True, torch.float32, CPU))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("read", [True, False], ids=["read", "in_place"])
def test_what_a_row_gives_does_not_depend_on_those_beside_it(kind: str, read: bool, bases) -> None:
    """bitsandbytes would take int8 columns with a number above 6 anywhere in the batch out of the product."""
    settings, options = configuration(kind, True, torch.float32, CPU), {}
    if read:
        options["quantization_config"] = settings
    model = AutoModel.from_pretrained(bases("llama"), dtype=torch.float32, **options)
    if not read:
        quantise_(model, settings)
    quantise.keep_packing_(model)
    layer = model.layers[0].mlp.up_proj
    torch.manual_seed(3)
    row, loud = torch.randn(1, 64), torch.randn(1, 64) * 20
    with torch.no_grad():
        torch.testing.assert_close(layer(torch.cat([row, loud]))[:1], layer(row), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_dequantised_model_computes_the_same(kind: str, bases) -> None:
    settings = configuration("nf4", True, torch.float32, CPU)
    model = AutoModel.from_pretrained(bases(kind), quantization_config=settings, dtype=torch.float32)
    quantise.keep_packing_(model)
    vectors = torch.randn(2, 5, 64)
    with torch.no_grad():
        expected = model.eval()(inputs_embeds=vectors).last_hidden_state
        dequantise_(model)
        found = model(inputs_embeds=vectors).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    plain = AutoModel.from_pretrained(bases(kind), dtype=torch.float32)
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in plain.state_dict().items()}
    assert any(isinstance(m, Conv1D) for m in model.modules()) == (kind == "gpt2")


def test_a_kind_that_cannot_be_run_is_refused_with_those_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise NotImplementedError("no kernel\nfor this device")

    monkeypatch.setattr(bitsandbytes.nn.Linear8bitLt, "forward", broken)
    expected = r"cannot run int8 on cpu \(NotImplementedError: no kernel for this device\); .* nf4 or fp4 can$"
    with pytest.raises(PeftError, match=expected):
        configuration("int8", True, torch.float32, CPU)
    monkeypatch.setattr(bitsandbytes.nn.Linear4bit, "forward", broken)
    with pytest.raises(PeftError, match="none of its kinds can; set quantization to none"):
        configuration("nf4", True, torch.float32, CPU)


def test_trying_a_kind_needs_no_gradients_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    with torch.no_grad():
        assert [quantise.why_not(kind, CPU) for kind in quantise.KINDS] == [None] * 3
    assert torch.equal(torch.get_rng_state(), state)


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(PeftError, match=r"needs the package bitsandbytes .*; pip install 'recsys\[llm\]'"):
        configuration("nf4", True, torch.float32, CPU)

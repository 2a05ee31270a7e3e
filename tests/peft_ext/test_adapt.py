"""What is frozen, what is trained, and that adapters compute what their papers write."""

import pytest
import torch
from transformers import AutoModel

from peft_ext.adapt import Adapters, PeftError, adapt, expert_weights, matches
from peft_ext.adapters import adapter_state, count, target_shapes
from tests.peft_ext.cases import states

LLAMA = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def read(bases, kind: str, dtype: torch.dtype = torch.float32):
    return AutoModel.from_pretrained(bases(kind), dtype=dtype)


def randomise(model) -> None:
    """Adapters that do something: B starts at zero."""
    torch.manual_seed(2)
    for tensor in adapter_state(model).values():
        tensor.copy_(torch.randn_like(tensor) * 0.2 + (tensor if tensor.ndim == 1 else 0))


def output(model, vectors: torch.Tensor) -> torch.Tensor:
    given = {"inputs_embeds": vectors}
    if model.config.model_type == "t5":
        given["decoder_inputs_embeds"] = vectors
    return model(**given).last_hidden_state


@pytest.mark.parametrize(
    ("kind", "targets", "expected"),
    [
        ("llama", "all-linear", LLAMA),
        ("llama", "attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("llama", ["q_proj", "mlp.up_proj"], {"q_proj", "up_proj"}),
        ("qwen3", "all-linear", LLAMA),
        ("mixtral", "all-linear", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("bert", "attention", {"query", "key", "value", "dense"}),
        ("bert", ["attention.output.dense"], {"dense"}),
        ("t5", "attention", {"q", "k", "v", "o"}),
        ("t5", "all-linear", {"q", "k", "v", "o", "wi", "wo"}),
        ("gpt2", "attention", {"c_attn", "c_proj"}),
    ],
)
def test_targets_are_the_layers_that_they_name(kind: str, targets, expected: set[str], bases) -> None:
    found = matches(read(bases, kind), targets)
    assert {name.rpartition(".")[2] for name in found} == expected
    if kind == "bert":
        assert ("encoder.layer.0.attention.output.dense" in found) and "encoder.layer.0.output.dense" not in found
    if kind == "t5" and targets == "attention":
        assert len(found) == (2 + 2 * 2) * 4  # two encoder layers, two decoder layers with two attentions each


def test_a_target_that_matches_nothing_lists_those_there_are(bases) -> None:
    with pytest.raises(PeftError, match=r"no layer 'q_prj' \(there are down_proj, gate_proj, k_proj, o_proj, q_proj"):
        matches(read(bases, "llama"), ["v_proj", "q_prj"])
    with pytest.raises(PeftError, match="this model has no experts"):
        adapt(read(bases, "llama"), Adapters(experts=True), dtype=torch.float32)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mixtral", "bert", "t5", "gpt2"])
@pytest.mark.parametrize("use_dora", [False, True])
def test_adapters_hold_as_many_numbers_as_the_formula_says(kind: str, use_dora: bool, bases) -> None:
    model = read(bases, kind)
    by_hand = 0
    for layer in map(model.get_submodule, matches(model, "all-linear")):
        wide, high = layer.weight.shape
        by_hand += 3 * (wide + high) + (layer.nf if kind == "gpt2" else layer.out_features) * use_dora
    adapt(model, Adapters(r=3, use_dora=use_dora), dtype=torch.float32)
    assert count(target_shapes(model), 3, use_dora) == by_hand
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == by_hand


def test_the_documents_layer_has_131_thousand() -> None:
    """specs/1 section 9.2: 16 (4096 + 4096) = 131 K, 0.78 % of the matrix."""
    assert count({"q_proj": (4096, 4096)}, 16) == 131_072
    assert round(100 * 131_072 / 4096**2, 2) == 0.78


def test_experts_get_adapters_when_they_are_asked_for(bases) -> None:
    model = read(bases, "mixtral")
    named = expert_weights(model)
    assert len(named) == 4  # two layers, two weights each
    expected = sum(4 * 2 * (64 + 128 * (2 if "gate_up" in name else 1)) for name in named)
    attention = 2 * 2 * (2 * (64 + 64) + 2 * (32 + 64))
    adapt(model, Adapters(r=2, experts=True), dtype=torch.float32)
    assert count(target_shapes(model), 2) == expected + attention
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected + attention
    vectors = torch.randn(2, 5, 64)
    output(model, vectors).square().sum().backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None for g in trained.values())
    assert any("experts" in n and "lora_B" in n and bool(g.any()) for n, g in trained.items())


@pytest.mark.parametrize("kind", ["llama", "bert", "t5", "gpt2", "mixtral"])
@pytest.mark.parametrize("use_dora", [False, True])
def test_an_adapted_model_starts_as_the_one_it_adapts(kind: str, use_dora: bool, bases) -> None:
    vectors = torch.randn(2, 5, 64)
    model = read(bases, kind).eval()
    expected = output(model, vectors)
    frozen = adapt(model, Adapters(use_dora=use_dora, dropout=0.3), dtype=torch.float32)
    torch.testing.assert_close(output(model.eval(), vectors), expected, rtol=1e-4, atol=1e-5)
    assert all(state == "trainable" for name, state in states(model).items() if "lora_" in name)
    assert {n for n, state in states(model).items() if state == "frozen"} == frozen & states(model).keys()


@pytest.mark.parametrize("use_dora", [False, True])
def test_an_adapted_layer_computes_the_papers_formula(use_dora: bool, bases) -> None:
    model = read(bases, "llama")
    weight = model.layers[1].mlp.up_proj.weight.data.clone()
    adapt(model, Adapters(r=4, alpha=12, targets=["up_proj"], use_dora=use_dora), dtype=torch.float32)
    randomise(model)
    layer = model.layers[1].mlp.up_proj.eval()
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (a.shape, b.shape) == ((4, 64), (128, 4))
    summed = weight + 12 / 4 * b @ a
    if use_dora:
        length = layer.lora_magnitude_vector["default"].weight
        summed = length[:, None] * summed / summed.norm(dim=1, keepdim=True)
    vectors = torch.randn(7, 64)
    torch.testing.assert_close(layer(vectors), vectors @ summed.T, rtol=1e-4, atol=1e-4)


def test_a_is_drawn_from_a_normal_distribution_and_b_is_zero(bases) -> None:
    model = read(bases, "llama")
    torch.manual_seed(0)
    adapt(model, Adapters(r=16), dtype=torch.float32)
    drawn = torch.cat([t.flatten() for n, t in adapter_state(model).items() if "lora_A" in n])
    assert all(not t.any() for n, t in adapter_state(model).items() if "lora_B" in n)
    inside = (drawn.abs() < drawn.std()).double().mean()
    assert 0.66 < inside < 0.705  # 0.683 of a normal distribution, 0.577 of an even one


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_computes_in_its_dtype_and_answers_in_that_of_its_vectors(dtype: torch.dtype, bases) -> None:
    model = read(bases, "llama", dtype)
    adapt(model, Adapters(r=4), dtype=dtype)
    seen = []
    model.layers[0].register_forward_hook(lambda _module, given, _output: seen.append(given[0].dtype))
    assert output(model, torch.randn(2, 5, 64)).dtype == torch.float32
    assert seen == [dtype]
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {dtype}


def test_checkpointed_layers_give_the_same_gradients(bases) -> None:
    found = []
    for checkpointing in (False, True):
        model = read(bases, "llama")
        adapt(model, Adapters(r=4), dtype=torch.float32, gradient_checkpointing=checkpointing)
        randomise(model)
        passes = []
        model.layers[0].mlp.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        torch.manual_seed(1)
        output(model.train(), torch.randn(2, 5, 64, requires_grad=True)).square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
        assert len(passes) == 1 + checkpointing
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_nothing_is_added_where_the_model_only_stays_as_it_is(bases) -> None:
    model = read(bases, "llama")
    before = set(model.state_dict())
    assert adapt(model, None, dtype=torch.float32) == before == set(model.state_dict())
    assert set(states(model).values()) == {"frozen"}


def test_a_missing_package_is_named_with_what_installs_it(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(PeftError, match=r"need the package peft .*; pip install 'recsys\[llm\]'"):
        adapt(read(bases, "llama"), Adapters(), dtype=torch.float32)

"""Bytes saved for the backward pass: on fake tensors as on real ones, and as the formula on paper says."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from peft_ext.activations import count_saved, on_meta, trace
from peft_ext.adapt import Adapters, adapt

VECTORS = torch.float32


def llama(hidden: int = 32, kv_heads: int = 2, intermediate: int = 88, layers: int = 2) -> LlamaModel:
    """A small LLaMA that reads vectors."""
    model = LlamaModel(
        LlamaConfig(
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            intermediate_size=intermediate,
            vocab_size=1,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )
    model.set_input_embeddings(nn.Identity())
    return model.train()


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(inputs_embeds=batch["x"].requires_grad_()).last_hidden_state.float().sum()


def measured(model: nn.Module, shape: tuple[int, ...], precision: str = "float32") -> int:
    with count_saved(model) as saved, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        loss(model, {"x": torch.randn(shape)})
    return saved.bytes


def traced(model: nn.Module, shape: tuple[int, ...], **options: object) -> int:
    return trace(model, loss, {"x": (shape, VECTORS)}, **options).saved


def in_full(tokens: int, h: int, k: int, f: int, heads: int) -> int:
    """The formula for a layer of LLaMA that is trained in float32, written out in bytes."""
    norms, attention, block = 2 * (3 * h + 1), 2 * h + 2 * k + heads, 4 * f
    return 4 * tokens * (norms + attention + block)


def adapted(tokens: int, h: int, k: int, f: int, heads: int, rank: int, mask: int) -> int:
    """The same for frozen bfloat16 weights with adapters in all seven projections."""
    norms, attention, block = 2 * (4 * h + 4), 2 * (2 * h + 2 * k) + 4 * heads, 3 * 2 * f
    adapters = (2 + mask) * (6 * h + f) + 2 * 7 * rank
    numbers = rank * (2 * (h + h) + 2 * (h + k) + 3 * (h + f))  # of the adapters, copied in 16 bits
    return tokens * (norms + attention + block + adapters) + 2 * numbers


def once(length: int, head: int, size: int) -> int:
    """What all layers share: cosines and sines of the positions."""
    return 2 * length * head * size


@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(batch=st.integers(1, 4), length=st.integers(2, 20), kv_heads=st.sampled_from([1, 2, 4]), wide=st.integers(5, 90))
def test_a_layer_in_full_is_as_the_formula_says(batch: int, length: int, kv_heads: int, wide: int) -> None:
    model = llama(kv_heads=kv_heads, intermediate=wide)
    found = traced(model, (batch, length, 32))
    tokens, last = batch * length, 4 * (2 * 32 + 1)
    assert found == 2 * in_full(tokens, 32, 8 * kv_heads, wide, 4) + last * tokens + once(length, 8, 4)
    assert found == measured(model, (batch, length, 32))


@pytest.mark.parametrize(("gpu", "mask"), [(False, 4), (True, 1)])
def test_a_layer_with_adapters_is_as_the_formula_says(gpu: bool, mask: int) -> None:
    model, tokens = llama(64, 2, 176).to(torch.bfloat16), 2 * 10
    adapt(model, Adapters(r=4, dropout=0.1), dtype=torch.bfloat16)
    found = traced(model, (2, 10, 64), precision="bfloat16", gpu=gpu)
    last = 4 * 64 + 4
    assert found == 2 * adapted(tokens, 64, 32, 176, 4, 4, mask) + last * tokens + once(10, 16, 2)
    if not gpu:
        assert found == measured(model, (2, 10, 64), "bfloat16")


def test_checkpointing_keeps_the_layers_inputs_and_computes_one_layer_again() -> None:
    plain, again = llama(layers=6), llama(layers=6)
    again.gradient_checkpointing_enable({"use_reentrant": False})
    shape = (3, 40, 32)
    batch = {"x": (shape, VECTORS)}
    all_kept, few_kept = trace(plain, loss, batch), trace(again, loss, batch)
    assert few_kept.saved == measured(again, shape)
    one = in_full(120, 32, 16, 88, 4)
    inputs = 6 * 4 * 120 * 32  # of every layer
    assert few_kept.saved == inputs + 4 * 120 * (2 * 32 + 1)  # and the last norm's
    assert few_kept.saved + 0.9 * one < few_kept.peak < 0.5 * all_kept.peak


def test_the_peak_is_what_is_held_at_one_moment() -> None:
    model = nn.Linear(8, 8, bias=False)  # weight 256 bytes, and its gradient

    def step(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        torch.zeros(1000)  # let go of at once
        return module(batch["x"]).sum()

    found = trace(model, step, {"x": ((4, 8), VECTORS)})
    assert found.saved == 4 * 4 * 8
    assert found.peak == 4000
    bare = trace(model, lambda m, b: m(b["x"]).sum(), {"x": ((4, 8), VECTORS)})
    assert bare.peak < 1000


def test_values_that_decide_are_answered() -> None:
    def step(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        values, index = torch.unique(batch["ids"], return_inverse=True)
        assert index.tolist() == [3] * 6 and bool((batch["ids"] >= 0).all())
        return module(values).sum()

    model, ids = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4)), {"ids": ((6,), torch.int64)}
    few, many = (trace(model, step, ids, distinct=bound).saved for bound in ([2], []))
    assert many - few == 4 * (8 + 4 * 4)  # four values less, an id and a row each


def test_a_mask_is_taken_for_all_of_its_places() -> None:
    def step(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            chosen = batch["x"][batch["mask"]]
        assert chosen.shape == (6, 4)
        return module(chosen).sum()

    batch = {"x": ((2, 3, 4), VECTORS), "mask": ((2, 3), torch.bool)}
    assert trace(nn.Linear(4, 4), step, batch).saved == 6 * 4 * 4


def test_the_module_stays_as_it_was() -> None:
    model = llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.calls = []
    model.register_forward_hook(lambda module, given, output: module.calls.append(1))
    traced(model, (1, 3, 32))
    assert model.calls == [] and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    copy = on_meta(model)
    assert {p.device.type for p in copy.parameters()} == {"meta"} and next(model.parameters()).device.type == "cpu"


def test_mistakes_are_one_line() -> None:
    model = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="^precision 'half' is none of float32, bfloat16, float16$"):
        traced(model, (2, 4), precision="half")
    with pytest.raises(ValueError, match="^the pass cannot be planned: RuntimeError"):
        trace(model, lambda m, b: m(b["x"]).sum(), {"x": ((2, 5), VECTORS)})

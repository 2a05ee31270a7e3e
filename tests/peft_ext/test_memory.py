"""Bytes of weights, gradients and optimizer by shape, beside those of real tensors and hand-made sums."""

import pytest
import torch
from torch import nn

from peft_ext.memory import (
    Memory,
    Quantised,
    measured_gradients,
    measured_optimizer,
    measured_weights,
    plan_memory,
    quantised_bytes,
    static_memory,
    storage_bytes,
)
from peft_ext.quantise import quantised

SHAPES = [(64, 64), (88, 32), (33, 65), (1, 64), (256, 300), (4096, 8)]


def make_model() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 4, bias=False).bfloat16())
    model[1].register_buffer("steps", torch.zeros(5, dtype=torch.int64))
    model[2].requires_grad_(False)
    return model


def test_static_parts_are_as_counted_by_hand() -> None:
    trained = 16 * 32 + 32 + 2 * 32
    found = static_memory(make_model())
    assert (found.parameters, found.trainable) == (trained + 128, trained)
    assert found.weights == {"float32": 4 * trained, "bfloat16": 2 * 128, "int64": 40}
    assert found.gradients == 4 * trained
    assert found.optimizer == 2 * 4 * trained + 4 * 4  # four tensors, each with its count of steps
    assert static_memory(make_model().to("meta")) == found


def test_static_parts_are_those_of_a_step() -> None:
    model = make_model()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    model[1](model[0](torch.randn(3, 16))).sum().backward()
    optimizer.step()
    found = static_memory(model)
    assert found.all_weights == measured_weights(model)
    assert found.gradients == measured_gradients(model)
    assert found.optimizer == measured_optimizer(optimizer)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "double"), [("nf4", True), ("nf4", False), ("fp4", True), ("int8", False)])
def test_a_quantised_weight_is_what_bitsandbytes_keeps(kind: str, double: bool, shape: tuple[int, int]) -> None:
    rows, columns = shape
    layer = quantised(nn.Linear(columns, rows, bias=False), kind, double, torch.float32)
    assert quantised_bytes(rows * columns, rows, kind, double) == measured_weights(layer)  # type: ignore[arg-type]


def test_a_projection_of_llama_7b_takes_about_4_1_bits() -> None:
    numbers = 4096 * 4096
    blocks = numbers // 64
    by_hand = numbers // 2 + blocks + 4 * blocks // 256 + 4 + 1024 + 64
    assert quantised_bytes(numbers, 4096, "nf4", True) == by_hand
    assert 8 * by_hand / numbers == pytest.approx(4.127, abs=0.001)  # the paper's 4 + 0.127
    assert 8 * quantised_bytes(numbers, 4096, "nf4", False) / numbers == pytest.approx(4.5, abs=0.001)


def test_quantised_weights_are_counted_as_such() -> None:
    model = make_model()
    found = static_memory(model, Quantised("nf4", True, frozenset({"2.weight"})))
    assert found.weights["nf4"] == quantised_bytes(128, 4, "nf4", True) and "bfloat16" not in found.weights
    assert found.parameters == static_memory(model).parameters


def test_optimizers_of_8_bits() -> None:
    model = nn.ParameterList([torch.zeros(64, 64), torch.zeros(64, 63), torch.zeros(100, 100)])
    sizes = {name: static_memory(model, optimizer=name).optimizer for name in ("adamw", "adamw_8bit", "paged_adamw")}
    numbers = 4096 + 4032 + 10_000
    assert sizes["adamw"] == 8 * numbers + 12
    assert sizes["paged_adamw"] == 8 * numbers
    assert sizes["adamw_8bit"] == 2 * (4096 + 4 * 16) + 8 * 4032 + 2 * (10_000 + 4 * 40)
    assert static_memory(model, optimizer="paged_adamw_8bit").optimizer == sizes["adamw_8bit"]
    with pytest.raises(ValueError, match="^optimizer 'sgd' is none of adamw, adamw_8bit"):
        static_memory(model, optimizer="sgd")


def test_a_plan_adds_a_pass_and_the_largest_weight_in_full() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 16, bias=False)).requires_grad_(False)
    model.insert(0, nn.Linear(4, 8, bias=False))
    batch = {"x": ((5, 4), torch.float32)}

    def loss(module: nn.Module, given: dict[str, torch.Tensor]) -> torch.Tensor:
        return module(given["x"]).sum()

    plain = plan_memory(model, loss, batch)
    assert plain.activations == 4 * 5 * 4  # what the trained layer reads
    names = frozenset({"1.weight", "2.weight"})
    four_bits = plan_memory(model, loss, batch, quantised=Quantised("nf4", True, names))
    assert four_bits.working == plain.working + 2 * 8 * 16
    parts = four_bits.all_weights + four_bits.gradients + four_bits.optimizer + four_bits.activations
    assert four_bits.total == parts + four_bits.working
    assert Memory(1, 1).total == 0


def test_a_shared_storage_counts_once() -> None:
    whole = torch.zeros(100)
    assert storage_bytes([whole, whole[:10], torch.zeros(3)]) == 412

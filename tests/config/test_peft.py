"""Section model.peft: what is implied, what is refused."""

from typing import Any

import pytest

from recsys.config import ModelConfig, PeftConfig, parse
from recsys.errors import ConfigError


def peft(**values: Any) -> PeftConfig:
    return parse(ModelConfig, {"peft": values}, "test").peft


def test_qlora_is_four_bits_unless_told_otherwise() -> None:
    assert peft(method="qlora").quantization == "nf4"
    assert peft(method="qlora", quantization="fp4").quantization == "fp4"
    assert (peft(method="lora").quantization, peft().quantization) == ("none", "none")


def test_the_defaults_are_the_documents() -> None:
    """ERRATA A, row QLoRA."""
    found = peft(method="qlora")
    assert (found.r, found.alpha, found.dropout, found.target_modules) == (16, 64.0, 0.05, "all-linear")
    assert (found.double_quantization, found.compute_dtype) == (True, "bfloat16")


def test_what_is_saved_is_read_again() -> None:
    for values in ({}, {"method": "qlora"}, {"method": "lora", "r": 4, "target_modules": ["q_proj"]}):
        found = peft(**values)
        assert peft(**found.model_dump(mode="json")) == found


def test_which_methods_freeze_and_which_adapt() -> None:
    found = {m: (peft(method=m).freezes, peft(method=m).adapts) for m in ("none", "frozen", "lora", "dora", "qlora")}
    assert found == {
        "none": (False, False),
        "frozen": (True, False),
        "lora": (True, True),
        "dora": (True, True),
        "qlora": (True, True),
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "lora", "r": 0}, r"peft.r: 0: .* greater than or equal to 1"),
        ({"method": "qlora", "quantization": "none"}, "qlora is lora on quantised weights; set quantization to nf4"),
        ({"r": 4}, "r is nothing that method none has"),
        ({"quantization": "nf4"}, "quantization is nothing that method none has"),
        ({"method": "frozen", "alpha": 3}, "alpha is nothing that method frozen has"),
        ({"method": "lora", "target_modules": []}, "target_modules is empty"),
        ({"method": "lora", "adapt_experts": True}, "adapt_experts wants dropout 0"),
        ({"method": "dora", "adapt_experts": True, "dropout": 0}, "goes with lora and qlora"),
        ({"method": "dora", "quantization": "int8"}, "dora goes with quantization nf4, fp4 or none"),
        ({"method": "lora", "alpha": 0}, "alpha: 0: .* greater than 0"),
        ({"method": "lora", "rank": 3}, "unknown key 'peft.rank'"),
        ({"method": "lroa"}, "peft.method: 'lroa'"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        peft(**values)

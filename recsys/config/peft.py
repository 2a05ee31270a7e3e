"""Section `model.peft`."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from recsys.config.base import Count, Probability, StrictModel

PeftMethod = Literal["none", "frozen", "lora", "dora", "qlora"]
Quantization = Literal["none", "nf4", "fp4", "int8"]
ADAPTERS = ("lora", "dora", "qlora")
"""Methods that add adapters; `frozen` trains what is ours alone, `none` everything."""
_OF_ADAPTERS = ("r", "alpha", "dropout", "target_modules", "adapt_experts")


class PeftConfig(StrictModel):
    """How a pretrained backbone is trained without its own weights changing (docs/peft.md).

    Whatever is ours and not in the pretrained model (inputs, fusion, masking vector, heads) is always trained in full.
    """

    method: PeftMethod = "none"
    r: Count = 16  # rank of the adapters
    alpha: float = Field(default=64.0, gt=0, allow_inf_nan=False)  # adapters are scaled by alpha / r
    dropout: Probability = 0.05  # on what the adapters read
    target_modules: Literal["all-linear", "attention"] | list[str] = "all-linear"  # or names, as q_proj
    quantization: Quantization = "none"  # of the frozen weights; qlora: nf4 unless another is named
    double_quantization: bool = True  # nf4 and fp4: the scales are quantised too, 0.4 bits a weight less
    compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"  # in which the frozen backbone computes
    gradient_checkpointing: bool = False  # a layer's activations are computed again in the backward pass
    adapt_experts: bool = False  # mixtral: whether the experts get adapters too; wants dropout 0

    @model_validator(mode="before")
    @classmethod
    def _qlora_is_quantised(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("method") == "qlora" and "quantization" not in values:
            return {**values, "quantization": "nf4"}
        return values

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.method == "qlora" and self.quantization == "none":
            raise ValueError("qlora is lora on quantised weights; set quantization to nf4, or method to lora")
        unused = {"none": (*_OF_ADAPTERS, "quantization", "gradient_checkpointing"), "frozen": _OF_ADAPTERS}
        fields = type(self).model_fields
        for field in unused.get(self.method, ()):
            if getattr(self, field) != fields[field].default:
                raise ValueError(f"{field} is nothing that method {self.method} has; set a method, or leave it out")
        if self.target_modules == []:
            raise ValueError("target_modules is empty; name modules, or set all-linear, attention, or method frozen")
        if self.method == "dora" and self.quantization == "int8":  # on a CPU peft 0.21 loses the scales of int8 weights
            raise ValueError("dora goes with quantization nf4, fp4 or none, not with int8")
        if self.adapt_experts and self.dropout:
            raise ValueError("adapt_experts wants dropout 0, since adapters of experts have none")
        if self.adapt_experts and self.method == "dora":
            raise ValueError("adapt_experts goes with lora and qlora, not with dora")
        return self

    @property
    def adapts(self) -> bool:
        """Whether adapters are added."""
        return self.method in ADAPTERS

    @property
    def freezes(self) -> bool:
        """Whether the backbone's own weights stay as they are; a run then keeps only what is trained."""
        return self.method != "none"

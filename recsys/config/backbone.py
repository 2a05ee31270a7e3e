"""Section `model.backbone`."""

from typing import Literal, Self

from pydantic import model_validator

from recsys.config.base import Count, Probability, StrictModel, require_divisor


class BackboneConfig(StrictModel):
    """The sequence model between fused inputs and heads."""

    name: Literal["llama"] = "llama"
    hidden_size: Count = 128
    num_layers: Count = 2
    num_heads: Count = 4
    num_kv_heads: Count | None = None  # None: as num_heads
    intermediate_size: Count | None = None  # None: 4 * hidden_size
    rope_theta: float = 10_000.0
    attention_dropout: Probability = 0.0
    residual_dropout: Probability = 0.0  # on the output of each attention and feed-forward block

    @model_validator(mode="after")
    def _divides(self) -> Self:
        require_divisor("num_heads", self.num_heads, "hidden_size", self.hidden_size)
        require_divisor("num_kv_heads", self.num_kv_heads or self.num_heads, "num_heads", self.num_heads)
        if self.hidden_size // self.num_heads % 2:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) / num_heads ({self.num_heads}) must be even for rotary positions"
            )
        return self

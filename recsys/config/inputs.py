"""Section `model.inputs`."""

from typing import Literal, Self

from pydantic import model_validator

from recsys.config.base import Count, Probability, StrictModel, require_divisor


class InputsConfig(StrictModel):
    """Which columns are read, and how a timestep's streams become one vector."""

    streams: list[str] | None = None  # None: every column that the schema offers
    text_table: str | None = None  # folder of model.pretrained_text_embedding, or a .npy [items, width]: stream `text`
    embedding_size: Count = 64
    fusion: Literal["self_attention", "sum"] = "self_attention"
    fusion_size: Count = 128  # width D of the streams in the fusion
    fusion_heads: Count = 4
    continuous: Literal["mlp", "soft_one_hot"] = "mlp"
    dropout: Probability = 0.1

    @model_validator(mode="after")
    def _divides(self) -> Self:
        require_divisor("fusion_heads", self.fusion_heads, "fusion_size", self.fusion_size)
        return self

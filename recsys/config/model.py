"""Section `model`: everything that determines the parameters and the forward pass."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recsys.config.base import Count, Probability, Share, StrictModel, require_divisor


class LossConfig(StrictModel):
    """The loss of one head."""

    name: Literal["cross_entropy", "focal"] = "focal"
    gamma: Annotated[float, Field(ge=0.0)] = 2.0  # focal only
    label_smoothing: Share = 0.0  # cross entropy only
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the product with the item table


class AuxiliaryConfig(StrictModel):
    """A further head that predicts another column of the next event."""

    column: str
    weight: Annotated[float, Field(ge=0.0)] = 0.5
    loss: LossConfig = Field(default_factory=LossConfig)


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


class ModelConfig(StrictModel):
    """Everything that determines the parameters and the forward pass."""

    max_length: Count = 110  # events; the newest are kept
    inputs: InputsConfig = Field(default_factory=InputsConfig)
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    masking: Literal["causal", "causal_last"] = "causal"  # train on every position or the last only
    loss: LossConfig = Field(default_factory=LossConfig)
    tied: bool = False  # the output table is the item embedding, projected
    bias: bool = False  # of the item head
    output_dropout: Probability = 0.0
    auxiliary: list[AuxiliaryConfig] | None = None  # None: classification and target where the schema has them

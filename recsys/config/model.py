"""Section `model`: everything that determines the parameters and the forward pass."""

from typing import Literal

from pydantic import Field

from recsys.config.backbone import BackboneConfig
from recsys.config.base import Count, Probability, StrictModel
from recsys.config.inputs import InputsConfig
from recsys.config.losses import AuxiliaryConfig, LossConfig


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

"""Section `model`: everything that determines the parameters and the forward pass."""

from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.config.backbone import BackboneConfig
from recsys.config.base import Count, Probability, StrictModel
from recsys.config.inputs import InputsConfig
from recsys.config.losses import AuxiliaryConfig, LossConfig, Positive
from recsys.config.masking import MaskedConfig
from recsys.config.peft import PeftConfig

Masking = Literal["causal", "causal_last", "final_value", "next_occurrence", "mlm", "span", "replaced", "permutation"]


class ModelConfig(StrictModel):
    """Everything that determines the parameters and the forward pass."""

    max_length: Count = 110  # events; the newest are kept
    inputs: InputsConfig = Field(default_factory=InputsConfig)
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    peft: PeftConfig = Field(default_factory=PeftConfig)
    masking: Masking = "causal"  # what is predicted from what; docs/models.md says which fits which backbone
    masked: MaskedConfig = Field(default_factory=MaskedConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    tied: bool = False  # the output table is the item embedding, projected (not where inputs.direct)
    bias: bool = False  # of the item head
    similarity: Literal["dot", "cosine"] = "dot"  # of hidden state and item; cosine wants a temperature of about 0.05
    temperature: Positive = 1.0  # the item head's scores are divided by it
    learn_temperature: bool = False  # it is a parameter, which starts there
    repeat_bias: bool = False  # a learned score of items that the history holds, by how long ago (`recsys.nn.repeats`)
    output_dropout: Probability = 0.0
    auxiliary: list[AuxiliaryConfig] | None = None  # None: classification and target where the schema has them
    task_weights: Literal["fixed", "uncertainty"] = "fixed"  # uncertainty: learned (Kendall et al. 2018)

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        widths = (self.inputs.embedding_size, self.inputs.fusion_size, self.backbone.hidden_size)
        if self.inputs.direct and len(set(widths)) > 1:
            names = "inputs.embedding_size ({}), inputs.fusion_size ({}) and backbone.hidden_size ({})"
            raise ValueError(f"inputs.direct wants one width: {names.format(*widths)} must be equal")
        return self

"""Sections of losses and heads."""

from typing import Annotated, Literal

from pydantic import Field

from recsys.config.base import Share, StrictModel


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

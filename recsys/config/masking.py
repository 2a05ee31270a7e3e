"""Section `model.masked`: settings of the masking that `model.masking` names."""

from typing import Annotated, Literal

from pydantic import Field

from recsys.config.base import Finite, StrictModel

Inside = Annotated[float, Field(gt=0.0, lt=1.0)]


class MaskedConfig(StrictModel):
    """What the maskings that hide events, and `next_occurrence`, can be told; others read none of it."""

    probability: Inside = 0.2  # of an event to be hidden
    last_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1  # of a row: only its last event is hidden
    mean_span: Annotated[Finite, Field(ge=1.0)] = 3.0  # events of a hidden run; span and permutation
    replacements: Literal["model", "uniform", "popularity"] = "model"  # what draws ids; replaced
    replaced_weight: Annotated[Finite, Field(ge=0.0)] = 1.0  # of the loss of telling them; replaced
    items: list[str] = Field(default_factory=list)  # names of the items that are waited for; next_occurrence

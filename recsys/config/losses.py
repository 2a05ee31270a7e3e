"""Sections of losses, negatives and heads."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from recsys.config.base import Count, Share, StrictModel

NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class NamedSection(StrictModel):
    """A section whose `name` says which of its other fields mean anything; those of other names are refused."""

    FIELDS: ClassVar[dict[str, tuple[str, ...]]]

    name: str

    @model_validator(mode="after")
    def _refuse_foreign(self) -> Self:
        if self.is_old():
            return self
        for field in sorted(self.model_fields_set - {"name", *self.FIELDS[self.name]}):
            owners = " and ".join(name for name, fields in self.FIELDS.items() if field in fields)
            fix = f"take it out, or set the section as a whole: {{name: {self.name}}}"
            raise ValueError(f"'{field}' is a setting of {owners}, not of {self.name}; {fix}")
        return self

    @model_serializer(mode="wrap")
    def _own_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        own = {"name", *self.FIELDS[self.name]}
        return {field: value for field, value in handler(self).items() if field in own}

    def is_old(self) -> bool:
        """Whether it was saved when every field was written whatever the name; foreign ones then mean nothing."""
        return False


class NegativesConfig(NamedSection):
    """What stands against the target in a sampled loss."""

    FIELDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "uniform": ("num", "per_position"),
        "popularity": ("num", "power"),
        "in_batch": ("num",),
        "mixed": ("num", "uniform_share"),
    }

    name: Literal["uniform", "popularity", "in_batch", "mixed"] = "uniform"
    num: Count = 256  # negatives; in_batch: at most
    per_position: bool = False  # draws of its own for each position, never its target; dearer
    power: NonNegative = 1.0  # of the count in train; 0.75: word2vec's
    uniform_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5  # of `num`; the rest are taken from the batch


class LossConfig(NamedSection):
    """The loss of one head; `recsys.losses` says when to use which."""

    FIELDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "focal": ("gamma", "dtype", "class_weights"),
        "cross_entropy": ("label_smoothing", "dtype", "class_weights"),
        "tversky": ("alpha", "beta", "exponent", "dtype", "class_weights"),
        "sampled_softmax": ("negatives", "log_q", "class_weights"),
        "bce": ("negatives", "class_weights"),
        "gbce": ("negatives", "calibration", "class_weights"),
        "info_nce": ("cross_rank", "max_cosine", "class_weights"),
        "mse": (),
        "huber": ("delta",),
        "binary_cross_entropy": ("positive_weight",),
    }

    name: Literal[
        "cross_entropy",
        "focal",
        "tversky",
        "sampled_softmax",
        "bce",
        "gbce",
        "info_nce",
        "mse",
        "huber",
        "binary_cross_entropy",
    ] = "focal"
    gamma: NonNegative = 2.0
    label_smoothing: Share = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the product with the item table
    class_weights: Literal["inverse_frequency"] | list[NonNegative] | None = None  # a list: one a class, in id order
    alpha: NonNegative = 0.5  # weight of false positives
    beta: NonNegative = 0.5  # weight of false negatives
    exponent: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 1.0
    negatives: NegativesConfig = Field(default_factory=NegativesConfig)
    log_q: bool = True  # correct for how often each negative is drawn
    calibration: Fraction = 0.75  # 0: plain BCE; 1: scores calibrated over the whole catalogue
    cross_rank: bool = True  # targets of the other ranks' batches are negatives too
    max_cosine: Annotated[float, Field(gt=0.0, le=1.0)] | None = None  # nearer negatives count as the same item
    delta: Positive = 1.0  # in units of the scaled column
    positive_weight: Positive = 1.0  # of the second class

    @field_validator("class_weights", mode="before")
    @classmethod
    def _name_choices(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "inverse_frequency":
            raise ValueError("class_weights are 'inverse_frequency' or a list of one number a class")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name == "tversky" and self.alpha + self.beta == 0:
            raise ValueError("alpha and beta must not both be 0")
        if self.name == "gbce" and self.negatives.name != "uniform":
            raise ValueError(f"gbce is calibrated for uniform negatives, not {self.negatives.name}; use uniform")
        return self

    def is_old(self) -> bool:
        """Whether it is of a run saved before every loss had fields of its own: all four were written."""
        return self.model_fields_set == {"name", "gamma", "label_smoothing", "dtype"}


class AuxiliaryConfig(StrictModel):
    """A further head that predicts another column of the next event."""

    column: str
    weight: NonNegative = 0.5  # where it starts with task_weights: uncertainty
    kind: Literal["classes", "binary", "real"] | None = None  # None: classes of a categorical column, else real
    loss: LossConfig | None = None  # None: focal for classes, binary_cross_entropy, or mse

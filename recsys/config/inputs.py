"""Section `model.inputs`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recsys.config.base import Count, Probability, StrictModel, require_divisor


class GapConfig(StrictModel):
    """A column of seconds (etl.continuous.<column>.transforms: []) that is read as buckets."""

    scale: Literal["log", "sqrt"] = "log"
    buckets: Count = 64  # beside that of padding
    longest: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 604_800.0  # seconds at which the last bucket ends


class InputsConfig(StrictModel):
    """Which columns are read, and how a timestep's streams become one vector.

    Columns that the schema tags `context` are added behind the fusion; all others are streams of it.
    """

    streams: list[str] | None = None  # None: every column that the schema offers
    text_table: str | None = None  # folder of model.pretrained_text_embedding, or a .npy [items, width]: stream `text`
    # frozen: the vectors as they are; projected: through a learned map to embedding_size; initialiser: no stream of
    # their own, the item's embedding starts from them
    text_use: Literal["frozen", "projected", "initialiser"] = "frozen"
    embedding_size: Count = 64
    fusion: Literal["self_attention", "cross_attention", "gated", "item_product", "concatenation", "sum"] = (
        "self_attention"
    )
    fusion_size: Count = 128  # width D of the streams in the fusion
    fusion_heads: Count = 4  # self_attention and cross_attention
    continuous: Literal["mlp", "soft_one_hot"] = "mlp"
    gaps: dict[str, GapConfig] = Field(default_factory=dict)  # by column of seconds; the others are `continuous`
    clock: Literal["embedding", "sin_cos"] = "embedding"  # of the classes hour and weekday
    dropout: Probability = 0.1
    # Streams of ids enter the fusion and the backbone as they are, without learned maps in between, and a tied output
    # table is the embedding itself: SASRec's way. embedding_size, fusion_size and backbone.hidden_size must be equal.
    direct: bool = False

    @model_validator(mode="after")
    def _divides(self) -> Self:
        require_divisor("fusion_heads", self.fusion_heads, "fusion_size", self.fusion_size)
        return self

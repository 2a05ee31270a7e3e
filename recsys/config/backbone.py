"""Section `model.backbone`."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from recsys.config.base import Count, Probability, StrictModel, require_divisor

BackboneName = Literal[
    "llama", "mixtral", "qwen3", "gpt2", "bert", "t5", "xlnet", "auto", "sasrec", "ligr", "hstu", "gru"
]
_TRANSFORMERS = {"pretrained", "architecture"}
_LLAMA = {"num_heads", "num_kv_heads", "intermediate_size", "rope_theta", "attention_dropout", *_TRANSFORMERS}
_ATTENTION = {"num_heads", "intermediate_size", "attention_dropout"}
_OWN_FIELDS: dict[str, set[str]] = {
    "llama": _LLAMA,
    "mixtral": {*_LLAMA, "num_experts", "experts_per_token", "router_loss"},
    "qwen3": _LLAMA,
    "gpt2": {*_ATTENTION, *_TRANSFORMERS},
    "bert": {*_ATTENTION, *_TRANSFORMERS},
    "t5": {"num_heads", "intermediate_size", *_TRANSFORMERS},
    "xlnet": {"num_heads", "intermediate_size", *_TRANSFORMERS},
    "auto": _TRANSFORMERS,
    "sasrec": {*_ATTENTION, "norm"},
    "ligr": _ATTENTION,
    "hstu": {"num_heads", "time_buckets"},
    "gru": set(),
}
"""Fields of each backbone beside `name`, `hidden_size`, `num_layers` and (all but auto) `residual_dropout`."""
_WIDTH = {"sasrec": 1.0, "mixtral": 3.5}  # intermediate_size over hidden_size where it is not 4
_GIVEN = ("num_heads", "num_kv_heads", "intermediate_size", "rope_theta", "num_experts", "experts_per_token")


class BackboneConfig(StrictModel):
    """The sequence model between fused inputs and heads; a field that `name` has no use for is refused."""

    name: BackboneName = "llama"
    hidden_size: Count = 128
    num_layers: Count = 2
    num_heads: Count = 4
    num_kv_heads: Count | None = None  # None: as num_heads (llama, mixtral, qwen3)
    intermediate_size: Count | None = None  # None: 4 * hidden_size; sasrec 1 *, mixtral 3.5 *
    rope_theta: float = Field(default=10_000.0, gt=0)
    attention_dropout: Probability = 0.0
    residual_dropout: Probability = 0.0  # on the output of each attention and feed-forward block; gru: between layers
    num_experts: Count = 8  # mixtral
    experts_per_token: Count = 2  # mixtral
    router_loss: float = Field(default=0.001, ge=0, allow_inf_nan=False)  # mixtral: weight of the load balance
    norm: Literal["pre", "post", "query"] = "pre"  # sasrec; query: as the authors' code and RecTools
    time_buckets: int = Field(default=64, ge=0)  # hstu: of log(seconds) / 0.301; 0: without the time between events
    pretrained: str | None = None  # folder or hub name: architecture and weights to start from (transformers)
    architecture: dict[str, Any] | str | None = None  # a configuration of transformers, or the folder or name of one

    @model_validator(mode="after")
    def _fits(self) -> Self:
        known = _OWN_FIELDS[self.name]
        fields = type(self).model_fields
        changed = [field for field in fields if getattr(self, field) != fields[field].default]
        for field in changed:
            if not self.knows(field):
                others = [name for name in _OWN_FIELDS if field in _OWN_FIELDS[name]]
                whose = f"it belongs to {', '.join(others)}" if others else "the architecture has its own"
                raise ValueError(f"{field} is nothing that {self.name} has ({whose}); leave it out")
        if self.pretrained is not None or self.architecture is not None:
            for field in _GIVEN:
                if field in changed:
                    raise ValueError(f"{field} comes with the architecture; leave it out, or leave pretrained out")
            return self
        if self.name == "auto":
            raise ValueError("auto wants pretrained or architecture: a folder, a hub name or values with a model_type")
        if "num_heads" in known:
            self._heads_divide()
        if self.name == "mixtral" and self.experts_per_token > self.num_experts:
            raise ValueError(f"experts_per_token ({self.experts_per_token}) is above num_experts ({self.num_experts})")
        return self

    def _heads_divide(self) -> None:
        require_divisor("num_heads", self.num_heads, "hidden_size", self.hidden_size)
        require_divisor("num_kv_heads", self.num_kv_heads or self.num_heads, "num_heads", self.num_heads)
        if "rope_theta" in _OWN_FIELDS[self.name] and self.hidden_size // self.num_heads % 2:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) / num_heads ({self.num_heads}) must be even for rotary positions"
            )
        if self.name == "xlnet" and self.hidden_size % 2:
            raise ValueError(f"hidden_size ({self.hidden_size}) must be even for xlnet's relative positions")

    def knows(self, field: str) -> bool:
        """Whether the named backbone has a use for `field`."""
        if field == "residual_dropout":
            return self.name != "auto"
        return field in _OWN_FIELDS[self.name] or field in ("name", "hidden_size", "num_layers")

    @property
    def needs_times(self) -> bool:
        """Whether the backbone reads the times of events."""
        return self.name == "hstu" and self.time_buckets > 0

    def feed_forward_size(self) -> int:
        """`intermediate_size`, or the backbone's usual multiple of `hidden_size`."""
        return self.intermediate_size or round(_WIDTH.get(self.name, 4.0) * self.hidden_size)

"""Configuration of a run: strict, typed, read from YAML, overridden by ``key=value``.

An unknown key is an error that names the nearest known one. Units stand beside each field.
"""

from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from zoneinfo import ZoneInfo

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recsys.errors import ConfigError, nearest, one_line

Model = TypeVar("Model", bound=BaseModel)
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Transform = Literal["log1p", "zscore"]
TimeFeature = Literal["hour", "weekday", "log_gap"]


class StrictModel(BaseModel):
    """Base of every configuration section: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class SplitConfig(StrictModel):
    """How events are assigned to train, validation and test, before anything is fitted (see recsys.etl.split).

    Rules share, every_nth and list assign whole groups; leave_last, time and position cut inside sequences, and
    document assigns pieces of sessions.
    """

    rule: Literal["share", "every_nth", "list", "leave_last", "time", "position", "document", "none"] = "share"
    into: Literal["train", "val", "test"] = "test"  # rule none: where all events go
    # The group or sequence. None: the user where the log has one, else the session (document, position: the session).
    by: Literal["user_id", "session_id"] | None = None
    test_share: Share = 0.1  # of groups (share), of all events (time), of each sequence's events (position)
    validation_share: Share = 0.1  # of the groups that are not test; time and position: of all events
    every: Annotated[int, Field(ge=2)] = 5  # rule every_nth: test = groups 0, n, 2n, ... of the sorted groups
    k: Count = 1  # rule leave_last: a sequence's last k events are test, the k before them validation
    validation_from: str | None = None  # rule time: ISO 8601 or microseconds since 1970 UTC; None: by the shares
    test_from: str | None = None  # rule time; events before validation_from are train
    test_groups: list[str] = Field(default_factory=list)  # rule list
    validation_groups: list[str] = Field(default_factory=list)  # rule list; empty: validation_share of the rest
    coverage: bool = True  # an item of two groups is in train and test, of three in all; never moves fixed test groups
    seed: int = 0

    @property
    def cuts_sequences(self) -> bool:
        """Whether one sequence's events fall into several splits."""
        return self.rule in ("leave_last", "time", "position")

    @property
    def needs_events(self) -> bool:
        """Whether a table of groups cannot hold the split, so that only `recsys preprocess` can make it."""
        return self.cuts_sequences or self.rule == "document"

    @field_validator("validation_from", "test_from", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        # YAML reads an unquoted date or number as such.
        if isinstance(value, date):
            return value.isoformat()
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("test_groups", "validation_groups", mode="before")
    @classmethod
    def _names_as_text(cls, value: object) -> object:
        # Numbers that are names need no quotes in YAML.
        if not isinstance(value, list):
            return value
        return [str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in value]

    @model_validator(mode="after")
    def _cuts(self) -> Self:
        if (self.validation_from is None) != (self.test_from is None):
            raise ValueError("validation_from and test_from go together; give both (equal: no validation) or neither")
        if self.rule in ("time", "position") and self.validation_share + self.test_share >= 1:
            both = f"validation_share ({self.validation_share}) and test_share ({self.test_share})"
            raise ValueError(f"{both} leave no event to train; let them sum to less than 1")
        return self


class ChunkConfig(StrictModel):
    """Cut long training sessions into chunks of U(min_items, max_items) events; a short tail joins the last one."""

    min_items: Count = 10
    max_items: Count = 100

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_items > self.max_items:
            raise ValueError(f"min_items ({self.min_items}) is above max_items ({self.max_items})")
        return self


class CategoricalConfig(StrictModel):
    """One column of ids: 0 padding, 1 null, 2 unknown, then known values, then hash buckets."""

    min_count: Count = 1  # values seen less often in train have no id of their own
    top_k: Count | None = None  # at most so many values, the most frequent, have an id of their own; None: all
    hash_buckets: Annotated[int, Field(ge=0)] = 0  # ids shared by values without one (by hash); 0: all get id 2
    vocabulary: str | None = None  # file of the values in id order: text (one a line), .csv or .parquet; None: fitted
    vocabulary_column: str | None = None  # of a .csv or .parquet file; None: named as this column, or the only one

    @model_validator(mode="after")
    def _fitted_or_given(self) -> Self:
        if self.vocabulary is not None and (self.min_count > 1 or self.top_k is not None):
            raise ValueError("a given vocabulary is used whole; take out min_count and top_k")
        if self.vocabulary is None and self.vocabulary_column is not None:
            raise ValueError("vocabulary_column without vocabulary; name the file")
        return self


class ContinuousConfig(StrictModel):
    """One column of numbers; the transforms apply in order."""

    transforms: list[Transform] = Field(default=["zscore"])


class BucketiseConfig(StrictModel):
    """A further categorical column `<column>_bucket`: the interval ``[low, high)`` that a number lies in."""

    boundaries: list[Finite] | None = None  # ascending, in the column's unit (before any transform)
    quantiles: Annotated[int, Field(ge=2)] | None = None  # buckets of about equal size in train

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.boundaries is None) == (self.quantiles is None):
            raise ValueError("give either boundaries or quantiles")
        if self.boundaries is not None:
            steps = list(pairwise(self.boundaries))
            if not self.boundaries or any(low >= high for low, high in steps):
                raise ValueError(f"boundaries {self.boundaries} must be ascending numbers, at least one")
        return self


class TimeConfig(StrictModel):
    """Columns made of each event's time, under the feature's name."""

    # hour: 24 classes; weekday: 7 classes, Monday first; log_gap: log1p of the seconds since the session's previous
    # event, z-scored
    features: list[TimeFeature] = Field(default_factory=list)
    zone: str = "UTC"  # of hour and weekday; an IANA name such as Europe/Berlin

    @field_validator("zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError("no such time zone; use a name such as Europe/Berlin or UTC") from error
        return value


class EtlConfig(StrictModel):
    """Events to sequences. Everything here is fitted on the training split only."""

    categorical: dict[str, CategoricalConfig] = Field(
        default_factory=lambda: {name: CategoricalConfig() for name in ("item_id", "classification", "target", "cat")}
    )
    continuous: dict[str, ContinuousConfig] = Field(
        default_factory=lambda: {
            "timestamp_interval": ContinuousConfig(transforms=["log1p", "zscore"]),
            "merge_count": ContinuousConfig(transforms=["log1p", "zscore"]),
        }
    )
    time: TimeConfig = Field(default_factory=TimeConfig)
    bucketise: dict[str, BucketiseConfig] = Field(default_factory=dict)  # by column of numbers
    text: list[str] | None = None  # columns passed on as they are; None: description where the commands have it
    optional: list[str] = Field(default_factory=lambda: ["user_id", "cat", "classification", "target", "merge_count"])
    min_length: Count = 1  # events; shorter sequences leave (counted)
    newest: Count | None = None  # events kept of a training sequence; None keeps all
    chunk: ChunkConfig | None = None  # training split only


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
        _require_divisor("fusion_heads", self.fusion_heads, "fusion_size", self.fusion_size)
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
        _require_divisor("num_heads", self.num_heads, "hidden_size", self.hidden_size)
        _require_divisor("num_kv_heads", self.num_kv_heads or self.num_heads, "num_heads", self.num_heads)
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


class TrainingConfig(StrictModel):
    """How a model is trained."""

    epochs: Annotated[float, Field(gt=0)] = 10.0
    max_steps: int = -1  # optimizer steps; -1: from epochs
    init_from: str | None = None  # run whose weights training starts from; None: fresh ones
    batch_size: Count = 128  # most sequences in a batch (a device and step)
    batch_events: Count | None = (
        None  # about this many events a batch, so that steps weigh events alike; None: no limit
    )
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    min_learning_rate_ratio: Share = 0.0  # the schedule's end, as a share of learning_rate
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: Share = 0.05  # of all steps
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    accumulation: Count = 1  # batches a step
    windows: Literal["random", "newest"] = "random"  # which max_length events of a longer sequence an epoch sees
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bf16 or fp16 on a GPU, else fp32
    patience: int | None = 10  # evaluations without improvement; None never stops early
    best_metric: Literal["loss", "ndcg@10", "recall@10"] = "ndcg@10"  # on the validation split
    save_steps: Count | None = None  # steps between checkpoints; None: once an epoch
    evaluate_steps: Count | None = None  # steps between evaluations; None: once an epoch
    tensorboard: bool = False
    wandb: bool = False
    threads: Count | None = None  # CPU threads; None: all


class EvaluationConfig(StrictModel):
    """The protocol of published figures (full ranking, ties count against the model)."""

    ks: list[Count] = Field(default_factory=lambda: [1, 3, 5, 10])
    seen: Literal["keep", "remove"] = "keep"  # whether items of the history may be recommended
    bootstrap_samples: int = 1000  # for 95 % intervals; 0: none
    batch_size: Count = 256


class RunConfig(StrictModel):
    """One YAML for a whole run: cleaning profile, split, ETL, model, training, evaluation."""

    kind: Literal["recommender"] = "recommender"
    seed: int = 0
    profile: str | None = None  # cleaning profile: a built-in name or a path
    split: SplitConfig = Field(default_factory=SplitConfig)
    etl: EtlConfig = Field(default_factory=EtlConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)


def _require_divisor(name: str, value: int, of: str, whole: int) -> None:
    if whole % value:
        close = min((d for d in range(1, whole + 1) if whole % d == 0), key=lambda d: abs(d - value))
        raise ValueError(f"{name} ({value}) must divide {of} ({whole}); try {close}")


def parse(model: type[Model], values: object, source: object) -> Model:
    """Validate `values` as `model`; the error is one line with source, key and fix."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(model, error)}") from error


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(p) for p in first["loc"]]
    where = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        return f"unknown key '{where}'{nearest(path[-1], known)}"
    message = first["msg"].removeprefix("Value error, ")
    shown = first.get("input")
    if isinstance(shown, str | int | float | bool):
        return f"{where}: {shown!r}: {message}"
    return f"{where}: {message}" if where else message


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The keys that the section at `path` accepts."""
    for part in path:
        field = model.model_fields.get(part)
        options = [] if field is None else _models_in(field.annotation)
        if options:
            model = options[0]
    return list(model.model_fields)


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models_in(a)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; an empty file is an empty mapping."""
    if not path.is_file():
        raise ConfigError(f"{path}: {'is a folder; name a YAML file' if path.is_dir() else 'no such file'}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {one_line(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines at the top, found a {type(values).__name__}")
    return values


def override(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Apply ``section.key=value`` settings (values read as YAML) to a copy of `values`."""
    result: dict[str, Any] = yaml.safe_load(yaml.safe_dump(values)) or {}
    for setting in settings:
        key, found, text = setting.partition("=")
        if not found or not key:
            raise ConfigError(f"--set {setting}: expected key=value, for instance training.epochs=3")
        *parents, last = key.strip().split(".")
        section = result
        for parent in parents:
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
            if not isinstance(section, dict):
                raise ConfigError(f"--set {setting}: '{parent}' is not a section")
        try:
            section[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting}: the value is not valid YAML") from error
    return result


def load_config(path: Path | str | None, settings: Sequence[str] = ()) -> RunConfig:
    """Read a run's configuration from YAML (all defaults without `path`) and apply ``key=value`` settings."""
    values = read_yaml(Path(path)) if path else {}
    return parse(RunConfig, override(values, settings), path or "--set")


def save_config(config: BaseModel, path: Path) -> None:
    """Write every value, defaults included, so that the file alone repeats the run."""
    path.write_text(
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )

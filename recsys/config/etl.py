"""Sections `split` and `etl`: which events are for training, and what is made of them."""

from datetime import date
from itertools import pairwise
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from recsys.config.base import Count, Finite, Share, StrictModel

Transform = Literal["log1p", "zscore"]
TimeFeature = Literal["hour", "weekday", "log_gap"]


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
    multi_valued: bool = False  # a row holds a list of values
    delimiter: str | None = None  # between the values of a list that is written as text, as in CSV

    @model_validator(mode="after")
    def _fitted_or_given(self) -> Self:
        if self.vocabulary is not None and (self.min_count > 1 or self.top_k is not None):
            raise ValueError("a given vocabulary is used whole; take out min_count and top_k")
        if self.vocabulary is None and self.vocabulary_column is not None:
            raise ValueError("vocabulary_column without vocabulary; name the file")
        if self.delimiter is not None and not self.multi_valued:
            raise ValueError("delimiter without multi_valued: true; a column of one value a row is not divided")
        if self.delimiter == "":
            raise ValueError("delimiter: an empty text divides nothing; name what stands between two values")
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
    # Columns of events, named above too, that have one value a sequence: stored once, read as its context.
    context: list[str] = Field(default_factory=list)
    text: list[str] | None = None  # columns passed on as they are; None: description where the commands have it
    optional: list[str] = Field(default_factory=lambda: ["user_id", "cat", "classification", "target", "merge_count"])
    min_length: Count = 1  # events; shorter sequences leave (counted)
    newest: Count | None = None  # events kept of a training sequence; None keeps all
    chunk: ChunkConfig | None = None  # training split only

"""Names, kinds and sizes of columns: the one contract between ETL, data, model, export and server.

`schema.json` of a sequence dataset or a run is this module's `Schema`. Nothing else is passed by name.
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from recsys.errors import SchemaError, nearest

# The columns of an events table. Every module takes these names from here.
SESSION_ID = "session_id"
ITEM_ID = "item_id"
TIMESTAMP = "timestamp"  # Int64, microseconds since 1970 UTC
USER_ID = "user_id"
CATEGORY = "cat"
ARGUMENTS = "arguments"  # what followed a command on its line (grammar shell)
MERGE_COUNT = "merge_count"  # how many equal rows in a row one event stands for
INTERVAL = "timestamp_interval"  # seconds since the session's previous event, 0 for its first
SCORED_FROM = "scored_from"  # of a sequence: the place of its first event that evaluation scores; missing: 1
HOUR = "hour"
WEEKDAY = "weekday"
LOG_GAP = "log_gap"  # log1p of timestamp_interval
CLASSIFICATION = "classification"
TARGET = "target"
DESCRIPTION = "description"

# Ids follow NVTabular's convention.
PADDING_ID = 0
NULL_ID = 1
OOV_ID = 2
FIRST_ID = 3


class Kind(StrEnum):
    """What a column's values are."""

    CATEGORICAL = "categorical"
    CONTINUOUS = "continuous"
    PRETRAINED = "pretrained"
    TEXT = "text"


class Scope(StrEnum):
    """What a column's value belongs to: one event, the event's item, or the whole sequence."""

    EVENT = "event"
    ITEM = "item"
    SEQUENCE = "sequence"


class Tag(StrEnum):
    """The part a column plays."""

    ITEM_ID = "item_id"
    SESSION_ID = "session_id"
    USER_ID = "user_id"
    TIMESTAMP = "timestamp"
    TARGET = "target"
    CONTEXT = "context"


class Column(BaseModel):
    """One column of a sequence dataset.

    `cardinality` counts the reserved ids; valid ids are ``0 .. cardinality - 1``: reserved ones, values, and last
    `hash_buckets` ids that values without an id of their own share: CRC-32 of the value's UTF-8 bytes, modulo
    `hash_buckets`. Columns of scope `item` are not stored per event: ``workflow/items.parquet`` holds one row an id.
    Columns of scope `sequence` are stored once a sequence. A value of a column with `multi_valued` is a list of ids, of
    any length: ``[]`` is an empty list, ``[1]`` a missing one.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: Kind
    scope: Scope = Scope.EVENT
    tags: list[Tag] = Field(default_factory=list)
    dtype: str = "int64"
    cardinality: int | None = None  # ids, reserved ones included (categorical)
    reserved: int = FIRST_ID  # how many ids at the start name no value
    first_id: int = FIRST_ID  # id of the first value (the most frequent one, unless the order was given)
    hash_buckets: int = 0  # how many ids at the end stand for values without one of their own
    multi_valued: bool = False  # a value is a list of ids (categorical)
    old_cardinality: int | None = None  # ids below it are those of the workflow that was extended; None: none was
    source: str | None = None  # the column that this one is made of (categorical)
    boundaries: list[float] | None = None  # id first_id + n: boundaries[n - 1] <= number < boundaries[n] (bucketise)
    dimension: int | None = None  # width of a vector (pretrained)
    statistics: dict[str, float] = Field(default_factory=dict)
    vocabulary: str | None = None  # path inside workflow/
    vocabulary_sha256: str | None = None  # of the values in id order, so that equal sizes are not taken for equal ids

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Files of data without lists stay what they were before there were lists.
        values: dict[str, Any] = handler(self)
        return values if self.multi_valued else {name: v for name, v in values.items() if name != "multi_valued"}

    def num_ids(self) -> int:
        """How many ids there are, reserved ones and hash buckets included."""
        if self.cardinality is None:
            raise SchemaError(f"schema: column '{self.name}' is {self.kind.value} and has no cardinality")
        return self.cardinality

    def num_values(self) -> int:
        """How many ids stand for values, hash buckets included."""
        return self.num_ids() - self.first_id


class Schema(BaseModel):
    """The columns of a sequence dataset, in order."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    columns: list[Column]

    def __contains__(self, name: object) -> bool:
        return any(c.name == name for c in self.columns)

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise SchemaError(f"schema: no column '{name}'{nearest(name, self.names())}")

    def names(self) -> list[str]:
        """Names of all columns, in order."""
        return [c.name for c in self.columns]

    def tagged(self, tag: Tag) -> list[Column]:
        """All columns with `tag`."""
        return [c for c in self.columns if tag in c.tags]

    def item(self) -> Column:
        """The one column that names the items to be predicted."""
        found = self.tagged(Tag.ITEM_ID)
        if len(found) != 1:
            raise SchemaError(f"schema: {len(found)} columns are tagged item_id; exactly one must be")
        return found[0]

    def select(self, *, kind: Kind | None = None, scope: Scope | None = None) -> list[Column]:
        """Columns of a kind and a scope."""
        return [c for c in self.columns if (kind is None or c.kind is kind) and (scope is None or c.scope is scope)]

    def save(self, path: Path) -> None:
        """Write as JSON, readable and stable under re-saving."""
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a `schema.json`; errors name the file and the field."""
        if not path.is_file():
            raise SchemaError(f"{path}: no such file; `recsys preprocess` writes it")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for p in first["loc"])
            raise SchemaError(f"{path}: {where}{': ' if where else ''}{first['msg']}") from error

    def differences(self, other: "Schema") -> list[str]:
        """What keeps data of this schema from feeding a model trained on `other`; empty when it fits."""
        found = []
        for theirs in other.columns:
            if theirs.name not in self:
                found.append(f"column '{theirs.name}' is missing")
                continue
            ours = self[theirs.name]
            if ours.kind is not theirs.kind:
                found.append(f"column '{ours.name}' is {ours.kind.value}, the run was trained with {theirs.kind.value}")
            elif ours.multi_valued is not theirs.multi_valued:
                forms = ("one value a row", "lists of values")
                found.append(
                    f"column '{ours.name}' holds {forms[ours.multi_valued]}, the run was trained with "
                    f"{forms[theirs.multi_valued]}"
                )
            elif ours.scope is not theirs.scope:
                scopes = f"of scope {ours.scope.value}, the run was trained with {theirs.scope.value}"
                found.append(f"column '{ours.name}' is {scopes}")
            elif ours.cardinality != theirs.cardinality:
                sizes = f"has {ours.cardinality} classes, the run was trained with {theirs.cardinality}"
                if ours.old_cardinality == theirs.cardinality:
                    sizes = f"extends the run's {theirs.cardinality} ids to {ours.cardinality} (train --init-from RUN)"
                found.append(f"column '{ours.name}' {sizes}")
            elif ours.dimension != theirs.dimension:
                found.append(
                    f"column '{ours.name}' has {ours.dimension} dimensions, the run was trained with {theirs.dimension}"
                )
            elif ours.vocabulary_sha256 != theirs.vocabulary_sha256:
                found.append(f"column '{ours.name}' has another vocabulary than the run")
        return found

    def require_match(self, run: "Schema", source: object) -> None:
        """Raise unless data of this schema, read from `source`, can feed a model trained on `run`."""
        found = self.differences(run)
        if found:
            raise SchemaError(f"{source}: {found[0]}; preprocess with --workflow RUN/workflow")

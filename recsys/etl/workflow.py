"""`Workflow`: what is fitted on training events, and events to sequences of ids and scaled numbers.

::

    sequences = Workflow().fit_transform(train_events)     # one row a session, list columns in time order
    workflow = Workflow(config).fit(train_events, commands)
    workflow.transform(test_events)
    workflow.save(folder); Workflow.load(folder)           # JSON and Parquet
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import polars as pl
import pyarrow as pa

from recsys.config import EtlConfig, RunConfig
from recsys.errors import ConfigError, InputError, missing_column
from recsys.etl import storage
from recsys.etl.events import normalise
from recsys.etl.operators import COUNT, Scaling, Vocabulary, count_values, interval
from recsys.etl.plan import (
    KEPT,
    Counts,
    Plan,
    check_commands,
    check_config,
    count_events,
    plan_columns,
)
from recsys.etl.windows import chunk_column, newest
from recsys.schema import (
    DESCRIPTION,
    FIRST_ID,
    ITEM_ID,
    NULL_ID,
    OOV_ID,
    SESSION_ID,
    TIMESTAMP,
    USER_ID,
    Column,
    Kind,
    Schema,
    Scope,
    Tag,
)

CHUNK = "chunk"


@dataclass(frozen=True)
class Sequences:
    """Sequences, and what was left out of them: rows (events) and whole sequences, by reason."""

    frame: pl.DataFrame
    rows_in: int
    rows_out: int
    dropped_rows: dict[str, int]
    dropped_sequences: dict[str, int]


class Workflow:
    """Fitted ETL. Ids: 0 padding, 1 null, 2 unknown, 3.. by descending count in train, equal counts by value.

    Args:
        config: columns and transforms; a whole run's configuration gives its `etl` section and seed.
        seed: of the random chunk lengths.
    """

    def __init__(self, config: EtlConfig | RunConfig | None = None, seed: int = 0) -> None:
        if isinstance(config, RunConfig):
            self.config, self.seed = config.etl, config.seed
        else:
            self.config, self.seed = config or EtlConfig(), seed
        check_config(self.config)
        self._plan: Plan | None = None
        self._counts = Counts()
        self._vocabularies: dict[str, Vocabulary] = {}
        self._scalings: dict[str, Scaling] = {}
        self._items: pl.DataFrame | None = None
        self.warnings: list[str] = []

    @property
    def plan(self) -> Plan:
        """The columns in use; fixed by `begin` (or `fit`, `load`)."""
        if self._plan is None:
            raise ConfigError("the workflow is not fitted; call fit(events) or Workflow.load(folder) first")
        return self._plan

    @property
    def items(self) -> pl.DataFrame:
        """One row an id, reserved ones included: `id`, `item_id`, `count` in train, attributes' ids."""
        if self._items is None:
            raise ConfigError("the workflow is not fitted; call fit(events) or Workflow.load(folder) first")
        return self._items

    def begin(self, columns: list[str], commands: pl.DataFrame | None = None, source: object = "events") -> Self:
        """Start a fit over several parts: fix the columns; then `add` each part and `finish`."""
        self._plan = plan_columns(self.config, columns, commands, source)
        self._counts = Counts()
        return self

    def add(self, prepared: pl.DataFrame) -> None:
        """Count one part of the training events (rows that `prepare` gave)."""
        self._counts = Counts.merge([self._counts, count_events(prepared, self.plan, self.config)])

    def finish(self, commands: pl.DataFrame | None = None, source: object = "commands") -> Self:
        """End a fit: ids, statistics and the item table from what was added."""
        plan, counts = self.plan, self._counts
        if not counts.rows:
            raise InputError("no training events: the training split is empty, so nothing can be fitted")
        commands = None if commands is None else check_commands(commands, source)
        for name in plan.event_categorical:
            dropped = _not_kept(commands) if name == ITEM_ID else []
            smallest = self.config.categorical[name].min_count
            self._vocabularies[name] = Vocabulary.fit(counts.values[name], smallest, dropped)
        for name in plan.continuous:
            self._scalings[name] = Scaling.fit(self.config.continuous[name].transforms, counts.moments[name])
        self._items = self._fit_items(commands)
        self.warnings = [*self._warnings()]
        return self

    def fit(self, events: pl.DataFrame, commands: pl.DataFrame | None = None) -> Self:
        """Fit on training events: session_id, item_id, timestamp, and whatever the configuration names.

        Args:
            events: one row an event, in any order; equal times keep the order given.
            commands: optional; one row an item: item_id, kept (False: no id), classification, target,
                description.
        """
        self.begin(events.columns, commands)
        self.add(self.prepare(events))
        return self.finish(commands)

    def transform(self, events: pl.DataFrame, *, training: bool = False) -> pl.DataFrame:
        """Sequences: session_id, user_id, chunk, and lists over each session's events in time order.

        Args:
            events: as in `fit`; values that training did not know get id 2.
            training: also cut chunks, keep the newest and drop short sequences, as configured.
        """
        return self.sequences(self.prepare(events), training=training).frame

    def fit_transform(self, events: pl.DataFrame, commands: pl.DataFrame | None = None) -> pl.DataFrame:
        """`fit`, then `transform` as training events."""
        return self.fit(events, commands).transform(events, training=True)

    def prepare(self, events: pl.DataFrame, source: object = "events") -> pl.DataFrame:
        """Check, sort by session and time (stable), add timestamp_interval; whole sessions must be given."""
        plan = self.plan
        for column in plan.required:
            if column not in events.columns:
                raise missing_column(source, column, events.columns)
        frame = normalise(events.select(plan.read(events.columns)), source, plan.numbers)
        frame = frame.sort(SESSION_ID, TIMESTAMP, maintain_order=True)
        if USER_ID in frame.columns:
            same = pl.col(SESSION_ID) == pl.col(SESSION_ID).shift(1)
            mixed = frame.filter(same & pl.col(USER_ID).ne_missing(pl.col(USER_ID).shift(1)))
            if mixed.height:
                session = mixed[SESSION_ID][0]
                raise InputError(f"{source}: session '{session}' has more than one {USER_ID}; rename one")
        for name in plan.numbers:
            if "log1p" in self.config.continuous[name].transforms:
                wrong = frame.filter(pl.col(name) <= -1)
                if wrong.height:
                    session, value = wrong[SESSION_ID][0], wrong[name][0]
                    raise InputError(
                        f"{source}: column '{name}', session '{session}': {value} has no log1p; "
                        f"take log1p from etl.continuous.{name}.transforms"
                    )
        return frame.with_columns(interval())

    def sequences(self, prepared: pl.DataFrame, *, training: bool = False) -> Sequences:
        """Encode and group prepared events; a column `chunk` that is there already is kept as it is."""
        plan, config = self.plan, self.config
        rows = prepared.height
        dropped_rows: dict[str, int] = {}
        dropped_sequences: dict[str, int] = {}
        if CHUNK not in prepared.columns:
            if training and config.chunk is not None:
                prepared = prepared.with_columns(chunk_column(prepared[SESSION_ID], config.chunk, self.seed))
            else:
                prepared = prepared.with_columns(pl.lit(0, dtype=pl.Int32).alias(CHUNK))
        if training and config.newest is not None:
            prepared = prepared.filter(newest([SESSION_ID, CHUNK], config.newest))
            dropped_rows["older_than_newest"] = rows - prepared.height
        encoded = prepared.with_columns(
            [self._vocabularies[name].encode(name) for name in plan.event_categorical]
            + [self._scalings[name].apply(name) for name in plan.continuous]
        )
        frame = _group(encoded, [TIMESTAMP, *plan.event_categorical, *plan.continuous])
        if training and config.min_length > 1:
            long = frame.filter(pl.col(TIMESTAMP).list.len() >= config.min_length)
            dropped_sequences["min_length"] = frame.height - long.height
            out = int(long[TIMESTAMP].list.len().sum())
            dropped_rows["min_length"] = prepared.height - out
            return Sequences(long, rows, out, dropped_rows, dropped_sequences)
        return Sequences(frame, rows, prepared.height, dropped_rows, dropped_sequences)

    @property
    def schema(self) -> Schema:
        """Columns of the sequences and of `items`."""
        plan = self.plan
        columns = [self._categorical(name, Scope.EVENT) for name in plan.event_categorical]
        columns += [self._categorical(name, Scope.ITEM) for name in plan.item_categorical]
        for name in plan.continuous:
            scaling = self._scalings[name]
            statistics = {t: 1.0 for t in scaling.transforms} | {"mean": scaling.mean, "std": scaling.std}
            columns.append(Column(name=name, kind=Kind.CONTINUOUS, dtype="float32", statistics=statistics))
        if plan.has_description:
            columns.append(Column(name=DESCRIPTION, kind=Kind.TEXT, scope=Scope.ITEM, dtype="string"))
        return Schema(columns=columns)

    def describe(self) -> pl.DataFrame:
        """One row a column: kind, scope, number of ids, rows of train without a (known) value, statistics."""
        rows: list[dict[str, object]] = []
        for column in self.schema.columns:
            vocabulary = self._vocabularies.get(column.name)
            scaling = self._scalings.get(column.name)
            row: dict[str, object] = {"column": column.name, "kind": column.kind.value}
            row |= {"scope": column.scope.value, "ids": column.cardinality}
            if vocabulary:
                row |= {"null": vocabulary.null_count, "out_of_vocabulary": vocabulary.oov_count}
                row["most_frequent"] = next(iter(vocabulary.values), None)
            if scaling:
                row |= {"transforms": " ".join(scaling.transforms), "mean": scaling.mean, "std": scaling.std}
            rows.append(row)
        return pl.DataFrame(rows, schema=_DESCRIPTION_SCHEMA)

    def vocabulary(self, column: str) -> Vocabulary:
        """Values and ids of a categorical column."""
        if column not in self._vocabularies:
            raise missing_column("workflow", column, self._vocabularies)
        return self._vocabularies[column]

    def save(self, folder: Path) -> None:
        """Write workflow.json, items.parquet and unique.<column>.parquet into `folder` (made if missing)."""
        storage.save(
            Path(folder),
            storage.Fitted(self.config, self.seed, self.plan, self._vocabularies, self._scalings, self.items),
            self.schema,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. SchemaError names the file and row where they disagree."""
        fitted = storage.load(Path(folder))
        workflow = cls(fitted.config, fitted.seed)
        workflow._plan = fitted.plan
        workflow._vocabularies = fitted.vocabularies
        workflow._scalings = fitted.scalings
        workflow._items = fitted.items
        workflow.warnings = [*workflow._warnings()]
        return workflow

    def _categorical(self, name: str, scope: Scope) -> Column:
        vocabulary = self._vocabularies[name]
        return Column(
            name=name,
            kind=Kind.CATEGORICAL,
            scope=scope,
            tags=[Tag.ITEM_ID] if name == ITEM_ID else [],
            dtype="int32",
            cardinality=vocabulary.cardinality,
            vocabulary=storage.vocabulary_file(name),
            vocabulary_sha256=vocabulary.sha256,
        )

    def _fit_items(self, commands: pl.DataFrame | None) -> pl.DataFrame:
        """The item table; attributes get ids by how many train events their items have."""
        plan, vocabulary = self.plan, self._vocabularies[ITEM_ID]
        counts = [0, vocabulary.null_count, vocabulary.oov_count, *vocabulary.counts]
        items = pl.DataFrame(
            {"id": range(vocabulary.cardinality), ITEM_ID: vocabulary.decode(), COUNT: counts},
            schema={"id": pl.Int32, ITEM_ID: pl.String, COUNT: pl.Int64},
        )
        texts = [DESCRIPTION] if plan.has_description else []
        if commands is not None and (plan.item_categorical or texts):
            extra = commands.select(pl.col(ITEM_ID), pl.col(*plan.item_categorical, *texts).cast(pl.String))
            items = items.join(extra, on=ITEM_ID, how="left", maintain_order="left")
        for name in plan.item_categorical:
            known = items.slice(FIRST_ID)
            smallest = self.config.categorical[name].min_count
            attribute = Vocabulary.fit(count_values(known[name], known[COUNT]), smallest)
            self._vocabularies[name] = attribute
            # Reserved items have no attributes: what pads an item pads its attributes, and so on.
            reserved = pl.when(pl.col("id") < FIRST_ID).then(pl.col("id"))
            items = items.with_columns(reserved.otherwise(attribute.encode(name)).alias(name))
        return items

    def _warnings(self) -> Iterable[str]:
        for name, scaling in self._scalings.items():
            if scaling.is_constant and "zscore" in scaling.transforms:
                yield f"column '{name}' has one value in train; its z-score is 0 everywhere"
        for name, vocabulary in self._vocabularies.items():
            if not len(vocabulary.values):
                yield f"column '{name}' has no known value in train; every id is {NULL_ID} or {OOV_ID}"


_DESCRIPTION_SCHEMA = {
    "column": pl.String,
    "kind": pl.String,
    "scope": pl.String,
    "ids": pl.Int64,
    "null": pl.Int64,
    "out_of_vocabulary": pl.Int64,
    "most_frequent": pl.String,
    "transforms": pl.String,
    "mean": pl.Float64,
    "std": pl.Float64,
}


def _not_kept(commands: pl.DataFrame | None) -> list[str]:
    if commands is None or KEPT not in commands.columns:
        return []
    return commands.filter(~pl.col(KEPT))[ITEM_ID].drop_nulls().to_list()


def _group(rows: pl.DataFrame, lists: list[str]) -> pl.DataFrame:
    """Neighbouring rows of one session and chunk to one row with list columns, without a hash table."""
    new = (pl.col(SESSION_ID) != pl.col(SESSION_ID).shift(1)) | (pl.col(CHUNK) != pl.col(CHUNK).shift(1))
    starts = rows.select(new.fill_null(True)).to_series().arg_true()
    keys = [name for name in (SESSION_ID, USER_ID, CHUNK) if name in rows.columns]
    offsets = pa.array([*starts, rows.height], type=pa.int64())
    columns = [rows[key].gather(starts) for key in keys]
    for name in lists:
        values = rows[name].rechunk().to_arrow()
        columns.append(pl.Series(name, pl.from_arrow(pa.LargeListArray.from_arrays(offsets, values))))
    return pl.DataFrame(columns)

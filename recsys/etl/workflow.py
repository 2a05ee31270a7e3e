"""`Workflow`: what is fitted on training events, and events to sequences of ids and scaled numbers.

::

    sequences = Workflow().fit_transform(train_events)     # one row a session, list columns in time order
    workflow = Workflow(config).fit(train_events, commands)
    workflow.transform(test_events)
    workflow.save(folder); Workflow.load(folder)           # JSON and Parquet
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import polars as pl

from recsys.config import EtlConfig, RunConfig
from recsys.errors import ConfigError, InputError, missing_column
from recsys.etl import storage
from recsys.etl.context import VaryingContext, changes, require_constant
from recsys.etl.device import Device, collect
from recsys.etl.events import check_names, normalise
from recsys.etl.fitted import Fitted
from recsys.etl.fitting import fit, read_vocabularies
from recsys.etl.grouping import CHUNK, Sequences, group_rows, noted_rows
from recsys.etl.operators import Vocabulary, interval
from recsys.etl.plan import Counts, Plan, check_commands, check_config, continuous_columns, count_events, plan_columns
from recsys.etl.windows import chunk_column, newest
from recsys.schema import INTERVAL, LOG_GAP, SESSION_ID, TIMESTAMP, USER_ID, Schema


class Workflow:
    """Fitted ETL. Ids: 0 padding, 1 null, 2 unknown, 3.. by descending count in train, equal counts by value.

    Args:
        config: columns and transforms; a whole run's configuration gives its `etl` section and seed.
        seed: of the random chunk lengths.
    """

    engine = "polars"

    def __init__(self, config: EtlConfig | RunConfig | None = None, seed: int = 0) -> None:
        if isinstance(config, RunConfig):
            self.config, self.seed = config.etl, config.seed
        else:
            self.config, self.seed = config or EtlConfig(), seed
        check_config(self.config)
        self.device: Device = "cpu"  # where Polars computes
        self._plan: Plan | None = None
        self._counts = Counts()
        self._given: dict[str, pl.Series] = {}
        self._fitted: Fitted | None = None

    @property
    def plan(self) -> Plan:
        """The columns in use; fixed by `begin` (or `fit`, `load`)."""
        if self._plan is None:
            raise ConfigError(_NOT_FITTED)
        return self._plan

    @property
    def fitted(self) -> Fitted:
        """All that was fitted."""
        if self._fitted is None:
            raise ConfigError(_NOT_FITTED)
        return self._fitted

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` (or `finish`, `load`) is done."""
        return self._fitted is not None

    @property
    def items(self) -> pl.DataFrame:
        """One row an id, reserved ones included: `id`, `item_id`, `count` in train, attributes' ids, text."""
        return self.fitted.items

    @property
    def schema(self) -> Schema:
        """Columns of the sequences and of `items`."""
        return self.fitted.schema

    @property
    def warnings(self) -> list[str]:
        """What a person should know of the columns before training on them."""
        return list(self.fitted.warnings())

    def begin(self, columns: Sequence[str], commands: pl.DataFrame | None = None, source: object = "events") -> Self:
        """Start a fit over several parts: fix the columns; then `add` each part and `finish`."""
        check_names(columns, source)
        self._given = read_vocabularies(self.config)
        self._plan = plan_columns(self.config, columns, commands, source)
        self._counts = Counts()
        return self

    def count(self, prepared: pl.DataFrame) -> Counts:
        """What one part of the training events (rows that `prepare` gave) adds to the fit; changes nothing."""
        return count_events(prepared, self.plan, self.config)

    def take(self, counts: Iterable[Counts]) -> None:
        """Add to the fit what `count` gave for some parts."""
        self._counts = Counts.merge([self._counts, *counts])

    def add(self, prepared: pl.DataFrame) -> None:
        """`count` one part of the training events and `take` it."""
        self.take([self.count(prepared)])

    def finish(self, commands: pl.DataFrame | None = None, source: object = "commands") -> Self:
        """End a fit: ids, statistics and the item table from what was added."""
        if not self._counts.rows:
            raise InputError("no training events: the training split is empty, so nothing can be fitted")
        commands = None if commands is None else check_commands(commands, source, self.plan, self.config)
        self._fitted = fit(self.config, self.seed, self.plan, self._counts, self._given, commands)
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
        lists = plan.list_forms(self.config)
        frame = normalise(events.select(plan.read(events.columns)), source, plan.numbers, lists=lists)
        try:
            return self.complete(frame.sort(SESSION_ID, TIMESTAMP, maintain_order=True), source)
        except VaryingContext as error:
            raise error.placed(changes(frame, error.change), source) from None

    def complete(self, frame: pl.DataFrame, source: object = "events") -> pl.DataFrame:
        """What `prepare` does once rows are normalised and sorted: check, add timestamp_interval."""
        plan = self.plan
        if USER_ID in frame.columns:
            same = pl.col(SESSION_ID) == pl.col(SESSION_ID).shift(1)
            mixed = frame.filter(same & pl.col(USER_ID).ne_missing(pl.col(USER_ID).shift(1)))
            if mixed.height:
                session = mixed[SESSION_ID][0]
                raise InputError(f"{source}: session '{session}' has more than one {USER_ID}; rename one")
        self._check_logarithms(frame, source)
        for name in plan.context:
            require_constant(frame, name, source)
        frame = collect(frame.lazy().with_columns(interval()), self.device)
        return frame.with_columns(pl.col(INTERVAL).alias(LOG_GAP)) if LOG_GAP in plan.continuous else frame

    def _check_logarithms(self, frame: pl.DataFrame, source: object) -> None:
        for name, column in continuous_columns(self.config).items():
            if "log1p" in column.transforms and name in self.plan.numbers:
                wrong = frame.filter((pl.col(name) <= -1) & pl.col(name).is_finite())
                if wrong.height:
                    session, value = wrong[SESSION_ID][0], wrong[name][0]
                    raise InputError(
                        f"{source}: column '{name}', session '{session}': {value} has no log1p; "
                        f"take log1p from etl.continuous.{name}.transforms"
                    )

    def sequences(self, prepared: pl.DataFrame, *, training: bool = False) -> Sequences:
        """Encode and group prepared events; a column `chunk` that is there already is kept as it is."""
        plan, config = self.plan, self.config
        rows, noted = prepared.height, noted_rows(prepared, plan.numbers)
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
        lazy = prepared.with_columns(self.fitted.id_encoders()).lazy().with_columns(self.fitted.number_encoders())
        frame = group_rows(collect(lazy, self.device), plan.lists, plan.of_sequences)
        if training and config.min_length > 1:
            long = frame.filter(pl.col(TIMESTAMP).list.len() >= config.min_length)
            dropped_sequences["min_length"] = frame.height - long.height
            out = int(long[TIMESTAMP].list.len().sum())
            dropped_rows["min_length"] = prepared.height - out
            return Sequences(long, rows, out, dropped_rows, dropped_sequences, noted)
        return Sequences(frame, rows, prepared.height, dropped_rows, dropped_sequences, noted)

    def adopt(self, workflow: "Workflow") -> Self:
        """Take over what `workflow` has fitted."""
        self.config, self.seed = workflow.config, workflow.seed
        self._plan, self._fitted = workflow.plan, workflow.fitted
        return self

    def describe(self) -> pl.DataFrame:
        """One row a column: kind, scope, number of ids, rows of train without a (known) value, statistics."""
        return self.fitted.describe()

    def vocabulary(self, column: str) -> Vocabulary:
        """Values and ids of a categorical column."""
        vocabularies = self.fitted.vocabularies
        if column not in vocabularies:
            raise missing_column("workflow", column, vocabularies)
        return vocabularies[column]

    def save(self, folder: Path) -> None:
        """Write workflow.json, items.parquet and unique.<column>.parquet into `folder` (made if missing)."""
        storage.save(Path(folder), self.fitted)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. SchemaError names the file and row where they disagree."""
        fitted = storage.load(Path(folder))
        workflow = cls(fitted.config, fitted.seed)
        workflow._plan, workflow._fitted = fitted.plan, fitted
        return workflow


_NOT_FITTED = "the workflow is not fitted; call fit(events) or Workflow.load(folder) first"

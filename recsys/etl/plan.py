"""Which columns of a configuration the events and commands have, and the sums that are fitted over them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TypeVar

import polars as pl

from recsys.config import ContinuousConfig, EtlConfig
from recsys.errors import ConfigError, InputError, missing_column, nearest
from recsys.etl.lists import as_lists, count_list_values, not_plain
from recsys.etl.operators import (
    COUNT,
    TIME_VALUES,
    Buckets,
    Moments,
    before_scaling,
    count_labels,
    count_numbers,
    count_values,
    merge_counts,
    merge_numbers,
    time_id,
)
from recsys.schema import DESCRIPTION, INTERVAL, ITEM_ID, LOG_GAP, SESSION_ID, TIMESTAMP, USER_ID

Value = TypeVar("Value")
KEPT = "kept"  # of commands.parquet: False for a rare command, which has no id
NAMES_ONLY = (SESSION_ID, USER_ID, TIMESTAMP)  # columns that identify rows and are no features
RESERVED_NAMES = (*NAMES_ONLY, "chunk", "group", "split", "scored_from")  # what sequences say of themselves
ITEM_TABLE_NAMES = ("id", COUNT)  # of items.parquet
DERIVED_NUMBERS = (INTERVAL, LOG_GAP)  # made of the times, not read


def bucket_name(column: str) -> str:
    """Name of the categorical column of the intervals that the numbers of `column` lie in."""
    return f"{column}_bucket"


def continuous_columns(config: EtlConfig) -> dict[str, ContinuousConfig]:
    """All continuous columns: those configured, then log_gap where it is among the time features."""
    columns = dict(config.continuous)
    if LOG_GAP in config.time.features:
        columns[LOG_GAP] = ContinuousConfig(transforms=["log1p", "zscore"])
    return columns


def number_columns(config: EtlConfig) -> list[str]:
    """Columns that events are read from as numbers."""
    names = dict.fromkeys([*config.continuous, *config.bucketise])
    return [name for name in names if name not in DERIVED_NUMBERS]


@dataclass(frozen=True)
class Plan:
    """The columns in use, item_id first."""

    event_categorical: list[str]  # of the events
    item_categorical: list[str]  # of the commands
    continuous: list[str]  # of the events, or derived (timestamp_interval, log_gap)
    time: list[str] = field(default_factory=list)  # derived classes: hour, weekday
    bucketised: list[str] = field(default_factory=list)  # numbers (of the events, or derived) with buckets
    event_text: list[str] = field(default_factory=list)
    item_text: list[str] = field(default_factory=list)
    multi_valued: list[str] = field(default_factory=list)  # of the categorical ones, those whose value is a list
    context: list[str] = field(default_factory=list)  # of the events, those with one value a sequence

    @property
    def event_lists(self) -> list[str]:
        """Columns of the events whose value is a list."""
        return [name for name in self.event_categorical if name in self.multi_valued]

    @property
    def of_sequences(self) -> list[str]:
        """Columns of the sequences that hold one value each, the buckets of such numbers among them."""
        buckets = [bucket_name(name) for name in self.bucketised if name in self.context]
        return [name for name in [*self.classes, *self.continuous] if name in self.context or name in buckets]

    @property
    def numbers(self) -> list[str]:
        """Columns of numbers that the events must hold."""
        names = dict.fromkeys([*self.continuous, *self.bucketised])
        return [name for name in names if name not in DERIVED_NUMBERS]

    @property
    def required(self) -> list[str]:
        """Columns that events must hold."""
        columns = [SESSION_ID, TIMESTAMP, *self.event_categorical, *self.numbers]
        return columns + [name for name in self.event_text if name not in columns]

    @property
    def classes(self) -> list[str]:
        """Event-scope categorical columns of the sequences: read, from times, from buckets."""
        return [*self.event_categorical, *self.time, *(bucket_name(name) for name in self.bucketised)]

    @property
    def lists(self) -> list[str]:
        """List columns of the sequences."""
        once = self.of_sequences
        return [TIMESTAMP, *(n for n in [*self.classes, *self.continuous] if n not in once), *self.event_text]

    def list_forms(self, config: EtlConfig) -> dict[str, str | None]:
        """Columns of the events whose value is a list, and what divides one that is written as text."""
        return {name: config.categorical[name].delimiter for name in self.event_lists}

    def read(self, columns: Sequence[str]) -> list[str]:
        """The columns to read of events that hold `columns`; users are named where they are known."""
        return self.required + [c for c in columns if c == USER_ID]


def check_config(config: EtlConfig) -> None:
    """Raise ConfigError for what cannot be fitted."""
    if ITEM_ID not in config.categorical:
        raise ConfigError(f"etl.categorical: {ITEM_ID} is missing; it is what is predicted")
    if config.categorical[ITEM_ID].hash_buckets:
        fix = "take hash_buckets out; rare items get id 2 and are never recommended"
        raise ConfigError(f"etl.categorical.{ITEM_ID}.hash_buckets: a recommended bucket would have no name; {fix}")
    for name in config.categorical:
        if name in DERIVED_NUMBERS:
            raise ConfigError(f"etl.categorical: {name} is a number; list it under continuous or bucketise")
    if LOG_GAP in config.continuous or LOG_GAP in config.bucketise:
        fix = f"list it there alone, or use {INTERVAL}"
        raise ConfigError(f"etl: {LOG_GAP} is one of etl.time.features; {fix}")
    for name, column in config.continuous.items():
        if column.transforms not in ([], ["log1p"], ["zscore"], ["log1p", "zscore"]):
            raise ConfigError(
                f"etl.continuous.{name}.transforms: {column.transforms}; use each once, log1p before zscore"
            )
    if config.categorical[ITEM_ID].multi_valued:
        raise ConfigError(f"etl.categorical.{ITEM_ID}.multi_valued: an event has one item; take multi_valued out")
    _check_names(config)
    _check_context(config)


def _check_context(config: EtlConfig) -> None:
    """Columns of one value a sequence are declared, and can be constant."""
    declared = {**config.categorical, **config.continuous, **config.bucketise}
    for name in config.context:
        where = f"etl.context: '{name}'"
        if name in (ITEM_ID, *DERIVED_NUMBERS):
            raise ConfigError(f"{where} changes from event to event; take it out")
        if name not in declared:
            fix = f"{nearest(name, declared)}; name it under categorical or continuous too"
            raise ConfigError(f"{where} is no column of the section{fix}")
        if name in config.categorical and config.categorical[name].multi_valued:
            raise ConfigError(f"{where} is multi_valued; a sequence has one value of it, so take one of the two out")
        if config.context.count(name) > 1:
            raise ConfigError(f"{where} stands there twice; name it once")


def _check_names(config: EtlConfig) -> None:
    """Every column of the sequences has one origin and can name a file."""
    for name in config.bucketise:
        if name in NAMES_ONLY:
            raise ConfigError(f"etl: column '{name}' identifies rows and is no feature; add a copy of it")
    origins: dict[str, str] = {}
    kinds: dict[str, Iterable[str]] = {
        "categorical": config.categorical,
        "continuous": config.continuous,
        "a time feature": config.time.features,
        "made by bucketise": [bucket_name(name) for name in config.bucketise],
        "text": config.text or [],
    }
    for kind, names in kinds.items():
        for name in names:
            if name in RESERVED_NAMES:
                raise ConfigError(f"etl: column '{name}' identifies rows and is no feature; add a copy of it")
            if "/" in name or "\0" in name or not name:
                raise ConfigError(f"etl: column {name!r} cannot name a file; rename it")
            if name in origins:
                said = f"both {origins[name]} and {kind}" if origins[name] != kind else f"listed twice as {kind}"
                raise ConfigError(f"etl: column '{name}' is {said}; name it once, or add a copy of it")
            origins[name] = kind


def plan_columns(
    config: EtlConfig, columns: Sequence[str], commands: pl.DataFrame | None, source: object = "events"
) -> Plan:
    """Find each column of the configuration: classes in the events, else the commands; text the other way round.

    Columns in `config.optional` that are nowhere are left out; others raise InputError.
    """
    offered = [] if commands is None else [c for c in commands.columns if c != ITEM_ID]
    absent: list[str] = []

    def found(names: Iterable[str], *places: Iterable[str]) -> list[str]:
        """Those of `names` that are in one of `places`; the rest are absent or optional."""
        here = {name: any(name in place for place in places) for name in names}
        absent.extend(name for name, is_here in here.items() if not is_here and name not in config.optional)
        return [name for name, is_here in here.items() if is_here]

    classes = found(config.categorical, columns, offered)
    text = found(_text(config, offered), columns, offered)
    plan = Plan(
        event_categorical=sorted((c for c in classes if c in columns), key=lambda name: name != ITEM_ID),
        item_categorical=[c for c in classes if c not in columns],
        continuous=found(continuous_columns(config), columns, DERIVED_NUMBERS),
        time=[name for name in config.time.features if name in TIME_VALUES],
        bucketised=found(config.bucketise, columns, DERIVED_NUMBERS),
        event_text=[c for c in text if c not in offered],
        item_text=[c for c in text if c in offered],
        multi_valued=[c for c in classes if config.categorical[c].multi_valued],
        context=[c for c in config.context if c in columns],
    )
    for name in config.context:
        if name not in columns and name in classes:
            raise ConfigError(f"etl.context: '{name}' is a column of the commands, not of the events; take it out")
    found(NAMES_ONLY, columns)
    for name in (*plan.item_categorical, *plan.item_text):
        if name in ITEM_TABLE_NAMES:
            raise ConfigError(f"etl: the item table has a column '{name}' of its own; rename it in the commands")
    names = list(dict.fromkeys(absent))
    if len(names) == 1:
        raise missing_column(source, names[0], columns)
    if names:
        named = ", ".join(f"'{m}'" for m in names)
        raise InputError(f"{source}: columns {named} are missing; columns: {', '.join(columns)}")
    return plan


def _text(config: EtlConfig, offered: Sequence[str]) -> list[str]:
    if config.text is not None:
        return config.text
    return [DESCRIPTION] if DESCRIPTION in offered and DESCRIPTION not in config.categorical else []


def check_commands(
    commands: pl.DataFrame, source: object, plan: Plan | None = None, config: EtlConfig | None = None
) -> pl.DataFrame:
    """Commands with item ids as text, each once; `kept` boolean where it is there; the plan's lists as such."""
    if ITEM_ID not in commands.columns:
        raise missing_column(source, ITEM_ID, commands.columns)
    commands = commands.with_columns(pl.col(ITEM_ID).cast(pl.String))
    where = f"{source} (commands)"
    if plan is not None and config is not None:
        commands = commands.with_columns(_attribute(commands[n], plan, config, where) for n in plan.item_categorical)
    twice = commands.filter(pl.col(ITEM_ID).is_duplicated())
    if twice.height:
        name = twice[ITEM_ID][0]
        raise InputError(f"{source}: column '{ITEM_ID}': {name!r} stands twice; keep one row a command")
    if KEPT in commands.columns and commands[KEPT].dtype != pl.Boolean:
        raise InputError(f"{source}: column '{KEPT}' is {commands[KEPT].dtype}; true or false is needed")
    return commands


def _attribute(values: pl.Series, plan: Plan, config: EtlConfig, source: object) -> pl.Series:
    if values.name in plan.multi_valued:
        return as_lists(values, source, config.categorical[values.name].delimiter)
    if values.dtype.is_nested():
        raise InputError(not_plain(source, values.name, values.dtype))
    return values


@dataclass(frozen=True)
class Counts:
    """What one part of the training events adds to the fit; parts merge in any grouping."""

    rows: int = 0
    values: dict[str, pl.DataFrame] = field(default_factory=dict)  # by categorical column: `count_values`
    moments: dict[str, Moments] = field(default_factory=dict)  # by continuous column
    numbers: dict[str, pl.DataFrame] = field(default_factory=dict)  # by column with quantiles: `count_numbers`

    @classmethod
    def merge(cls, parts: Iterable["Counts"]) -> "Counts":
        """Of all parts together."""
        found = list(parts)
        values = {name: merge_counts(tables) for name, tables in _by_name(part.values for part in found).items()}
        numbers = {name: merge_numbers(tables) for name, tables in _by_name(part.numbers for part in found).items()}
        moments = {name: reduce(Moments.merge, some) for name, some in _by_name(p.moments for p in found).items()}
        return cls(sum(part.rows for part in found), values, moments, numbers)


def _by_name(parts: Iterable[Mapping[str, Value]]) -> dict[str, list[Value]]:
    found: dict[str, list[Value]] = {}
    for part in parts:
        for name, value in part.items():
            found.setdefault(name, []).append(value)
    return found


def count_events(events: pl.DataFrame, plan: Plan, config: EtlConfig) -> Counts:
    """Counts of prepared training events."""
    columns = continuous_columns(config)
    scaled = events.select(before_scaling(name, columns[name].transforms) for name in plan.continuous)
    values = {name: count_values(events[name]) for name in plan.event_categorical if name not in plan.multi_valued}
    values |= {name: count_list_values(events[name]) for name in plan.event_lists}
    for name in plan.time:
        ids = events.select(time_id(name, config.time.zone)).to_series()
        values[name] = count_labels(ids, TIME_VALUES[name])
    numbers = {}
    for name in plan.bucketised:
        boundaries = config.bucketise[name].boundaries
        if boundaries is None:
            numbers[name] = count_numbers(events[name])
        else:
            buckets = Buckets(boundaries)
            ids = events.select(buckets.encode(name, bucket_name(name))).to_series()
            values[bucket_name(name)] = count_labels(ids, buckets.labels.to_list())
    moments = {
        name: replace(Moments.of(scaled[name]), infinite=int(events[name].is_infinite().sum()))
        for name in plan.continuous
    }
    return Counts(events.height, values, moments, numbers)

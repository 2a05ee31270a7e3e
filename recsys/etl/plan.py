"""Which columns of a configuration the events and commands have, and the sums that are fitted over them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from recsys.config import EtlConfig
from recsys.errors import ConfigError, InputError, missing_column
from recsys.etl.operators import Moments, before_scaling, count_values, merge_counts
from recsys.schema import DESCRIPTION, INTERVAL, ITEM_ID, SESSION_ID, TIMESTAMP, USER_ID

KEPT = "kept"  # of commands.parquet: False for a rare command, which has no id
NAMES_ONLY = (SESSION_ID, USER_ID, TIMESTAMP)  # columns that identify rows and are no features


@dataclass(frozen=True)
class Plan:
    """The columns in use, item_id first."""

    event_categorical: list[str]  # of the events
    item_categorical: list[str]  # of the commands
    continuous: list[str]  # of the events, or derived (timestamp_interval)
    has_description: bool

    @property
    def numbers(self) -> list[str]:
        """Continuous columns that the events must hold."""
        return [c for c in self.continuous if c != INTERVAL]

    @property
    def required(self) -> list[str]:
        """Columns that events must hold."""
        return [SESSION_ID, TIMESTAMP, *self.event_categorical, *self.numbers]

    def read(self, columns: Sequence[str]) -> list[str]:
        """The columns to read of events that hold `columns`; users are named where they are known."""
        return self.required + [c for c in columns if c == USER_ID]


def check_config(config: EtlConfig) -> None:
    """Raise ConfigError for what cannot be fitted."""
    if ITEM_ID not in config.categorical:
        raise ConfigError(f"etl.categorical: {ITEM_ID} is missing; it is what is predicted")
    for name in [*config.categorical, *config.continuous]:
        if name in NAMES_ONLY:
            raise ConfigError(f"etl: column '{name}' identifies rows and is no feature; add a copy of it")
        if "/" in name or "\0" in name or not name:
            raise ConfigError(f"etl: column {name!r} cannot name a file; rename it")
    both = set(config.categorical) & set(config.continuous)
    if both:
        raise ConfigError(f"etl: column '{min(both)}' is both categorical and continuous")
    if INTERVAL in config.categorical:
        raise ConfigError(f"etl.categorical: {INTERVAL} is a number; list it under continuous")
    for name, column in config.continuous.items():
        if column.transforms not in ([], ["log1p"], ["zscore"], ["log1p", "zscore"]):
            raise ConfigError(
                f"etl.continuous.{name}.transforms: {column.transforms}; use each once, log1p before zscore"
            )


def plan_columns(
    config: EtlConfig, columns: Sequence[str], commands: pl.DataFrame | None, source: object = "events"
) -> Plan:
    """Find each column of the configuration in the events, else (categorical) in the commands.

    Columns in `config.optional` that are nowhere are left out; others raise InputError.
    """
    offered = [] if commands is None else commands.columns
    events, items, numbers, missing = [], [], [], []
    for name in config.categorical:
        if name in columns:
            events.append(name)
        elif name in offered:
            items.append(name)
        elif name not in config.optional:
            missing.append(name)
    for name in config.continuous:
        if name == INTERVAL or name in columns:
            numbers.append(name)
        elif name not in config.optional:
            missing.append(name)
    for name in NAMES_ONLY:
        if name not in columns and name not in config.optional:
            missing.append(name)
    if len(missing) == 1:
        raise missing_column(source, missing[0], columns)
    if missing:
        named = ", ".join(f"'{m}'" for m in missing)
        raise InputError(f"{source}: columns {named} are missing; columns: {', '.join(columns)}")
    events.sort(key=lambda name: name != ITEM_ID)
    return Plan(events, items, numbers, DESCRIPTION in offered)


def check_commands(commands: pl.DataFrame, source: object) -> pl.DataFrame:
    """Commands with item ids as text, each once; `kept` boolean where it is there."""
    if ITEM_ID not in commands.columns:
        raise missing_column(source, ITEM_ID, commands.columns)
    commands = commands.with_columns(pl.col(ITEM_ID).cast(pl.String))
    twice = commands.filter(pl.col(ITEM_ID).is_duplicated())
    if twice.height:
        name = twice[ITEM_ID][0]
        raise InputError(f"{source}: column '{ITEM_ID}': {name!r} stands twice; keep one row a command")
    if KEPT in commands.columns and commands[KEPT].dtype != pl.Boolean:
        raise InputError(f"{source}: column '{KEPT}' is {commands[KEPT].dtype}; true or false is needed")
    return commands


@dataclass(frozen=True)
class Counts:
    """What one part of the training events adds to the fit; parts merge in any grouping."""

    rows: int = 0
    values: dict[str, pl.DataFrame] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)

    @classmethod
    def merge(cls, parts: Iterable["Counts"]) -> "Counts":
        """Of all parts together."""
        total = cls()
        for part in parts:
            values = {
                name: merge_counts([c for c in (total.values.get(name),) if c is not None] + [counts])
                for name, counts in part.values.items()
            }
            moments = {name: total.moments.get(name, Moments()).merge(m) for name, m in part.moments.items()}
            total = cls(total.rows + part.rows, values, moments)
        return total


def count_events(events: pl.DataFrame, plan: Plan, config: EtlConfig) -> Counts:
    """Counts of prepared training events."""
    scaled = events.select(before_scaling(name, config.continuous[name].transforms) for name in plan.continuous)
    return Counts(
        rows=events.height,
        values={name: count_values(events[name]) for name in plan.event_categorical},
        moments={name: Moments.of(scaled[name]) for name in plan.continuous},
    )

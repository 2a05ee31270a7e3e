"""From sums over the training events to ids, statistics and the item table."""

import math
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from recsys.config import EtlConfig
from recsys.errors import InputError
from recsys.etl.fitted import Fitted
from recsys.etl.lists import LISTS, count_list_values, encode_lists
from recsys.etl.operators import (
    COUNT,
    TIME_VALUES,
    Buckets,
    Scaling,
    Vocabulary,
    count_values,
    label_counts,
    quantile_boundaries,
    read_vocabulary,
)
from recsys.etl.plan import KEPT, Counts, Plan, bucket_name, continuous_columns
from recsys.schema import FIRST_ID, ITEM_ID, PADDING_ID


def read_vocabularies(config: EtlConfig) -> dict[str, pl.Series]:
    """The vocabularies that are given as files, by column."""
    given = {}
    for name, column in config.categorical.items():
        if column.vocabulary is not None:
            given[name] = read_vocabulary(Path(column.vocabulary), name, column.vocabulary_column)
    return given


def fit(
    config: EtlConfig,
    seed: int,
    plan: Plan,
    counts: Counts,
    given: dict[str, pl.Series],
    commands: pl.DataFrame | None,
) -> Fitted:
    """Fit all columns of `plan`.

    Args:
        given: vocabularies that `read_vocabularies` gave; they keep items that `commands` says are not kept.
        commands: as `plan.check_commands` gives them.
    """
    vocabularies = {}
    for name in plan.event_categorical:
        dropped = not_kept(commands) if name == ITEM_ID else []
        vocabularies[name] = _vocabulary(config, name, counts.values[name], given, dropped)
    for name in plan.time:
        vocabularies[name] = Vocabulary.given(pl.Series(TIME_VALUES[name]), counts.values[name])
    buckets = {}
    for name in plan.bucketised:
        column = config.bucketise[name]
        if column.boundaries is not None:
            buckets[name] = Buckets(column.boundaries)
            seen = counts.values[bucket_name(name)]
        else:
            buckets[name] = Buckets(quantile_boundaries(counts.numbers[name], column.quantiles or 2))
            seen = label_counts(counts.numbers[name], buckets[name])
        vocabularies[bucket_name(name)] = Vocabulary.given(buckets[name].labels, seen)
    columns, scalings = continuous_columns(config), {}
    for name in plan.continuous:
        scalings[name] = Scaling.fit(columns[name].transforms, counts.moments[name])
    check_scalings(scalings)
    items = _items(plan, vocabularies[ITEM_ID], commands)
    for name in plan.item_categorical:
        known, is_list = items.slice(FIRST_ID), name in plan.multi_valued
        counted = (count_list_values if is_list else count_values)(known[name], known[COUNT])
        vocabularies[name] = attribute = _vocabulary(config, name, counted, given, [])
        # Reserved items have no attributes: what pads an item pads its attributes, and so on.
        reserved, encoder = pl.col("id"), encode_lists(attribute, name) if is_list else attribute.encode(name)
        if is_list:
            reserved = (
                pl.when(reserved > PADDING_ID).then(pl.concat_list("id")).otherwise(pl.lit([], pl.List(pl.Int32)))
            )
        items = items.with_columns(pl.when(pl.col("id") < FIRST_ID).then(reserved).otherwise(encoder).alias(name))
    return Fitted(config, seed, plan, vocabularies, scalings, items, buckets)


def check_scalings(scalings: Mapping[str, Scaling]) -> None:
    """Raise InputError for statistics that are not finite."""
    for name, scaling in scalings.items():
        if not math.isfinite(scaling.mean + scaling.std):
            raise InputError(f"events: column '{name}': its values are too large to be summed; give it another unit")


def _vocabulary(
    config: EtlConfig, name: str, counts: pl.DataFrame, given: dict[str, pl.Series], dropped: list[str]
) -> Vocabulary:
    column = config.categorical[name]
    if name in given:
        return Vocabulary.given(given[name], counts, column.hash_buckets)
    return Vocabulary.fit(counts, column.min_count, dropped, top_k=column.top_k, hash_buckets=column.hash_buckets)


def not_kept(commands: pl.DataFrame | None) -> list[str]:
    """Items that `commands` says have no id."""
    if commands is None or KEPT not in commands.columns:
        return []
    return commands.filter(~pl.col(KEPT))[ITEM_ID].drop_nulls().to_list()


def _items(plan: Plan, vocabulary: Vocabulary, commands: pl.DataFrame | None) -> pl.DataFrame:
    """One row an item id with its count in train, its attributes still as values, and its text."""
    counts = [0, vocabulary.null_count, vocabulary.oov_count, *vocabulary.counts]
    items = pl.DataFrame(
        {"id": range(vocabulary.cardinality), ITEM_ID: vocabulary.decode(), COUNT: counts},
        schema={"id": pl.Int32, ITEM_ID: pl.String, COUNT: pl.Int64},
    )
    wanted = [*plan.item_categorical, *plan.item_text]
    if commands is None or not wanted:
        return items
    kinds = {name: LISTS if name in plan.multi_valued else pl.String for name in wanted}
    extra = commands.select(pl.col(ITEM_ID), *(pl.col(name).cast(kind) for name, kind in kinds.items()))
    return items.join(extra, on=ITEM_ID, how="left", maintain_order="left")

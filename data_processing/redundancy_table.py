"""From measured pairs to decisions: thresholds, exclusions, circles, and what a person decided (overrides)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from data_processing.redundancy_counts import (
    AT_ONCE,
    AT_ONCE_LOW,
    CONFIDENCE,
    CONFIDENCE_LOW,
    COUNT_HIGH,
    COUNT_LOW,
    COUNT_PAIR,
    EXAMPLE,
    LIFT,
    SUPPORT,
    Aligner,
)
from recsys.cleaning.dictionary import nearest_message
from recsys.cleaning.fitting import RedundancyConfig
from recsys.cleaning.redundancy import DECISION, HIGH, LEAVES, LOW, Leavers, RedundantPair, refuse_cycle
from recsys.errors import InputError, nearest
from recsys.schema import ITEM_ID

SOURCE, WHY = "source", "why"
THRESHOLD, EXCLUDED, CYCLE, OVERRIDE = "threshold", "excluded", "cycle", "override"
MEASURES = (COUNT_HIGH, COUNT_LOW, COUNT_PAIR, SUPPORT, CONFIDENCE, CONFIDENCE_LOW, LIFT, AT_ONCE, EXAMPLE)
COLUMNS = (HIGH, LOW, *MEASURES, DECISION, LEAVES, SOURCE, WHY)
Decision = tuple[int, RedundantPair, str]  # row of the file, pair, drop or keep


def decide(
    candidates: pl.DataFrame, config: RedundancyConfig, overrides: Sequence[Decision] = (), path: Path | None = None
) -> pl.DataFrame:
    """The table of pairs with decisions, by confidence, lift and names.

    Args:
        candidates: what `PairCounter.candidates` gives; holds the pairs of `overrides`.
        overrides: rows of the file `path`.

    Raises:
        InputError: overrides that together would drop everything.
    """
    graph = Leavers()
    said = {(pair.high, pair.low): (pair, decision) for _, pair, decision in overrides}
    for row, pair, decision in overrides:
        if decision == "drop":
            refuse_cycle(graph, pair, path or Path("overrides"), row)
    order = [CONFIDENCE, LIFT, HIGH, LOW]
    rows = candidates.sort(order, descending=[True, True, False, False], nulls_last=True).to_dicts()
    decided = []
    for values in rows:
        names = (values[HIGH], values[LOW])
        if names in said:
            pair, decision = said[names]
            verdict: tuple[str, str, str, str] = (decision, pair.drop, OVERRIDE, "; ".join(_lacks(values, config)))
        else:
            verdict = _judge(values, config, graph)
        decided.append({**values, **dict(zip((DECISION, LEAVES, SOURCE, WHY), verdict, strict=True))})
    schema = {**candidates.schema, **dict.fromkeys((DECISION, LEAVES, SOURCE, WHY), pl.String())}
    return pl.DataFrame(decided, schema=schema).select(COLUMNS)


def _judge(values: dict[str, Any], config: RedundancyConfig, graph: Leavers) -> tuple[str, str, str, str]:
    """(decision, who leaves, source, why) of a pair that no override names."""
    lacks = _lacks(values, config)
    if lacks:
        return "keep", config.drop, THRESHOLD, "; ".join(lacks)
    barred = _barred(values, config)
    if barred:
        return "keep", config.drop, EXCLUDED, barred
    pair = RedundantPair(high=values[HIGH], low=values[LOW], drop=config.drop)
    if graph.closes_cycle(pair):
        return "keep", config.drop, CYCLE, f"'{pair.stayer}' already leaves because of '{pair.leaver}'"
    graph.add(pair)
    return "drop", config.drop, THRESHOLD, ""


def _lacks(values: dict[str, Any], config: RedundancyConfig) -> list[str]:
    """The thresholds that a pair misses."""
    limits = (
        (COUNT_HIGH, values[COUNT_HIGH], config.min_count),
        (SUPPORT, values[SUPPORT], config.min_support),
        (CONFIDENCE, values[CONFIDENCE], config.min_confidence),
        (LIFT, values[LIFT] or 0.0, config.min_lift),
        ("share at once (lower bound)", values[AT_ONCE_LOW], config.min_at_once),
    )
    return [f"{name} {value:.4g} under {least:.4g}" for name, value, least in limits if value < least]


def _barred(values: dict[str, Any], config: RedundancyConfig) -> str:
    for column, prefixes in ((HIGH, config.high), (LOW, config.low)):
        if values[column] in config.exclude:
            return f"{column} is in redundancy.exclude"
        if prefixes and not values[column].startswith(tuple(prefixes)):
            return f"{column} starts with none of redundancy.{column}"
    return ""


def unused_names(config: RedundancyConfig, known: Sequence[str], aligner: Aligner | None) -> list[str]:
    """A line for each name or prefix of the profile's section that fits no command; `known`: all commands."""
    lines = []
    present = set(known)
    for name in dict.fromkeys(config.exclude):
        if name not in present:
            label = aligner.apply(pl.DataFrame({ITEM_ID: [name]}))[ITEM_ID][0] if aligner else name
            hint = f"; the dictionary calls it '{label}'" if label in present else nearest_message(name, known)
            lines.append(f"redundancy.exclude of the profile: no event of '{name}'{hint}")
    for field, prefixes in (("high", config.high), ("low", config.low)):
        for prefix in dict.fromkeys(prefixes):
            if not any(name.startswith(prefix) for name in known):
                hint = nearest_message(prefix, {name[: len(prefix)] for name in known})
                lines.append(f"redundancy.{field} of the profile: no command starts with '{prefix}'{hint}")
    return lines


def require_known(overrides: Sequence[Decision], known: Sequence[str], path: Path) -> None:
    """Raise an InputError that names the row for a command that no event has."""
    present = set(known)
    for row, pair, _ in overrides:
        for column, name in ((HIGH, pair.high), (LOW, pair.low)):
            if name not in present:
                hint = nearest(name, known)
                hint = hint if hint.startswith(" (did you mean") else ""
                raise InputError(f"{path}: row {row}: column {column}: no event of '{name}'{hint}")

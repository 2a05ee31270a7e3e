"""Counts of what came in, what left and why, stage by stage; parts merge by addition."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from recsys.errors import InputError


@dataclass
class Stage:
    """One stage: rows_in - sum(removed) = rows_out. `facts` are further figures, summed over parts."""

    rows_in: int = 0
    rows_out: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)


@dataclass
class Funnel:
    """All stages in the order in which they were first met."""

    stages: dict[str, Stage] = field(default_factory=dict)

    def drop(self, stage: str, frame: pl.DataFrame, reason: pl.Series, hidden: pl.Series | None = None) -> pl.DataFrame:
        """Keep the rows of `frame` whose `reason` (String) is null; count the others by reason.

        `hidden` (Boolean): rows that stay although they are counted as gone; no later stage may count them.
        """
        if not frame.height:
            self.count(stage, 0, 0, {})
            return frame
        keep = reason.is_null()
        left = int(keep.sum())
        found = Counter[str]()
        if left < frame.height:
            counts = reason.drop_nulls().value_counts()
            found = Counter(dict(zip(counts[:, 0].to_list(), counts[:, 1].to_list(), strict=True)))
        self.count(stage, frame.height, left, found)
        if hidden is not None:
            keep |= hidden
        return frame if keep.all() else frame.filter(keep)

    def count(self, stage: str, rows_in: int, rows_out: int, removed: dict[str, int], **facts: int) -> None:
        """Add to a stage; the sum must be exact."""
        if rows_in - sum(removed.values()) != rows_out:
            raise AssertionError(f"stage {stage}: {rows_in} rows in, {rows_out} out, {sum(removed.values())} removed")
        entry = self.stages.setdefault(stage, Stage())
        entry.rows_in += rows_in
        entry.rows_out += rows_out
        entry.removed.update(removed)
        entry.facts.update(facts)

    def merge(self, other: "Funnel") -> None:
        """Add the counts of another part."""
        for name, stage in other.stages.items():
            self.count(name, stage.rows_in, stage.rows_out, dict(stage.removed), **stage.facts)

    def require_rows(self, source: object) -> None:
        """Raise when a stage let nothing through, naming it and what it removed."""
        for name, stage in self.stages.items():
            if stage.rows_in and not stage.rows_out:
                why = ", ".join(f"{reason}: {count}" for reason, count in stage.removed.most_common(5))
                raise InputError(f"{source}: no event is left after stage '{name}' ({stage.rows_in} rows in; {why})")

    def to_list(self) -> list[dict[str, Any]]:
        """The stages as JSON, reasons by descending count."""
        return [
            {
                "stage": name,
                "rows_in": stage.rows_in,
                "rows_out": stage.rows_out,
                "removed": dict(sorted(stage.removed.items(), key=lambda pair: (-pair[1], pair[0]))),
                **stage.facts,
            }
            for name, stage in self.stages.items()
        ]

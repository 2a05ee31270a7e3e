"""How new events differ from those that a workflow was fitted on: values, shares, statistics, shapes of sessions.

All is computed from sums that merge over parts: `Counts` of the new events and `Shape`, two histograms. What the old
events were like is read off the fitted workflow, and their shape off the report of its dataset or run.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.errors import InputError
from recsys.etl.fitted import Fitted
from recsys.etl.operators import COUNT, Moments, Scaling
from recsys.etl.plan import Counts, count_events
from recsys.runtime import read_json
from recsys.schema import INTERVAL, ITEM_ID, SESSION_ID

LISTED = 10  # values named in a report; the rest is a number
BINS = 40  # powers of two: 2^39 seconds are 17,000 years
REPORTS = ("report.json", "dataset.json")  # of a dataset, of a run
PROFILE, DRIFT = "profile", "drift"  # keys of report.json


def _zeros() -> npt.NDArray[np.int64]:
    return np.zeros(BINS, dtype=np.int64)


@dataclass(frozen=True)
class Shape:
    """Histograms over powers of two; they merge by addition.

    `lengths`: sessions of 2^k .. 2^(k+1) - 1 events in bin k. `intervals`: events (but each session's first) less
    than 1 s after the one before in bin 0, from 2^(k-1) s to below 2^k s in bin k.
    """

    lengths: npt.NDArray[np.int64] = field(default_factory=_zeros)
    intervals: npt.NDArray[np.int64] = field(default_factory=_zeros)

    @classmethod
    def of(cls, prepared: pl.DataFrame) -> Self:
        """Of whole sessions, as `Workflow.prepare` gives them."""
        if not prepared.height:
            return cls()
        starts = prepared.select((pl.col(SESSION_ID) != pl.col(SESSION_ID).shift(1)).fill_null(True)).to_series()
        first = starts.arg_true().to_numpy()
        gaps = prepared[INTERVAL].filter(~starts).to_numpy()
        lengths = np.frexp(np.diff(first, append=prepared.height).astype(np.float64))[1] - 1
        return cls(_histogram(lengths), _histogram(np.frexp(gaps)[1]))

    def merge(self, other: "Shape") -> "Shape":
        """Of both parts together."""
        return Shape(self.lengths + other.lengths, self.intervals + other.intervals)

    def report(self) -> dict[str, list[int]]:
        """As JSON, without the empty bins at the end."""
        return {"session_lengths": _trimmed(self.lengths), "interval_seconds": _trimmed(self.intervals)}

    @classmethod
    def from_report(cls, values: dict[str, list[int]]) -> Self:
        """What `report` gave."""
        return cls(_padded(values["session_lengths"]), _padded(values["interval_seconds"]))


@dataclass(frozen=True)
class Measured:
    """What one part of the events adds to `profile` and `drift` of a report; parts merge in any grouping."""

    shape: Shape = field(default_factory=Shape)
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def of(cls, prepared: pl.DataFrame, reference: Fitted | None) -> Self:
        """Of whole sessions, as `Workflow.prepare` gives them; counts only where there is something to compare with."""
        counts = Counts() if reference is None else count_events(prepared, reference.plan, reference.config)
        return cls(Shape.of(prepared), counts)

    def merge(self, other: "Measured") -> "Measured":
        """Of both parts together."""
        return Measured(self.shape.merge(other.shape), Counts.merge([self.counts, other.counts]))

    def report(self, reference: Fitted | None, before: Shape | None) -> dict[str, Any]:
        """Keys of report.json: `profile`, and `drift` from `reference`, whose events were of the shape `before`."""
        found: dict[str, Any] = {PROFILE: self.shape.report()}
        return found if reference is None else found | {DRIFT: drift(reference, self.counts, self.shape, before)}


def read_shape(workflow: Path) -> Shape | None:
    """The shape of the events of the dataset or run that `workflow` (its folder, or theirs) belongs to, if noted."""
    for folder in (workflow, workflow.parent):
        for path in (folder / name for name in REPORTS):
            if path.is_file():
                values = read_json(path).get(PROFILE)
                if values is None:
                    return None
                try:
                    return Shape.from_report(values)
                except (KeyError, TypeError, ValueError) as error:
                    raise InputError(f"{path}: '{PROFILE}' is damaged ({error!r}); preprocess anew") from error
    return None


def drift(old: Fitted, counts: Counts, now: Shape | None = None, before: Shape | None = None) -> dict[str, Any]:
    """Compare new events with those that `old` was fitted on.

    Distances are Jensen-Shannon's, the square root of the divergence in bits: 0 equal, 1 nothing in common. A column's
    is over its values, null, and one class for all values without an id; few events alone make it larger than 0.

    Args:
        counts: of the new events, by the plan of `old`.
        now: their shape. Together with `before`, that of the old events.
    """
    report: dict[str, Any] = {"events": counts.rows, "columns": {}, "numbers": {}}
    for name in old.plan.classes:
        report["columns"][name] = _column(old, name, old.class_counts(counts, name))
    for name in old.plan.continuous:
        report["numbers"][name] = _number(old.scalings[name], counts.moments.get(name, Moments()), old.rows)
    for name, attribute in _SHAPES.items():
        known = now is not None and before is not None
        distance = js_distance(getattr(before, attribute), getattr(now, attribute)) if known else math.nan
        report[name] = {"js_distance": _rounded(distance)}
    return report


def js_distance(one: Sequence[int] | npt.NDArray[np.int64], other: Sequence[int] | npt.NDArray[np.int64]) -> float:
    """Jensen-Shannon distance of two lists of counts over the same classes: in [0, 1]; nan where one is empty.

    ``sqrt((KL(p || m) + KL(q || m)) / 2)``, m = (p + q) / 2, logarithms to base 2 (Endres and Schindelin, 2003).
    """
    p, q = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if not p.sum() or not q.sum():
        return math.nan
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    total = 0.0
    for share in (p, q):
        some = share > 0
        total += float(np.sum(share[some] * np.log2(share[some] / middle[some])))
    return math.sqrt(min(1.0, max(0.0, total / 2)))


def summary(report: dict[str, Any]) -> list[str]:
    """What `drift` found, in a few lines."""
    item, events = report["columns"][ITEM_ID], report["events"]
    if not events:
        return ["no events to compare"]
    new, gone = item["new_values"], item["vanished"]
    lines = [f"{new['count']} items have no id, with {new['share']:.1%} of {events} events{_named(new)}"]
    if gone["count"]:
        lines.append(f"{gone['count']} items do not occur, which had {gone['share']:.1%} of the old events")
    distances = [(name, column["js_distance"]) for name, column in report["columns"].items()]
    distances += [(name.replace("_", " "), report[name]["js_distance"]) for name in _SHAPES]
    known = [f"{name} {distance:.2f}" for name, distance in distances if distance is not None]
    lines.append(f"distance of the distributions (0 equal, 1 disjoint): {', '.join(known)}")
    moved = [(n, v["standardised_difference"]) for n, v in report["numbers"].items()]
    means = [f"{name} {value:+.2f}" for name, value in moved if value is not None]
    return [*lines, f"means moved by, in old standard deviations: {', '.join(means)}"] if means else lines


_SHAPES = {"session_lengths": "lengths", "interval_seconds": "intervals"}


def _named(new: dict[str, Any]) -> str:
    found = ", ".join(f"{row['value']!r} {row['count']}" for row in new["most_frequent"][:3])
    return f" (most: {found})" if found else ""


def _column(old: Fitted, name: str, counts: pl.DataFrame) -> dict[str, Any]:
    vocabulary, events = old.vocabularies[name], int(counts[COUNT].sum())
    known = pl.DataFrame([vocabulary.values.alias("value"), vocabulary.counts.alias("before")])
    both = known.join(counts, on="value", how="left", maintain_order="left").with_columns(pl.col(COUNT).fill_null(0))
    nulls = int(counts.filter(pl.col("value").is_null())[COUNT].sum())
    new = counts.drop_nulls("value").join(known, on="value", how="anti")
    gone = both.filter((pl.col("before") > 0) & (pl.col(COUNT) == 0))
    before = [*vocabulary.counts, vocabulary.null_count, vocabulary.oov_count]
    unknown, total = int(new[COUNT].sum()), sum(before)
    return {
        "null_share": {"before": _share(vocabulary.null_count, total), "now": _share(nulls, events)},
        "unknown_share": {"before": _share(vocabulary.oov_count, total), "now": _share(unknown, events)},
        "new_values": {"count": new.height, "share": _share(unknown, events), "most_frequent": _top(new, COUNT)},
        "vanished": {
            "count": gone.height,
            "share": _share(int(gone["before"].sum()), total),
            "most_frequent": _top(gone, "before"),
        },
        "js_distance": _rounded(js_distance(before, [*both[COUNT], nulls, unknown])),
    }


def _number(old: Scaling, now: Moments, rows: int) -> dict[str, Any]:
    moved = (now.mean - old.mean) / old.std if now.n and not old.is_constant else None
    return {
        "mean": {"before": old.mean, "now": now.mean if now.n else None},
        "std": {"before": old.std, "now": now.std if now.n else None},
        "standardised_difference": None if moved is None else _rounded(moved),
        "missing_share": {"before": _share(old.missing, rows), "now": _share(now.missing, now.n + now.missing)},
    }


def _rounded(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _share(part: int, total: int) -> float:
    return round(part / total, 6) if total else 0.0


def _top(frame: pl.DataFrame, by: str) -> list[dict[str, Any]]:
    ordered = frame.sort([by, "value"], descending=[True, False]).head(LISTED)
    return ordered.select("value", pl.col(by).alias("count")).to_dicts()


def _histogram(bins: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    return np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS).astype(np.int64)


def _trimmed(bins: npt.NDArray[np.int64]) -> list[int]:
    used = np.flatnonzero(bins)
    return [int(n) for n in bins[: used[-1] + 1]] if len(used) else []


def _padded(counts: Iterable[int]) -> npt.NDArray[np.int64]:
    given = [int(n) for n in counts]
    return np.array([*given, *[0] * (BINS - len(given))], dtype=np.int64)

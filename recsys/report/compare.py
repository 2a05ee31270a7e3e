"""Section that sets a run beside others on the same positions: what a part of the model is worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys.config import RunConfig
from recsys.errors import RunError
from recsys.metrics import bootstrap_interval, position_metrics
from recsys.report.blocks import Cell, Section, Table, between, count, figure, metric_name, signed
from recsys.report.contents import MODEL, RANK, Contents, read_contents

METRICS = ("recall@10", "ndcg@10")
_SAME = ("row", "session_id", "position", "target")


def compare_section(contents: Contents, others: Sequence[Path]) -> Section:
    """The run's figures beside those of `others`, with the difference paired by position.

    Raises:
        RunError: a run without predictions, or measured on other positions.
    """
    rows = [_row(contents, contents)]
    for path in others:
        other = read_contents(path)
        _require_same_positions(contents, other, path)
        rows.append(_row(contents, other))
    header = ["Run", "Differs in"]
    for metric in METRICS:
        header += [metric_name(metric), "this run is better by"]
    return Section(
        key="compare",
        title="Beside other runs",
        lead="The same test positions scored by runs that differ in the settings named. Intervals are 95 %, of the "
        "difference paired by position, resampled by group.",
        tables=[Table("This run and others", header, rows)],
    )


def _row(this: Contents, other: Contents) -> list[Cell]:
    found = [Cell(other.name, strong=other is this), Cell("this run" if other is this else differences(this, other))]
    for metric in METRICS:
        ours, theirs = _values(this, metric), _values(other, metric)
        found.append(Cell(figure(theirs.mean()), float(theirs.mean())))
        if other is this:
            found.append(Cell(""))
            continue
        gain = ours - theirs
        assert this.predictions is not None
        samples = this.config.evaluation.bootstrap_samples
        groups = this.predictions["group"].to_numpy()
        interval = bootstrap_interval(gain, groups, samples, this.config.seed) if samples else None
        found.append(Cell(signed(gain.mean()), float(gain.mean()), between(interval)))
    return found


def _values(contents: Contents, metric: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    assert contents.predictions is not None
    return position_metrics(contents.predictions[RANK + MODEL].to_numpy(), ks=(int(metric.partition("@")[2]),))[metric]


def _require_same_positions(this: Contents, other: Contents, path: Path) -> None:
    if this.predictions is None or other.predictions is None:
        missing = this.name if this.predictions is None else path
        raise RunError(f"{missing}: not evaluated yet; run `recsys evaluate` before comparing")
    for column in _SAME:
        if not this.predictions[column].equals(other.predictions[column]):
            sizes = f"{count(len(other.predictions))} positions, this run {count(len(this.predictions))}"
            raise RunError(
                f"{path}: was measured on other positions ('{column}' differs; {sizes}); evaluate both alike"
            )


def differences(this: Contents, other: Contents) -> str:
    """Settings in which another run's configuration differs: ``model.inputs.fusion: sum``."""
    ours, theirs = _flat(this.config), _flat(other.config)
    changed = [f"{key}: {_plain(theirs.get(key))}" for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    return "; ".join(changed) or "nothing"


def _flat(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(prefix: str, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                walk(f"{prefix}{key}.", value)
            else:
                found[prefix + key] = value

    walk("", config.model_dump(mode="json"))
    return found


def _plain(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(v, dict) for v in value):
        return ", ".join(f"{v.get('column')} ({v.get('weight')})" for v in value) or "none"
    return "none" if value is None else str(value)

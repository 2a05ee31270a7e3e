"""Train a list of variants of one run and set them in one table, with intervals, beside the first of them.

example:
  python -m model.ablations --grid configs/ablations/visual_studio.yaml --data out/dataset --out out/ablations

The grid is a YAML:

  base: ../visual_studio.yaml          a run's YAML, beside the grid
  set: {training.epochs: 5}            for all
  seeds: [0, 1]
  runs:                                the first is what the others are compared with
    full: {}
    without fusion: {model.inputs.fusion: sum}
  grid:                                and every combination of these
    model.backbone.name: [gru, sasrec]

Without `seeds` the seed is a setting as any other, which `grid` can vary. Runs that are there are kept where their
configuration, data and text table are the same, so that a killed table goes on; others are trained again. Positions are
averaged over seeds; differences are paired by position, intervals (95 %) resample whole groups.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from model.recipe import changed, count_trained, run_unless_kept
from recsys.config import RunConfig, StrictModel, parse, read_yaml
from recsys.errors import ConfigError
from recsys.runtime import atomic_file, command_line

METRICS = ("recall@10", "ndcg@10")


class Grid(StrictModel):
    """What is compared."""

    base: str
    set: dict[str, Any] = Field(default_factory=dict)
    seeds: list[int] | None = Field(default=None, min_length=1)  # None: the run's own
    runs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _holds_some(self) -> "Grid":
        if not self.runs and not self.grid:
            raise ValueError("give runs, a grid, or both")
        if self.seeds is not None and any("seed" in changes for changes in (self.set, *self.variants().values())):
            raise ValueError("seed is set and seeds are given; leave one of them out")
        return self

    def variants(self) -> dict[str, dict[str, Any]]:
        """Changes by the variant's name."""
        found = dict(self.runs)
        if self.grid:
            for values in product(*self.grid.values()):
                changes = dict(zip(self.grid, values, strict=True))
                found[", ".join(f"{key.split('.')[-2:][0]}: {value}" for key, value in changes.items())] = changes
        return found


@dataclass(frozen=True)
class Row:
    """One variant: its runs, one a seed, and their figures."""

    name: str
    runs: list[Path]
    trained_parameters: int
    cpu_seconds: float
    figures: dict[str, Any] = field(default_factory=dict)


def configurations(path: Path) -> dict[str, list[RunConfig]]:
    """The configuration of every variant and seed; all of them are checked before the first is trained."""
    grid = parse(Grid, read_yaml(path), path)
    base = read_yaml(path.parent / grid.base)
    found = {}
    for name, changes in grid.variants().items():
        source = f"{path}: {name}"
        values = changed(base, grid.set | changes, source)
        seeds = [{}] if grid.seeds is None else [{"seed": seed} for seed in grid.seeds]
        found[name] = [parse(RunConfig, values | seed, source) for seed in seeds]
    return found


def train_variants(data: Path, variants: dict[str, list[RunConfig]], out: Path) -> list[Row]:
    """Train and evaluate what is not there yet."""
    rows = []
    for number, (name, configs) in enumerate(variants.items()):
        places = [out / f"{number:02d}-{_slug(name)}-seed{config.seed}" for config in configs]
        runs = [run_unless_kept(name, data, config, path) for config, path in zip(configs, places, strict=True)]
        seconds = sum(float(d.read_json(d.history_file)["cpu_seconds"]) for d in runs) / len(runs)
        rows.append(Row(name, places, count_trained(runs[0]), seconds))
    return rows


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"


def measure(rows: Sequence[Row]) -> None:
    """Fill in the figures: means over positions and seeds, and differences from the first row."""
    import polars as pl

    from recsys.metrics import bootstrap_interval, position_metrics

    values: list[dict[str, Any]] = []
    first: pl.DataFrame | None = None
    for row in rows:
        tables = [pl.read_parquet(path / "predictions.parquet") for path in row.runs]
        first = tables[0] if first is None else first
        for table, path in zip(tables, row.runs, strict=True):
            for column in ("session_id", "position", "target"):
                if not table[column].equals(first[column]):
                    raise ConfigError(f"{path}: was measured on other positions than {rows[0].runs[0]}")
        ranks = [table["rank_model"].to_numpy() for table in tables]
        values.append({m: sum(position_metrics(r, ks=(10,))[m] for r in ranks) / len(ranks) for m in METRICS})
    assert first is not None
    groups = first["group"].to_numpy()
    for row, mine in zip(rows, values, strict=True):
        for metric in METRICS:
            row.figures[metric] = float(mine[metric].mean())
            row.figures[f"{metric}_interval"] = bootstrap_interval(mine[metric], groups)
            if row is not rows[0]:
                gain = mine[metric] - values[0][metric]
                row.figures[f"{metric}_difference"] = float(gain.mean())
                row.figures[f"{metric}_difference_interval"] = bootstrap_interval(gain, groups)


def as_markdown(rows: Sequence[Row]) -> str:
    """The table."""
    header = ["run", "trained parameters", "CPU s"]
    for metric in METRICS:
        header += [metric, f"against {rows[0].name}"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        cells = [row.name, f"{row.trained_parameters:,}", f"{row.cpu_seconds:,.0f}"]
        for metric in METRICS:
            cells.append(f"{row.figures[metric]:.4f} {_between(row.figures[f'{metric}_interval'], '.3f')}")
            gain = row.figures.get(f"{metric}_difference")
            interval = row.figures.get(f"{metric}_difference_interval")
            cells.append("" if gain is None or interval is None else f"{gain:+.4f} {_between(interval, '+.4f')}")
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _between(interval: tuple[float, float], form: str) -> str:
    return f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def ablations(grid: Path, data: Path, out: Path) -> list[Row]:
    """Train, measure, and write ``OUT/ablations.md`` and ``OUT/ablations.json``."""
    rows = train_variants(data, configurations(grid), out)
    measure(rows)
    facts = [vars(row) | {"runs": [path.name for path in row.runs]} for row in rows]
    for name, text in (("ablations.md", as_markdown(rows)), ("ablations.json", json.dumps(facts, indent=2) + "\n")):
        with atomic_file(out / name) as path:
            path.write_text(text, encoding="utf-8")
    return rows


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.ablations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=Path, required=True, help="YAML of what is compared")
    parser.add_argument("--data", type=Path, required=True, help="sequence dataset from `recsys preprocess`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    return parser.parse_args(arguments)


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Run it and print the table."""
    options = parse_arguments(arguments)
    print(as_markdown(ablations(options.grid, options.data, options.out)), end="")


if __name__ == "__main__":
    raise SystemExit(main())

"""What of a run directory the report reads; every part beside the configuration may be missing."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from recsys.config import RunConfig
from recsys.errors import RunError, missing_column, one_line
from recsys.run_directory import RunDirectory

PREDICTIONS = "predictions.parquet"
RANK = "rank_"
MODEL = "model"
_PREDICTION_COLUMNS = ("group", "position", "is_last", "target", "top1", f"{RANK}{MODEL}")

Metrics = dict[str, Any]
"""One system's entry in metrics.json: figures, and intervals as ``<figure>_interval``."""


class _Shape(BaseModel):
    """What the page relies on of a JSON file; further keys may stand beside it."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Record(_Shape):
    step: int | float


class _History(_Shape):
    train: list[dict[str, Any]] = []
    validation: list[_Record] = []


class _Split(_Shape):
    positions: dict[str, dict[str, dict[str, float | list[float] | None]]] = {}


class _Metrics(_Shape):
    protocol: dict[str, Any] = {}
    splits: dict[str, _Split] = {}


class _Stage(_Shape):
    stage: str
    rows_in: int
    rows_out: int
    removed: dict[str, int] = {}


class _Cleaning(_Shape):
    stages: list[_Stage] = []
    result: dict[str, Any] = {}


class _DatasetSplit(_Shape):
    dropped_events: dict[str, int] = {}


class _Dataset(_Shape):
    splits: dict[str, _DatasetSplit] = {}
    split: dict[str, Any] = {}
    warnings: list[Any] = []


class _FirstBatch(_Shape):
    sequences: int
    events: int


class _Memory(_Shape):
    parameters: int
    trainable: int
    first_batch: _FirstBatch
    measured: dict[str, int]
    planned: dict[str, int | dict[str, int]] | None = None


@dataclass(frozen=True)
class Items:
    """Names and training counts by item id: ``names[id]`` (None: reserved), ``counts [V]``."""

    names: list[str | None]
    counts: np.ndarray[Any, np.dtype[np.int64]]

    def name(self, item: int) -> str:
        """The command's name, or what stands for it."""
        found = self.names[item] if 0 <= item < len(self.names) else None
        return f"(id {item}, no name)" if found is None else found


@dataclass(frozen=True)
class Contents:
    """A run's files, read and checked; None where a file is missing."""

    name: str
    config: RunConfig
    history: dict[str, Any] | None
    metrics: dict[str, Any] | None
    predictions: pl.DataFrame | None
    items: Items | None
    environment: dict[str, Any] | None
    cleaning: dict[str, Any] | None
    dataset: dict[str, Any] | None
    parameters: int | None
    memory: dict[str, Any] | None = None

    @property
    def protocol(self) -> dict[str, Any]:
        """What the figures depend on; empty without metrics.json."""
        found: dict[str, Any] = (self.metrics or {}).get("protocol", {})
        return found

    def split(self) -> str | None:
        """The split whose figures are shown: test where it was evaluated, else the first."""
        splits = (self.metrics or {}).get("splits", {})
        return "test" if "test" in splits else next(iter(splits), None)

    def systems(self, positions: str = "all") -> dict[str, Metrics]:
        """Figures by system over ``all`` or ``last`` positions, the model first; empty without metrics.json."""
        split = self.split()
        if self.metrics is None or split is None:
            return {}
        found = self.metrics["splits"][split].get("positions", {}).get(positions, {})
        systems = {name: values for name, values in found.items() if isinstance(values, dict)}
        return {name: systems[name] for name in sorted(systems, key=lambda n: n != MODEL)}


def read_contents(path: Path) -> Contents:
    """Read the run at `path`.

    Raises:
        RunError: no run directory, or a file of it that cannot be read (names it).
    """
    run = RunDirectory(path)
    config = run.load_config()
    items = _read_items(run.workflow / "items.parquet")
    return Contents(
        name=path.resolve().name,
        config=config,
        history=_read_json(run, run.history_file, _History),
        metrics=_read_json(run, run.metrics_file, _Metrics),
        predictions=_read_predictions(path / PREDICTIONS, items),
        items=items,
        environment=_read_json(run, run.environment_file),
        cleaning=_read_json(run, run.cleaning / "report.json", _Cleaning),
        dataset=_read_json(run, run.dataset_report, _Dataset),
        parameters=_count_parameters(run.weights),
        memory=_read_json(run, run.memory_file, _Memory),
    )


def _read_json(run: RunDirectory, path: Path, shape: type[BaseModel] | None = None) -> dict[str, Any] | None:
    """A JSON file of the run as it is, after a check that what the page draws has the `shape` it needs."""
    if not path.is_file():
        return None
    values = run.read_json(path)
    if shape is not None:
        try:
            shape.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for p in first["loc"])
            raise RunError(f"{path}: {where}: {first['msg']} (damaged?); write it again") from error
    return values


def _read_table(path: Path, columns: tuple[str, ...]) -> pl.DataFrame | None:
    if not path.is_file():
        return None
    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise RunError(f"{path}: not a Parquet table: {one_line(error)}") from error
    for column in columns:
        if column not in table.columns:
            raise missing_column(path, column, table.columns)
    return table


def _read_items(path: Path) -> Items | None:
    table = _read_table(path, ("id", "item_id", "count"))
    if table is None:
        return None
    table = table.sort("id")
    return Items(table["item_id"].cast(pl.String).to_list(), table["count"].fill_null(0).cast(pl.Int64).to_numpy())


def _read_predictions(path: Path, items: Items | None) -> pl.DataFrame | None:
    table = _read_table(path, _PREDICTION_COLUMNS)
    if table is None or not table.height:
        return None
    largest = int(table.select(pl.max_horizontal(pl.col("target", "top1").max())).item())
    if items is not None and largest >= len(items.names):
        raise RunError(f"{path}: item id {largest}, but workflow/items.parquet ends at {len(items.names) - 1}")
    # Dense numbers instead of texts: the bootstrap only asks which positions go together.
    return table.with_columns(pl.col("group").rank("dense").cast(pl.Int64).alias("group"))


def _count_parameters(path: Path) -> int | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as weights:
            return sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise RunError(f"{path}: not a safetensors file: {error}") from error

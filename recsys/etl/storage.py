"""A fitted workflow on disk: workflow.json, items.parquet and unique.<column>.parquet (NVTabular's shape)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recsys.config import EtlConfig, parse
from recsys.errors import SchemaError, missing_column, one_line
from recsys.etl.operators import COUNT, Scaling, Vocabulary
from recsys.etl.plan import Plan
from recsys.schema import FIRST_ID, ITEM_ID, Schema, Scope

VERSION = 1
WORKFLOW_FILE = "workflow.json"
ITEMS_FILE = "items.parquet"


def vocabulary_file(column: str) -> str:
    """Name of the file that holds the values of `column`, in id order."""
    return f"unique.{column}.parquet"


@dataclass(frozen=True)
class Fitted:
    """All that a fitted workflow is."""

    config: EtlConfig
    seed: int
    plan: Plan
    vocabularies: dict[str, Vocabulary]
    scalings: dict[str, Scaling]
    items: pl.DataFrame


def save(folder: Path, fitted: Fitted, schema: Schema) -> None:
    """Write `fitted` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabularies = fitted.vocabularies
    for name, vocabulary in vocabularies.items():
        size = vocabulary.counts.rename(f"{name}_size")
        pl.DataFrame([vocabulary.values.rename(name), size]).write_parquet(folder / vocabulary_file(name))
    fitted.items.write_parquet(folder / ITEMS_FILE)
    values = {
        "version": VERSION,
        "seed": fitted.seed,
        "config": fitted.config.model_dump(mode="json"),
        "reserved_counts": {n: {"null": v.null_count, "oov": v.oov_count} for n, v in vocabularies.items()},
        "schema": schema.model_dump(mode="json"),
    }
    text = json.dumps(values, indent=2, ensure_ascii=False)
    (folder / WORKFLOW_FILE).write_text(text + "\n", encoding="utf-8")


def load(folder: Path) -> Fitted:
    """Read what `save` wrote, and check that the files belong together."""
    path = folder / WORKFLOW_FILE
    if not path.is_file():
        raise SchemaError(f"{path}: no such file; give the workflow/ folder of a data set or run")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] != VERSION:
            raise SchemaError(f"{path}: version {values['version']}; this program reads version {VERSION}")
        config = parse(EtlConfig, values["config"], path)
        schema = Schema.model_validate(values["schema"])
        seed, reserved = int(values["seed"]), values["reserved_counts"]
    except SchemaError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise SchemaError(f"{path}: not a saved workflow: {one_line(error)}") from error
    vocabularies, scalings = {}, {}
    for column in schema.columns:
        if column.vocabulary is not None:
            vocabulary = _load_vocabulary(folder, column.name, reserved.get(column.name, {}))
            if vocabulary.sha256 != column.vocabulary_sha256:
                file = folder / vocabulary_file(column.name)
                raise SchemaError(f"{file}: other values than workflow.json was saved with")
            vocabularies[column.name] = vocabulary
        elif column.name in config.continuous:
            numbers = column.statistics
            transforms = config.continuous[column.name].transforms
            scalings[column.name] = Scaling(list(transforms), numbers["mean"], numbers["std"])
    plan = Plan(
        event_categorical=[c.name for c in schema.columns if c.vocabulary and c.scope is Scope.EVENT],
        item_categorical=[c.name for c in schema.columns if c.vocabulary and c.scope is Scope.ITEM],
        continuous=list(scalings),
        has_description=any(c.scope is Scope.ITEM and not c.vocabulary for c in schema.columns),
    )
    items = _load_items(folder / ITEMS_FILE, plan, vocabularies)
    return Fitted(config, seed, plan, vocabularies, scalings, items)


def _read(path: Path, columns: list[str]) -> pl.DataFrame:
    if not path.is_file():
        raise SchemaError(f"{path}: no such file; the workflow folder is incomplete")
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SchemaError(f"{path}: not a readable Parquet file: {one_line(error)}") from error
    for column in columns:
        if column not in table.columns:
            raise SchemaError(str(missing_column(path, column, table.columns)))
    return table


def _load_vocabulary(folder: Path, name: str, reserved: dict[str, Any]) -> Vocabulary:
    path = folder / vocabulary_file(name)
    table = _read(path, [name, f"{name}_size"])
    values = table[name].cast(pl.String)
    if values.null_count():
        row = int(values.is_null().arg_true()[0])
        raise SchemaError(f"{path}: row {row + 1}: no value; ids must have no gap")
    if values.n_unique() < len(values):
        row = int((~values.is_first_distinct()).arg_true()[0])
        raise SchemaError(f"{path}: row {row + 1}: {values[row]!r} stands twice; an id must be one value's")
    counts = table[f"{name}_size"].cast(pl.Int64)
    return Vocabulary(
        values.alias("value"), counts.alias(COUNT), int(reserved.get("null", 0)), int(reserved.get("oov", 0))
    )


def _load_items(path: Path, plan: Plan, vocabularies: dict[str, Vocabulary]) -> pl.DataFrame:
    items = _read(path, ["id", ITEM_ID, COUNT, *plan.item_categorical])
    ids, names, values = items["id"].to_list(), items[ITEM_ID].to_list(), vocabularies[ITEM_ID].decode()
    for row, (number, name, value) in enumerate(zip(ids, names, values, strict=False)):
        where = f"{path}: row {row + 1}"
        if number != row:
            raise SchemaError(f"{where}: id {number}, expected {row}; ids must have no gap and no double")
        if name != value:
            raise SchemaError(f"{where}: item {name!r}, but {vocabulary_file(ITEM_ID)} has {value!r}")
    if len(ids) != FIRST_ID + len(vocabularies[ITEM_ID].values):
        raise SchemaError(f"{path}: {len(ids)} rows for {vocabularies[ITEM_ID].cardinality} ids of {ITEM_ID}")
    for name in plan.item_categorical:
        size = vocabularies[name].cardinality
        wrong = (items[name].is_null() | ~items[name].is_between(0, size - 1)).arg_true()
        if len(wrong):
            at = int(wrong[0])
            raise SchemaError(f"{path}: row {at + 1}: column '{name}': id {items[name][at]} is not in 0 .. {size - 1}")
    return items

"""A fitted workflow on disk: workflow.json, items.parquet; unique.<column>.parquet, schema.pbtxt (Merlin's shapes)."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from recsys.config import EtlConfig, parse
from recsys.errors import SchemaError, missing_column, one_line
from recsys.etl.fitted import Ancestor, Fitted, vocabulary_file
from recsys.etl.merlin import write_schema_pbtxt
from recsys.etl.operators import COUNT, Buckets, Scaling, Vocabulary
from recsys.etl.plan import Plan, continuous_columns
from recsys.schema import FIRST_ID, ITEM_ID, TIMESTAMP, Column, Kind, Schema, Scope

VERSION = 1
WORKFLOW_FILE = "workflow.json"
ITEMS_FILE = "items.parquet"


def save(folder: Path, fitted: Fitted) -> None:
    """Write `fitted` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabularies = fitted.vocabularies
    for name, vocabulary in vocabularies.items():
        size = vocabulary.counts.rename(f"{name}_size")
        pl.DataFrame([vocabulary.values.rename(name), size]).write_parquet(folder / vocabulary_file(name))
    fitted.items.write_parquet(folder / ITEMS_FILE)
    write_schema_pbtxt(fitted.schema, folder)
    (folder / WORKFLOW_FILE).write_text(as_json(fitted), encoding="utf-8")


def as_json(fitted: Fitted) -> str:
    """What workflow.json holds: all but the values, their counts and the items."""
    vocabularies = fitted.vocabularies
    values = {
        "version": VERSION,
        "ancestry": [asdict(ancestor) for ancestor in fitted.ancestry],
        "seed": fitted.seed,
        "config": fitted.config.model_dump(mode="json"),
        "reserved_counts": {n: {"null": v.null_count, "oov": v.oov_count} for n, v in vocabularies.items()},
        "number_counts": {n: {"missing": s.missing, "infinite": s.infinite} for n, s in fitted.scalings.items()},
        "schema": fitted.schema.model_dump(mode="json"),
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def fingerprint(fitted: Fitted) -> str:
    """SHA-256 of the workflow.json that `save` writes."""
    return hashlib.sha256(as_json(fitted).encode()).hexdigest()


def workflow_folder(path: Path) -> Path:
    """The folder of a saved workflow, given itself or the dataset or run that holds it."""
    folders = (path, path / "workflow")
    for folder in folders:
        if (folder / WORKFLOW_FILE).is_file():
            return folder
    raise SchemaError(f"{path / WORKFLOW_FILE}: no such file; give a dataset, a run or its workflow/ folder")


def load(folder: Path) -> Fitted:
    """Read what `save` wrote (`workflow_folder` of `folder`), and check that the files belong together."""
    folder = workflow_folder(folder)
    path = folder / WORKFLOW_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] != VERSION:
            raise SchemaError(f"{path}: version {values['version']}; this program reads version {VERSION}")
        config = parse(EtlConfig, values["config"], path)
        schema = Schema.model_validate(values["schema"])
        ancestry = [Ancestor(str(a["sha256"]), dict(a["cardinalities"])) for a in values.get("ancestry", [])]
        seed, reserved, numbers = int(values["seed"]), values["reserved_counts"], values["number_counts"]
        scalings = {c.name: _scaling(c, config, numbers[c.name]) for c in schema.select(kind=Kind.CONTINUOUS)}
    except SchemaError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise SchemaError(f"{path}: not a saved workflow: {one_line(error)}") from error
    vocabularies = {}
    for column in schema.select(kind=Kind.CATEGORICAL):
        vocabulary = _load_vocabulary(folder, column, reserved.get(column.name, {}))
        if vocabulary.sha256 != column.vocabulary_sha256:
            file = folder / vocabulary_file(column.name)
            raise SchemaError(f"{file}: other values than workflow.json was saved with")
        vocabularies[column.name] = vocabulary
    plan = _plan(schema, config)
    items = _load_items(folder / ITEMS_FILE, plan, vocabularies)
    made = (c for c in schema.columns if c.boundaries is not None and c.source is not None)
    buckets = {str(c.source): Buckets(c.boundaries or []) for c in made}
    return Fitted(config, seed, plan, vocabularies, scalings, items, buckets, ancestry)


def train_counts(folder: Path, name: str) -> list[float]:
    """How often each id of a categorical column of the workflow in `folder` occurs in train."""
    return load(folder).id_counts(name)


def _scaling(column: Column, config: EtlConfig, counts: dict[str, int]) -> Scaling:
    transforms, numbers = continuous_columns(config)[column.name].transforms, column.statistics
    return Scaling(list(transforms), numbers["mean"], numbers["std"], counts["missing"], counts["infinite"])


def _plan(schema: Schema, config: EtlConfig) -> Plan:
    categorical = schema.select(kind=Kind.CATEGORICAL)
    events = [c for c in categorical if c.scope is not Scope.ITEM]
    once = {c.source or c.name for c in schema.select(scope=Scope.SEQUENCE)}
    return Plan(
        event_categorical=[c.name for c in events if c.source is None],
        item_categorical=[c.name for c in schema.select(kind=Kind.CATEGORICAL, scope=Scope.ITEM)],
        continuous=[c.name for c in schema.select(kind=Kind.CONTINUOUS)],
        time=[c.name for c in events if c.source == TIMESTAMP],
        bucketised=[str(c.source) for c in events if c.boundaries is not None],
        event_text=[c.name for c in schema.select(kind=Kind.TEXT, scope=Scope.EVENT)],
        item_text=[c.name for c in schema.select(kind=Kind.TEXT, scope=Scope.ITEM)],
        multi_valued=[c.name for c in categorical if c.multi_valued],
        context=[name for name in config.context if name in once],
    )


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


def _load_vocabulary(folder: Path, column: Column, reserved: dict[str, Any]) -> Vocabulary:
    name, path = column.name, folder / vocabulary_file(column.name)
    table = _read(path, [name, f"{name}_size"])
    values = table[name].cast(pl.String)
    if values.null_count():
        row = int(values.is_null().arg_true()[0])
        raise SchemaError(f"{path}: row {row + 1}: no value; ids must have no gap")
    if values.n_unique() < len(values):
        row = int((~values.is_first_distinct()).arg_true()[0])
        raise SchemaError(f"{path}: row {row + 1}: {values[row]!r} stands twice; an id must be one value's")
    counts = table[f"{name}_size"].cast(pl.Int64)
    nulls, unknown = int(reserved.get("null", 0)), int(reserved.get("oov", 0))
    return Vocabulary(values.alias("value"), counts.alias(COUNT), nulls, unknown, column.hash_buckets)


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
        _check_ids(path, items[name], vocabularies[name].cardinality)
    return items


def _check_ids(path: Path, ids: pl.Series, size: int) -> None:
    """Raise SchemaError for an id, or one of a list, outside of 0 .. `size` - 1."""
    if ids.dtype.is_nested():
        bad = ids.list.eval(pl.element().is_null() | ~pl.element().is_between(0, size - 1)).list.any()
        wrong = (ids.is_null() | bad).arg_true()
    else:
        wrong = (ids.is_null() | ~ids.is_between(0, size - 1)).arg_true()
    if len(wrong):
        at = int(wrong[0])
        found = ids[at].to_list() if isinstance(ids[at], pl.Series) else ids[at]
        raise SchemaError(f"{path}: row {at + 1}: column '{ids.name}': id {found} is not in 0 .. {size - 1}")

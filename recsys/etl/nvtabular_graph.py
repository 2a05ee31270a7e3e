"""Our declaration as a real `nvtabular.Workflow`: one to fit, one to transform.

Rows come as Parquet with the columns `SESSION_KEY`, `SEQUENCE_KEY`, `ROW` (Int64), `PREVIOUS` where intervals are
wanted (Int64, time of the session's previous event, which a split may have put elsewhere; a first event's own), what
names the sequence (session_id, ...), `timestamp`, and the features as prepared events hold them. What NVTabular does
not do by itself is done here, each for a reason that tests/etl/test_nvtabular_guards.py shows:

* text is marked (``=value``; null is ``""``): Categorify takes the index labels of nulls for positions, fails on
  rows that are all null, and has no file for an empty vocabulary;
* ids come from our vocabulary: Categorify's order of equal counts is not fixed;
* statistics are taken around a pivot: Normalize sums squares, which cancel for large or constant values, and its
  deviation is the sample's;
* LogOp and DifferenceLag compute in float32, so logarithm and interval are LambdaOps in float64;
* Groupby sorts by time and row: equal times have no order there;
* the keys are numbers under names of their own, and ``:`` joins names and aggregates: Groupby casts columns by the
  ends of their names.

Nothing is saved by NVTabular, whose `Workflow.save` pickles: `transform_workflow` builds the same from ours.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl

from recsys.errors import ConfigError
from recsys.etl.operators import COUNT, MICROSECONDS, Moments, Scaling, Vocabulary, time_id
from recsys.etl.plan import DERIVED_NUMBERS, bucket_name, continuous_columns
from recsys.etl.workflow import Workflow
from recsys.schema import FIRST_ID, NULL_ID, OOV_ID, TIMESTAMP

# Names that no column of a table is likely to have.
SESSION_KEY, SEQUENCE_KEY, ROW, PREVIOUS = "(session)", "(sequence)", "(row)", "(previous)"
MARK, NULL = "=", ""  # of a value; what stands for null
SEPARATOR = ":"
_TAIL = "tail"  # suffix of the column of hashed ids


def load_nvtabular() -> ModuleType:
    """Import NVTabular with the settings that it needs; ConfigError where it is not installed."""
    try:
        import dask

        # Before the import, or list columns become strings without a word.
        dask.config.set({"dataframe.convert-string": False, "dataframe.query-planning": False})
        # The peer-to-peer shuffle of this version of distributed warns of deadlocks.
        dask.config.set({"dataframe.shuffle.method": "tasks"})
        with _without_torch(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of mappings for TensorFlow and Triton that are not there
            import nvtabular
    except ImportError as error:
        fix = "run `bash scripts/setup.sh nvtabular`, or use --engine polars"
        raise ConfigError(f"engine 'nvtabular' needs NVTabular ({error}); {fix}") from error
    return nvtabular


@contextmanager
def _without_torch() -> Iterator[None]:
    """Keep Merlin from importing torch only to map its types: seconds and memory, in every process."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules["torch"]


def warm_up() -> None:
    """`load_nvtabular`, for a Dask worker before its first task."""
    load_nvtabular()


@dataclass(frozen=True)
class Numbers:
    """What the fit has to know of a continuous column of train before it starts, after log1p where that is used."""

    finite: int = 0
    missing: int = 0  # null or not finite
    infinite: int = 0  # of these
    pivot: float = 0.0  # one of the finite values

    def merge(self, other: "Numbers") -> "Numbers":
        """Of both parts together."""
        pivot = self.pivot if self.finite else other.pivot
        missing, infinite = self.missing + other.missing, self.infinite + other.infinite
        return Numbers(self.finite + other.finite, missing, infinite, pivot)


def guard(frame: Any, categorical: Sequence[str]) -> Any:
    """A partition (pandas) as the workflows need it: text marked, a new index."""
    frame = frame.reset_index(drop=True)
    for name in categorical:
        frame[name] = (MARK + frame[name].astype(object)).where(frame[name].notna(), NULL)
    return frame


def fit_workflow(
    workflow: Workflow, rows: Any, folder: Path, numbers: dict[str, Numbers]
) -> tuple[dict[str, pl.DataFrame], dict[str, Moments]]:
    """Fit the Categorify and Normalize operators of one `nvtabular.Workflow`.

    Args:
        workflow: ours, begun.
        rows: an `nvtabular.Dataset` of the training rows, after `guard`.
        folder: for NVTabular's files; a new one, since NVTabular caches tables by path.
        numbers: by continuous column.

    Returns:
        By categorical column how often each value occurs (`count_values`), by continuous column its moments.
    """
    nvt = load_nvtabular()
    plan = workflow.plan
    categorify = nvt.ops.Categorify(out_path=str(folder))
    graph = plan.event_categorical >> categorify
    normalize = {name: nvt.ops.Normalize() for name in plan.continuous}
    for name in plan.continuous:
        log1p = "log1p" in continuous_columns(workflow.config)[name].transforms
        graph = graph + (_number(nvt, name) >> _op(nvt, _finite(log1p, numbers[name].pivot)) >> normalize[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nvt.Workflow(graph).fit(rows)
    values = {name: _counted(Path(categorify.categories[name]), name) for name in plan.event_categorical}
    moments = {n: _moments(numbers[n], op.means[n], op.stds[n]) for n, op in normalize.items()}
    return values, moments


def transform_workflow(workflow: Workflow, folder: Path, names: Sequence[str], *, training: bool = False) -> Any:
    """The `nvtabular.Workflow` that does what our `workflow` does: rows (after `guard`) to sequences.

    Args:
        workflow: fitted, or read with `Workflow.load`.
        folder: for NVTabular's vocabulary files; a new one, since NVTabular caches tables by path.
        names: columns that have one value a sequence.
        training: also keep the newest events and drop short sequences, as configured.

    Returns:
        A workflow whose `transform(nvtabular.Dataset)` needs no `fit`. It gives `SEQUENCE_KEY`, `names`, lists.
    """
    nvt = load_nvtabular()
    ops, plan, config = nvt.ops, workflow.plan, workflow.config
    graph = [SEQUENCE_KEY, ROW, TIMESTAMP, *names, *plan.event_text] >> ops.LambdaOp(_same)
    for name in plan.event_categorical:
        graph = graph + _ids(nvt, name, workflow.vocabulary(name), folder)
    for name in plan.time:
        graph = graph + ([TIMESTAMP] >> ops.Rename(name=name) >> _op(nvt, _time_ids(name, config.time.zone), np.int32))
    for name in plan.bucketised:
        boundaries = list(workflow.fitted.buckets[name].boundaries)
        number = _number(nvt, name) >> ops.Rename(name=bucket_name(name))
        graph = graph + (number >> _op(nvt, _bucket_ids(boundaries), np.int32))
    for name in plan.continuous:
        graph = graph + _scaled(nvt, name, workflow.fitted.scalings[name])
    aggregates = {name: ["first"] for name in names} | {name: ["list"] for name in plan.lists}
    grouped = graph >> ops.Groupby(
        groupby_cols=[SEQUENCE_KEY], sort_cols=[TIMESTAMP, ROW], aggs=aggregates, name_sep=SEPARATOR
    )
    lists = grouped[[f"{name}{SEPARATOR}list" for name in plan.lists]]
    if training and config.newest is not None:
        lists = lists >> ops.ListSlice(-config.newest)
    whole = grouped[[SEQUENCE_KEY, *(f"{name}{SEPARATOR}first" for name in names)]] + lists
    whole = whole >> ops.Rename(f=_bare)
    if training and config.min_length > 1:
        whole = whole >> ops.Filter(f=_at_least(config.min_length))
    return nvt.Workflow(whole)


def _same(column: Any) -> Any:
    return column


def _bare(name: str) -> str:
    return name.rpartition(SEPARATOR)[0] or name


def _at_least(events: int) -> Callable[[Any], Any]:
    return lambda frame: frame[frame[TIMESTAMP].str.len() >= events]


def _op(nvt: ModuleType, function: Callable[[Any], Any], dtype: type = np.float64) -> Any:
    return nvt.ops.LambdaOp(function, label=function.__name__, dtype=dtype)


def _number(nvt: ModuleType, name: str) -> Any:
    """The column `name` of numbers, read or derived of the times."""
    if name not in DERIVED_NUMBERS:
        return [name] >> nvt.ops.LambdaOp(_same)
    gap = [TIMESTAMP] >> nvt.ops.LambdaOp(_interval, dependency=[PREVIOUS], dtype=np.float64)
    return gap >> nvt.ops.Rename(name=name)


def _interval(times: Any, frame: Any) -> Any:
    """Seconds since the session's previous event."""
    return (times - frame[PREVIOUS]) / MICROSECONDS


def _finite(log1p: bool, shift: float = 0.0) -> Callable[[Any], Any]:
    def finite(column: Any) -> Any:
        numbers = column.astype("float64")
        with np.errstate(divide="ignore", invalid="ignore"):
            numbers = np.log1p(numbers) if log1p else numbers
        return numbers.where(np.isfinite(numbers)) - shift

    return finite


def _scaled(nvt: ModuleType, name: str, scaling: Scaling) -> Any:
    """Float32: nulls and what is not finite at the mean, then the z-score by Normalize where that is used."""
    graph = _number(nvt, name) >> _op(nvt, _finite("log1p" in scaling.transforms))
    graph = graph >> nvt.ops.FillMissing(fill_val=scaling.mean)
    if "zscore" not in scaling.transforms:
        return graph >> _op(nvt, _as_float32, np.float32)
    if scaling.is_constant:  # whose z-score is 0, also where new data hold another value
        graph = graph >> _op(nvt, _all(scaling.mean))
    normalize = nvt.ops.Normalize(out_dtype=np.float32)
    normalize.means[name], normalize.stds[name] = scaling.mean, 1.0 if scaling.is_constant else scaling.std
    return graph >> normalize


def _as_float32(column: Any) -> Any:
    return column.astype("float32")


def _all(value: float) -> Callable[[Any], Any]:
    def constant(column: Any) -> Any:
        return column * 0.0 + value

    return constant


def _ids(nvt: ModuleType, name: str, vocabulary: Vocabulary, folder: Path) -> Any:
    """Our ids by Categorify over the vocabulary with null as its first value."""
    import pandas as pd

    known = pd.Series([NULL, *(MARK + value for value in vocabulary.values)], dtype=object)
    labels = [name] >> nvt.ops.Categorify(vocabs={name: known}, out_path=str(folder))
    if not vocabulary.hash_buckets:
        return labels >> _op(nvt, our_ids, np.int32)
    tail = f"{name}{SEPARATOR}{_TAIL}"
    hashed = [name] >> _op(nvt, _hashed(vocabulary), np.int32) >> nvt.ops.Rename(name=tail)
    return labels >> nvt.ops.LambdaOp(_with_tail(tail), dependency=[hashed], dtype=np.int32)


def our_ids(labels: Any) -> Any:
    """Ids of Categorify over ``[NULL, *values]`` as ours (pandas): its 3 is null, what follows moves down by one."""
    numbers = labels.astype("int64")
    return numbers.where(numbers <= FIRST_ID, numbers - 1).where(numbers != FIRST_ID, NULL_ID).astype("int32")


def _with_tail(tail: str) -> Callable[[Any, Any], Any]:
    def with_tail(labels: Any, frame: Any) -> Any:
        ids = our_ids(labels)
        return ids.where(ids != OOV_ID, frame[tail]).astype("int32")

    return with_tail


def _hashed(vocabulary: Vocabulary) -> Callable[[Any], Any]:
    """The id that a marked value would have if it were unknown."""
    empty = Vocabulary(vocabulary.values.clear(), vocabulary.counts.clear(), hash_buckets=vocabulary.hash_buckets)
    more = len(vocabulary.values)

    def hashed(column: Any) -> Any:
        text = pl.DataFrame(
            {"text": column.str[len(MARK) :].to_numpy(dtype=object).tolist()}, schema={"text": pl.String}
        )
        ids = text.select(empty.encode("text")).to_series().to_numpy() + more
        return type(column)(ids, index=column.index, name=column.name)

    return hashed


def _time_ids(feature: str, zone: str) -> Callable[[Any], Any]:
    """By Polars: pandas knows neither years after 2262 nor, with its usual zones, summer time after 2037."""

    def time_ids(column: Any) -> Any:
        times = pl.DataFrame({TIMESTAMP: column.to_numpy()})
        ids = times.select(time_id(feature, zone)).to_series().to_numpy()
        return type(column)(ids, index=column.index, name=column.name)

    return time_ids


def _bucket_ids(boundaries: Sequence[float]) -> Callable[[Any], Any]:
    def bucket_ids(column: Any) -> Any:
        numbers = column.astype("float64")
        ids = np.searchsorted(np.asarray(boundaries, dtype=np.float64), numbers, side="right") + FIRST_ID
        return type(column)(np.where(np.isfinite(numbers), ids, NULL_ID), index=column.index).astype("int32")

    return bucket_ids


def _counted(path: Path, name: str) -> pl.DataFrame:
    """What Categorify counted, unmarked."""
    table = pl.read_parquet(path).select(pl.col(name).cast(pl.String), pl.col(f"{name}_size").cast(pl.Int64))
    text = pl.when(pl.col(name) != NULL).then(pl.col(name).str.slice(len(MARK)))
    return table.select(text.alias("value"), pl.col(f"{name}_size").alias(COUNT))


def _moments(numbers: Numbers, mean: float, std: float) -> Moments:
    """Normalize's sample statistics around the pivot as ours."""
    n = numbers.finite
    if not n:
        return Moments(missing=numbers.missing, infinite=numbers.infinite)
    m2 = std**2 * (n - 1) if n > 1 and np.isfinite(std) else 0.0
    return Moments(n, mean + numbers.pivot, m2, numbers.missing, numbers.infinite)

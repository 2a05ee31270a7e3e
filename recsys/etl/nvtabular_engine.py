"""The second engine: the same sequence dataset by a real `nvtabular.Workflow`, on pandas or a Dask cluster.

Reading, checks, splits and reports are those of the Polars engine; ids, statistics, intervals, scaling, grouping,
slicing and filtering are NVTabular's. Needs the extra `nvtabular` (``bash scripts/setup.sh nvtabular``).
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config import EtlConfig, RunConfig
from recsys.errors import ConfigError, RecsysError
from recsys.etl.grouping import CHUNK, Sequences, noted_rows
from recsys.etl.nvtabular_graph import (
    PREVIOUS,
    ROW,
    SEQUENCE_KEY,
    SESSION_KEY,
    Numbers,
    fit_workflow,
    guard,
    load_nvtabular,
    transform_workflow,
    warm_up,
)
from recsys.etl.operators import MICROSECONDS, before_scaling
from recsys.etl.plan import DERIVED_NUMBERS, Counts, Plan, continuous_columns, count_events
from recsys.etl.polars_engine import Preprocessed, preprocess
from recsys.etl.windows import chunk_column
from recsys.etl.workflow import Workflow
from recsys.schema import INTERVAL, SESSION_ID, TIMESTAMP, USER_ID


def preprocess_nvtabular(
    events: Path | str | pl.DataFrame,
    config: RunConfig | None,
    out: Path | str,
    *,
    workflow: Path | str | Workflow | None = None,
    commands: pl.DataFrame | None = None,
    overwrite: bool = False,
    workers: int = 1,
) -> Preprocessed:
    """`recsys.etl.preprocess` with NVTabular at work; same arguments, same folder.

    Args:
        workers: 1: pandas in this process; more: so many processes of a Dask LocalCluster. Where a Dask client is
            active already (a cluster whose machines share the folders), that one is used.

    Raises:
        ConfigError: NVTabular is not installed, or `workers` is below 1.
        InputError, SchemaError: as `recsys.etl.preprocess`.
    """
    if workers < 1:
        raise ConfigError(f"workers ({workers}) must be at least 1")
    load_nvtabular()
    config = config or RunConfig()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nvtabular.")))
        blank = NvtabularWorkflow(config, folder=folder, partitions=stack.enter_context(_dask(workers, folder)))
        return preprocess(events, config, out, workflow=workflow, commands=commands, overwrite=overwrite, blank=blank)


@contextmanager
def _dask(workers: int, folder: Path) -> Iterator[int]:
    """What runs the tasks: the active client, this process, or a LocalCluster of `workers` processes; how many."""
    import dask
    from distributed import Client, LocalCluster, get_client

    try:
        client = get_client()
    except ValueError:
        if workers == 1:
            with dask.config.set(scheduler="synchronous"):
                yield 1
            return
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(folder / "dask"),
            silence_logs="CRITICAL",  # a task that fails is raised here; closing workers only complain
        )
        with cluster, Client(cluster) as client:
            yield len(client.run(warm_up))
        return
    yield max(workers, len(client.run(warm_up)))


class NvtabularWorkflow(Workflow):
    """A `Workflow` whose fit and sequences NVTabular makes.

    Args:
        folder: for temporary files, on a disk that all Dask workers see.
        partitions: at least so many parts of the rows are worked on at once.
    """

    engine = "nvtabular"

    def __init__(
        self, config: EtlConfig | RunConfig | None = None, seed: int = 0, *, folder: Path, partitions: int = 1
    ) -> None:
        super().__init__(config, seed)
        self._folder, self._partitions = folder, partitions
        self._train: list[Path] = []
        self._numbers: dict[str, Numbers] = {}
        self._made: dict[tuple[bool, tuple[str, ...]], Any] = {}

    def adopt(self, workflow: Workflow) -> Self:
        """As `Workflow.adopt`."""
        self._made = {}
        super().adopt(workflow)
        _require_plain(self.plan)
        return self

    def begin(self, columns: Sequence[str], commands: pl.DataFrame | None = None, source: object = "events") -> Self:
        """As `Workflow.begin`."""
        super().begin(columns, commands, source)
        _require_plain(self.plan)
        self._train, self._numbers, self._made = [], {}, {}
        return self

    def count(self, prepared: pl.DataFrame) -> Counts:
        """Classes of times and buckets; the rows go to files, for NVTabular to count in `finish`."""
        derived = replace(self.plan, event_categorical=[], continuous=[])
        counts = count_events(prepared, derived, self.config)
        if not prepared.height:
            return counts
        columns = continuous_columns(self.config)
        scaled = prepared.select(before_scaling(name, columns[name].transforms) for name in self.plan.continuous)
        seen = {name: _numbers(scaled[name], prepared[name]) for name in self.plan.continuous}
        files = self._stage(self._keyed(prepared, []), self._new())
        return _Kept(counts.rows, counts.values, counts.moments, counts.numbers, files=files, seen=seen)

    def take(self, counts: Iterable[Counts]) -> None:
        """As `Workflow.take`."""
        parts = list(counts)
        super().take(parts)
        for kept in parts:
            if isinstance(kept, _Kept):
                self._train += kept.files
                for name, numbers in kept.seen.items():
                    self._numbers[name] = self._numbers.get(name, Numbers()).merge(numbers)

    def finish(self, commands: pl.DataFrame | None = None, source: object = "commands") -> Self:
        """As `Workflow.finish`."""
        if self._train:
            rows = self._dataset(self._train, self._new())
            values, moments = fit_workflow(self, rows, self._new(), self._numbers)
            self._counts = replace(
                self._counts, values=self._counts.values | values, moments=self._counts.moments | moments
            )
        return super().finish(commands, source)

    def sequences(self, prepared: pl.DataFrame, *, training: bool = False) -> Sequences:
        """As `Workflow.sequences`."""
        config, noted = self.config, noted_rows(prepared, self.plan.numbers)
        if CHUNK not in prepared.columns:
            chunk = pl.lit(0, dtype=pl.Int32).alias(CHUNK)
            if training and config.chunk is not None:
                prepared = prepared.with_columns(chunk_column(prepared[SESSION_ID], config.chunk, self.seed))
            else:
                prepared = prepared.with_columns(chunk)
        names = [name for name in (SESSION_ID, USER_ID, CHUNK) if name in prepared.columns]
        rows = self._keyed(prepared, names)
        frame = self._transformed(rows, names, training)
        lengths = rows.group_by(SEQUENCE_KEY).len("n")["n"].cast(pl.Int64)
        kept = lengths.clip(upper_bound=config.newest) if training and config.newest is not None else lengths
        long = kept.filter(kept >= config.min_length) if training else kept
        out = int(frame[TIMESTAMP].list.len().sum())
        if (frame.height, out) != (len(long), int(long.sum())):
            raise RecsysError(
                f"NVTabular made {frame.height} sequences of {out} events, {len(long)} of {long.sum()} were to be made"
            )
        dropped_rows: dict[str, int] = {}
        dropped_sequences: dict[str, int] = {}
        if training and config.newest is not None:
            dropped_rows["older_than_newest"] = int((lengths - kept).sum())
        if training and config.min_length > 1:
            dropped_sequences["min_length"] = len(kept) - len(long)
            dropped_rows["min_length"] = int(kept.sum()) - int(long.sum())
        return Sequences(frame, prepared.height, out, dropped_rows, dropped_sequences, noted)

    def _keyed(self, prepared: pl.DataFrame, names: list[str]) -> pl.DataFrame:
        """The rows as `nvtabular_graph` wants them; sessions are numbered in the order in which they stand."""
        same = [SESSION_ID, CHUNK] if CHUNK in names else [SESSION_ID]
        features = [TIMESTAMP, *self.plan.event_categorical, *self.plan.numbers, *self.plan.event_text]
        has_intervals = any(name in DERIVED_NUMBERS for name in (*self.plan.continuous, *self.plan.bucketised))
        gap = (pl.col(INTERVAL) * MICROSECONDS).round().cast(pl.Int64)
        previous = [(pl.col(TIMESTAMP) - gap).alias(PREVIOUS)] if has_intervals else []
        return prepared.select(
            pl.struct(SESSION_ID).rle_id().cast(pl.Int64).alias(SESSION_KEY),
            pl.struct(same).rle_id().cast(pl.Int64).alias(SEQUENCE_KEY),
            pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW),
            *previous,
            *(name if name == CHUNK else pl.col(name).cast(pl.String) for name in names),
            *dict.fromkeys(features),
        )

    def _transformed(self, rows: pl.DataFrame, names: list[str], training: bool) -> pl.DataFrame:
        """Sequences of `rows`, in the order of their sessions."""
        import dask

        schema = self._row_schema(names)
        if not rows.height:
            return pl.DataFrame(pl.from_arrow(schema.empty_table())).drop(SEQUENCE_KEY)
        key = (training, tuple(names))
        if key not in self._made:
            self._made[key] = transform_workflow(self, self._new(), names, training=training)
        folder = self._new()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = self._made[key].transform(self._dataset(self._stage(rows, folder), folder)).to_ddf()
            tables = dask.compute(*[dask.delayed(_to_arrow)(part, schema) for part in made.to_delayed()])
        shutil.rmtree(folder)
        return pl.DataFrame(pl.from_arrow(pa.concat_tables(tables))).sort(SEQUENCE_KEY).drop(SEQUENCE_KEY)

    def _row_schema(self, names: list[str]) -> pa.Schema:
        plan = self.plan
        kinds = {TIMESTAMP: pa.int64()} | dict.fromkeys(plan.classes, pa.int32())
        kinds |= dict.fromkeys(plan.continuous, pa.float32()) | dict.fromkeys(plan.event_text, pa.large_string())
        fields = [(SEQUENCE_KEY, pa.int64())]
        fields += [(name, pa.int32() if name == CHUNK else pa.large_string()) for name in names]
        return pa.schema(fields + [(name, pa.large_list(kinds[name])) for name in plan.lists])

    def _new(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))

    def _stage(self, rows: pl.DataFrame, folder: Path) -> list[Path]:
        """Rows as Parquet files for the workers; sessions may be torn apart, which the shuffle mends."""
        size = -(-rows.height // self._partitions)
        files: list[Path] = []
        for start in range(0, rows.height, size):
            files.append(folder / f"rows-{len(files):05d}.parquet")
            rows.slice(start, size).write_parquet(files[-1])
        return files

    def _dataset(self, files: list[Path], folder: Path) -> Any:
        """An `nvtabular.Dataset` whose partitions hold whole sessions, guarded, none of them empty."""
        import dask
        import dask.dataframe as dd

        nvt = load_nvtabular()
        categorical = list(self.plan.event_categorical)
        rows = dd.read_parquet([str(f) for f in files], split_row_groups=False, aggregate_files=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if len(files) > 1:
                rows = nvt.Dataset(rows).shuffle_by_keys([SESSION_KEY]).to_ddf()
            kept = dask.compute(
                *[
                    dask.delayed(_keep)(part, categorical, str(files[0]), str(folder / f"whole-{number:05d}.parquet"))
                    for number, part in enumerate(rows.to_delayed())
                ]
            )
            paths = [path for path in kept if path is not None]
            return nvt.Dataset(dd.read_parquet(paths, split_row_groups=False, aggregate_files=False))


def _require_plain(plan: Plan) -> None:
    """Refuse the columns that only the Polars engine makes sequences of."""
    for name in (*plan.multi_valued, *plan.context):
        kind = "multi_valued" if name in plan.multi_valued else "in etl.context"
        raise ConfigError(f"engine 'nvtabular': column '{name}' is {kind}, which it cannot make; use --engine polars")


@dataclass(frozen=True)
class _Kept(Counts):
    """Counts of a part of the training events whose rows lie in `files`; `seen` by continuous column."""

    files: list[Path] = field(default_factory=list)
    seen: dict[str, Numbers] = field(default_factory=dict)


def _numbers(scaled: pl.Series, values: pl.Series) -> Numbers:
    """Of a column of one part, `scaled` being its `values` after log1p where that is used."""
    finite = scaled.filter(scaled.is_finite().fill_null(False))
    infinite = int(values.cast(pl.Float64).is_infinite().sum())
    return Numbers(len(finite), len(scaled) - len(finite), infinite, float(finite[0]) if len(finite) else 0.0)


def _keep(part: Any, categorical: list[str], like: str, path: str) -> str | None:
    """Write a guarded partition with the types of the file `like`; None where it is empty."""
    if not len(part):
        return None
    table = pa.Table.from_pandas(guard(part, categorical), schema=pq.read_schema(like), preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path)
    return path


def _to_arrow(part: Any, schema: pa.Schema) -> pa.Table:
    """Sequences (pandas, lists in cells) with the dataset's types."""
    columns = [pa.array(part[field.name].tolist(), type=field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)

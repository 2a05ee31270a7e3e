"""Reading events: a folder that cleaning wrote, a table or a data frame; in parts of whole sessions.

Times may be whole numbers (microseconds since 1970 UTC), numbers with a fraction (seconds since 1970 UTC),
dates with a time (without a zone: UTC) or ISO 8601 text.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from recsys.buckets import bucket_column
from recsys.config import SplitConfig
from recsys.errors import InputError, missing_column, one_line
from recsys.etl.columns import check_names, check_types
from recsys.etl.operators import MICROSECONDS
from recsys.etl.split import SplitResult, load_splits
from recsys.etl.users import as_users, merges_users
from recsys.schema import ITEM_ID, SESSION_ID, TIMESTAMP

BATCH_ROWS = 200_000  # read at a time
BUCKET_ROWS = 500_000  # about what one bucket of sessions should hold
MAX_BUCKETS = 256
CSV_BYTES_PER_ROW = 60  # a guess that only sets the number of buckets
LATEST_SECOND = 1e11  # the year 5138: larger numbers with a fraction were not meant as seconds
SUFFIXES = (".parquet", ".csv", ".csv.gz")
REQUIRED = (SESSION_ID, ITEM_ID, TIMESTAMP)


@dataclass(frozen=True)
class Events:
    """Events in parts, each of which `load` gives as a frame of whole sessions with the wanted columns."""

    name: str
    columns: list[str]
    parts: list[Path]
    commands: pl.DataFrame | None = None
    splits: SplitResult | None = None
    cleaning: Path | None = None

    def frames(self, wanted: Sequence[str], numbers: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """The `wanted` columns of every part, normalised (see `normalise`)."""
        for part in self.parts:
            frame = read_parquet(part)
            for column in wanted:
                if column not in frame.columns:
                    raise missing_column(part, column, frame.columns)
            yield normalise(frame.select(wanted), part, numbers)


def open_events(
    events: Path | pl.DataFrame, work: Path, numbers: Sequence[str] = (), split: SplitConfig | None = None
) -> Events:
    """Find out what is there. A bare table is spread over session-hash buckets in the folder `work`.

    Args:
        events: a folder with ``events/part-*.parquet``, a .parquet, .csv or .csv.gz file, a folder of such
            files, or a frame.
        work: an existing folder for temporary files.
        numbers: columns to be read as numbers.
        split: where it cuts users' sequences, parts are buckets of users, with `session_id` as `as_users` makes it.
    """
    if isinstance(events, pl.DataFrame):
        check_names(events.columns, "events")
        merge = split is not None and merges_users(split, events.columns)
        paths = _spread(_slices(events), events.height, "events", work, numbers, merge)
        return Events("events", events.columns, paths)
    if (events / "events").is_dir():
        folder = _open_folder(events, numbers)
        if split is None or folder.splits is not None or not merges_users(split, folder.columns, events):
            return folder
        batches = (batch for part in folder.parts for batch in _batches(part))
        rows = sum(_rows(part) for part in folder.parts)
        return replace(folder, parts=_spread(batches, rows, events, work, numbers, merge=True))
    files = [events]
    if events.is_dir():
        files = sorted(f for f in events.iterdir() if f.name.endswith(SUFFIXES))
        if not files:
            found = ", ".join(sorted(f.name for f in events.iterdir())[:10]) or "nothing"
            wanted = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            raise InputError(f"{events}: neither events/part-*.parquet nor {wanted} in it; it holds {found}")
    columns = _columns(files[0])
    rows = sum(_rows(f) for f in files)
    for file in files:
        if _columns(file) != columns:
            raise InputError(f"{file}: columns {', '.join(_columns(file))} differ from {files[0].name}'s")
    check_types(files, numbers)
    batches = (batch for file in files for batch in _batches(file))
    merge = split is not None and merges_users(split, columns, events)
    paths = _spread(batches, rows, files[0] if len(files) == 1 else events, work, numbers, merge)
    return Events(str(events), columns, paths)


def _open_folder(folder: Path, numbers: Sequence[str]) -> Events:
    parts = sorted((folder / "events").glob("part-*.parquet"))
    if not parts:
        raise InputError(f"{folder / 'events'}: no part-*.parquet in it; clean the logs anew")
    columns = _columns(parts[0])
    check_types(parts, numbers)
    commands = folder / "commands.parquet"
    return Events(
        name=str(folder),
        columns=columns,
        parts=parts,
        commands=read_parquet(commands) if commands.is_file() else None,
        splits=load_splits(folder) if (folder / "splits.parquet").is_file() else None,
        cleaning=folder / "cleaning" if (folder / "cleaning").is_dir() else None,
    )


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a small Parquet file; the error names it."""
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: not a readable Parquet file (cut off?): {one_line(error)}") from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: unknown kind of file; events are read from {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: empty file")


def _columns(path: Path) -> list[str]:
    _check_file(path)
    try:
        if path.suffix == ".parquet":
            names = list(pq.read_schema(path).names)
        else:
            with pa_csv.open_csv(path, parse_options=_CSV_PARSE) as reader:
                names = list(reader.schema.names)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise _unreadable(path, error) from error
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(f"{path}: column '{twice}' stands twice in the header")
    check_names(names, path)
    return names


_CSV_PARSE = pa_csv.ParseOptions(newlines_in_values=True)


def _unreadable(path: Path, error: BaseException) -> InputError:
    text = one_line(error)
    if "UTF8" in text or "utf-8" in text.lower():
        return InputError(f"{path}: not UTF-8 text ({text}); convert it, for instance with iconv -t UTF-8")
    kind = "Parquet" if path.suffix == ".parquet" else "CSV"
    return InputError(f"{path}: not a readable {kind} file (cut off?): {text}")


def _rows(path: Path) -> int:
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    packed = 8 if path.suffix == ".gz" else 1
    return packed * path.stat().st_size // CSV_BYTES_PER_ROW


def _batches(path: Path) -> Iterator[tuple[int, pl.DataFrame]]:
    """Frames of the file with the number of their first row, from 1. CSV cells are text, empty ones null."""
    row = 1
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH_ROWS):
                    yield row, _frame(batch)
                    row += batch.num_rows
            return
        convert = pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in _columns(path)},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        read = pa_csv.ReadOptions(block_size=16 << 20)
        with pa_csv.open_csv(path, read, _CSV_PARSE, convert) as reader:
            for batch in reader:
                yield row, _frame(batch)
                row += batch.num_rows
    except (pa.ArrowException, OSError, EOFError) as error:
        raise _unreadable(path, error) from error


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch])))


def _slices(frame: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    for start in range(0, frame.height, BATCH_ROWS):
        yield start + 1, frame.slice(start, BATCH_ROWS)


def _spread(
    batches: Iterable[tuple[int, pl.DataFrame]],
    rows: int,
    source: object,
    work: Path,
    numbers: Sequence[str],
    merge: bool = False,
) -> list[Path]:
    """Write rows to one file per bucket of sessions (`merge`: of users), in the order read."""
    buckets = min(MAX_BUCKETS, max(1, math.ceil(rows / BUCKET_ROWS)))
    writers: dict[int, pq.ParquetWriter] = {}
    try:
        for row, frame in batches:
            frame = normalise(frame, source, numbers, row)
            frame = as_users(frame) if merge else frame
            marked = frame.with_columns(bucket_column(frame[SESSION_ID], buckets))
            for (bucket,), rest in marked.partition_by("bucket", as_dict=True, maintain_order=True).items():
                table = rest.drop("bucket").to_arrow()
                if bucket not in writers:
                    path = work / f"bucket-{bucket:05d}.parquet"
                    writers[bucket] = pq.ParquetWriter(path, table.schema, compression="lz4")
                writers[bucket].write_table(table)
    finally:
        for writer in writers.values():
            writer.close()
    if not writers:
        raise InputError(f"{source}: a header and no rows")
    return [work / f"bucket-{bucket:05d}.parquet" for bucket in sorted(writers)]


def normalise(frame: pl.DataFrame, source: object, numbers: Sequence[str] = (), first_row: int = 1) -> pl.DataFrame:
    """Text columns as String, `timestamp` as Int64 microseconds, `numbers` as Float64; the rest as text.

    Raises:
        InputError: a required column is missing, a session id or time is null, a value cannot be read (names
            source, column, row counted from 1 without the header, value).
    """
    for column in REQUIRED:
        if column not in frame.columns:
            raise missing_column(source, column, frame.columns)
    columns = []
    for series in frame.get_columns():
        if series.dtype.is_nested() or series.dtype in (pl.Binary, pl.Object):
            raise InputError(f"{source}: column '{series.name}' is {series.dtype}; one plain value a row is needed")
        if series.name == TIMESTAMP:
            columns.append(_read(series, to_microseconds, source, first_row, _TIME_FORMS))
        elif series.name in numbers:
            columns.append(_read(series, _to_float, source, first_row, "a number"))
        else:
            columns.append(series.cast(pl.String))
    result = pl.DataFrame(columns)
    for column in (SESSION_ID, TIMESTAMP):
        if result[column].null_count():
            row = first_row + int(result[column].is_null().arg_true()[0])
            raise InputError(f"{source}: column '{column}', row {row}: no value; drop the row or fill it in")
    return result


_TIME_FORMS = "microseconds since 1970 as a whole number, seconds with a fraction, or ISO 8601 text"


def _read(
    series: pl.Series, convert: Callable[[pl.Series], pl.Series], source: object, first_row: int, form: str
) -> pl.Series:
    result = convert(series)
    wrong = (result.is_null() & series.is_not_null()).arg_true()
    if len(wrong):
        at = int(wrong[0])
        raise InputError(
            f"{source}: column '{series.name}', row {first_row + at}: cannot read {series[at]!r}; expected {form}"
        )
    return result


def _to_float(series: pl.Series) -> pl.Series:
    return series.cast(pl.Float64, strict=False)


def to_microseconds(series: pl.Series) -> pl.Series:
    """Times as Int64 microseconds since 1970 UTC; null where the value cannot be one."""
    kind = series.dtype
    if kind.is_integer():
        return series.cast(pl.Int64, strict=False)
    if kind.is_float():
        seconds = series.set(~(series.abs() < LATEST_SECOND).fill_null(False), None)  # NaN becomes null too
        return (seconds * MICROSECONDS).round().cast(pl.Int64)
    if isinstance(kind, pl.Datetime):
        zoned = series.dt.convert_time_zone("UTC") if kind.time_zone else series
        return zoned.dt.epoch("us")
    if kind == pl.Date:
        return series.cast(pl.Datetime("us")).dt.epoch("us")
    if kind == pl.String:
        return _text_to_microseconds(series)
    return pl.Series(series.name, [None] * len(series), dtype=pl.Int64)


def _text_to_microseconds(series: pl.Series) -> pl.Series:
    text = pl.col(series.name)
    whole = pl.when(text.str.contains(r"^[+-]?[0-9]+$")).then(text).cast(pl.Int64, strict=False)
    plain = text.str.replace("T", " ", literal=True).str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us"
    )
    found = series.to_frame().select(pl.coalesce(whole, plain.dt.epoch("us"))).to_series().alias(series.name)
    left = series.filter(found.is_null() & series.is_not_null()).unique()
    if len(left) == 0:
        return found
    # Zones and rarer forms: slower, and only for the values that are left.
    values = pl.Series([_slow_microseconds(v) for v in left], dtype=pl.Int64)
    more = series.replace_strict(left, values, default=None, return_dtype=pl.Int64)
    return found.to_frame("a").select(pl.coalesce("a", more.alias("b"))).to_series().alias(series.name)


def _slow_microseconds(text: str) -> int | None:
    try:
        if text.count(".") == 1 and text.lstrip("+-").replace(".", "").isdigit():
            seconds = float(text)
            return round(seconds * MICROSECONDS) if abs(seconds) < LATEST_SECOND else None
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    gone = zoned - datetime(1970, 1, 1, tzinfo=UTC)
    return (gone.days * 86_400 + gone.seconds) * MICROSECONDS + gone.microseconds

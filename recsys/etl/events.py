"""Reading events: a folder that cleaning wrote, a table or a data frame.

Times may be whole numbers (microseconds since 1970 UTC), numbers with a fraction (seconds since 1970 UTC),
dates with a time (without a zone: UTC) or ISO 8601 text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from recsys.errors import InputError, missing_column, one_line
from recsys.etl.columns import check_names, check_types
from recsys.etl.lists import as_lists, not_plain
from recsys.etl.operators import MICROSECONDS
from recsys.etl.split import SplitResult, load_splits
from recsys.etl.spread import LOCAL, Batch, Buckets, dictionary_of, spread
from recsys.runtime import progress
from recsys.schema import ITEM_ID, SESSION_ID, TIMESTAMP

BATCH_ROWS = 250_000  # read at a time
BUCKET_ROWS = 1_000_000  # about what one bucket of sessions should hold
MAX_BUCKETS = 512  # open files
CSV_BYTES_PER_ROW = 60  # a guess that only sets the number of buckets
LATEST_SECOND = 1e11  # the year 5138: larger numbers with a fraction were not meant as seconds
SUFFIXES = (".parquet", ".csv", ".csv.gz")
_NO_LISTS: Mapping[str, str | None] = {}
REQUIRED = (SESSION_ID, ITEM_ID, TIMESTAMP)


@dataclass(frozen=True)
class Events:
    """Where events are, what columns they have, and what cleaning said of them."""

    name: str
    columns: list[str]
    files: list[Path] = field(default_factory=list)
    frame: pl.DataFrame | None = None  # instead of files
    commands: pl.DataFrame | None = None
    splits: SplitResult | None = None
    cleaning: Path | None = None

    def spread(
        self,
        work: Path,
        wanted: Sequence[str],
        numbers: Sequence[str] = (),
        text: Sequence[str] = (),
        lists: Mapping[str, str | None] = _NO_LISTS,
        *,
        merge: bool = False,
    ) -> Buckets:
        """Read the `wanted` columns into buckets of whole sessions, normalised as `normalise` does.

        Args:
            work: an existing folder for temporary files.
            numbers: of the columns, those to be read as numbers.
            text: those whose values are not numbered, since most are different.
            lists: those whose values are lists, and what divides one that is written as text.
            merge: parts are buckets of users, with `session_id` as `as_users` makes it.

        Raises:
            InputError: a column is missing or of several kinds, a value cannot be read, there is no row.
        """
        check_types(self.files, numbers)
        rows = self.frame.height if self.frame is not None else sum(_rows(file) for file in self.files)
        reading = _Reading(list(dict.fromkeys(wanted)), tuple(numbers), tuple(text), dict(lists))
        batches = progress(self._batches(reading), "Read", total=-(-rows // BATCH_ROWS), unit="batch")
        return spread(batches, rows, BUCKET_ROWS, MAX_BUCKETS, work, self._source(), merge=merge)

    def _source(self) -> str:
        return str(self.files[0]) if len(self.files) == 1 else self.name

    def _batches(self, reading: "_Reading") -> Iterator[Batch]:
        for columns, source, first_row in self._parts(reading):
            yield reading.batch(columns, source, first_row)

    def parts(self, wanted: Sequence[str]) -> Iterator[tuple[dict[str, pa.Array | pl.Series], object, int]]:
        """Columns as they are read, part by part; where they come from, and the number of the first row."""
        return self._parts(_Reading(list(wanted), (), tuple(wanted), _NO_LISTS))

    def _parts(self, reading: "_Reading") -> Iterator[tuple[dict[str, pa.Array | pl.Series], object, int]]:
        if self.frame is not None:
            for column in reading.wanted:
                if column not in self.frame.columns:
                    raise missing_column(self.name, column, self.frame.columns)
            frame = self.frame.select(reading.wanted)
            for start in range(0, frame.height, BATCH_ROWS):
                part = frame.slice(start, BATCH_ROWS)
                yield dict(zip(part.columns, part.iter_columns(), strict=True)), self.name, start + 1
        for file in self.files:
            row = 1
            for batch in _record_batches(file, reading):
                yield dict(zip(batch.schema.names, batch.columns, strict=True)), file, row
                row += batch.num_rows


@dataclass(frozen=True)
class _Reading:
    """What is read, and as what."""

    wanted: list[str]
    numbers: tuple[str, ...]
    text: tuple[str, ...]
    lists: Mapping[str, str | None]

    @property
    def words(self) -> list[str]:
        """Columns of names and classes."""
        others = {TIMESTAMP, *self.numbers, *self.text, *self.lists}
        return [n for n in self.wanted if n not in others]

    def batch(self, columns: dict[str, pa.Array | pl.Series], source: object, first_row: int) -> Batch:
        """Check and normalise columns as they were read."""
        words: dict[str, pa.DictionaryArray] = {}
        numbers: dict[str, np.ndarray | pa.Array] = {}
        coded = set(self.words)
        for name in [*LOCAL, *self.wanted]:
            if name not in columns or name in words:
                continue
            values = columns[name]
            if name in coded and (isinstance(values, pa.Array) or not _is_odd(values.dtype)):
                arrow = values if isinstance(values, pa.Array) else values.to_arrow()
                if not pa.types.is_nested(arrow.type) and not _is_binary(arrow.type):
                    words[name] = dictionary_of(arrow)
                    continue
            plain = values if isinstance(values, pl.Series) else pl.Series(name, pl.from_arrow(values))
            plain = normalised(plain.alias(name), source, self.numbers, first_row, self.lists)
            is_dense = plain.dtype.is_numeric() and not plain.null_count()
            numbers[name] = plain.to_numpy() if is_dense else plain.to_arrow()
        for name in (SESSION_ID, TIMESTAMP):
            _refuse_null(name, words.get(name, numbers.get(name)), source, first_row)
        return Batch(words, numbers)


def _is_odd(kind: pl.DataType) -> bool:
    return kind.is_nested() or kind in (pl.Binary, pl.Object)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _refuse_null(name: str, values: pa.Array | np.ndarray | None, source: object, first_row: int) -> None:
    if isinstance(values, pa.Array) and values.null_count:
        row = first_row + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(f"{source}: column '{name}', row {row}: no value; drop the row or fill it in")


def open_events(events: Path | pl.DataFrame) -> Events:
    """Find out what is there.

    Args:
        events: a folder with ``events/part-*.parquet``, a .parquet, .csv or .csv.gz file, a folder of such
            files, or a frame.
    """
    if isinstance(events, pl.DataFrame):
        check_names(events.columns, "events")
        return Events("events", events.columns, frame=events)
    if (events / "events").is_dir():
        return _open_folder(events)
    files = [events]
    if events.is_dir():
        files = sorted(f for f in events.iterdir() if f.name.endswith(SUFFIXES))
        if not files:
            found = ", ".join(sorted(f.name for f in events.iterdir())[:10]) or "nothing"
            wanted = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            raise InputError(f"{events}: neither events/part-*.parquet nor {wanted} in it; it holds {found}")
    columns = _columns(files[0])
    for file in files:
        if _columns(file) != columns:
            raise InputError(f"{file}: columns {', '.join(_columns(file))} differ from {files[0].name}'s")
    return Events(str(events), columns, files)


def _open_folder(folder: Path) -> Events:
    parts = sorted((folder / "events").glob("part-*.parquet"))
    if not parts:
        raise InputError(f"{folder / 'events'}: no part-*.parquet in it; clean the logs anew")
    commands = folder / "commands.parquet"
    return Events(
        name=str(folder),
        columns=_columns(parts[0]),
        files=parts,
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


def _record_batches(path: Path, reading: _Reading) -> Iterator[pa.RecordBatch]:
    """The wanted columns of a file; names and classes as dictionaries where they are text. Empty CSV cells are null."""
    found = _columns(path)
    for column in reading.wanted:
        if column not in found:
            raise missing_column(path, column, found)
    try:
        if path.suffix == ".parquet":
            schema = pq.read_schema(path)
            words = [n for n in reading.words if _is_text(schema.field(n).type)]
            with pq.ParquetFile(path, read_dictionary=words) as file:
                yield from file.iter_batches(BATCH_ROWS, columns=reading.wanted)
            return
        words = reading.words
        kinds = {n: pa.dictionary(pa.int32(), pa.string()) if n in words else pa.string() for n in found}
        convert = pa_csv.ConvertOptions(
            column_types=kinds,
            include_columns=reading.wanted,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        read = pa_csv.ReadOptions(block_size=16 << 20)
        with pa_csv.open_csv(path, read, _CSV_PARSE, convert) as reader:
            yield from reader
    except (pa.ArrowException, OSError, EOFError) as error:
        raise _unreadable(path, error) from error


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def normalise(
    frame: pl.DataFrame,
    source: object,
    numbers: Sequence[str] = (),
    first_row: int = 1,
    lists: Mapping[str, str | None] = _NO_LISTS,
) -> pl.DataFrame:
    """`timestamp` as Int64 microseconds, `numbers` as Float64, `lists` (see `Events.spread`) of text; the rest as text.

    Raises:
        InputError: a required column is missing, a session id or time is null, a value cannot be read (names
            source, column, row counted from 1 without the header, value).
    """
    for column in REQUIRED:
        if column not in frame.columns:
            raise missing_column(source, column, frame.columns)
    columns = [normalised(series, source, numbers, first_row, lists) for series in frame.get_columns()]
    result = pl.DataFrame(columns)
    for column in (SESSION_ID, TIMESTAMP):
        if result[column].null_count():
            row = first_row + int(result[column].is_null().arg_true()[0])
            raise InputError(f"{source}: column '{column}', row {row}: no value; drop the row or fill it in")
    return result


def normalised(
    series: pl.Series,
    source: object,
    numbers: Sequence[str] = (),
    first_row: int = 1,
    lists: Mapping[str, str | None] = _NO_LISTS,
) -> pl.Series:
    """One column as `normalise` has it."""
    if series.name in lists:
        return as_lists(series, source, lists[series.name])
    if _is_odd(series.dtype):
        raise InputError(not_plain(source, series.name, series.dtype, numbers))
    if series.name == TIMESTAMP:
        return _read(series, to_microseconds, source, first_row, _TIME_FORMS)
    if series.name in numbers:
        return _read(series, _to_float, source, first_row, "a number")
    return series.cast(pl.String)


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

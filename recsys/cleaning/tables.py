"""CSV, JSON lines and Parquet as a stream of frames of text columns, with errors that name file, row and fix."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.cleaning.streams import Budget, Readable, Table, seekable
from recsys.errors import InputError, missing_column, one_line

CHUNK = 1 << 23  # bytes of text a frame
_UNCLOSED = 1 << 27  # bytes after which an open quote is an error
_KEY_LINES = 100  # lines whose keys say which columns a JSON-lines file has

# From the columns of a file to those to read (a list), or an InputError that says which one is missing.
Choose = Callable[[Sequence[str]], list[str]]


def read_frames(table: Table, choose: Choose, budget: Budget, encoding: str = "utf-8") -> Iterator[pl.DataFrame]:
    """Yield the chosen columns of one table in pieces, text as text (Parquet keeps its types), rows in order.

    Raises:
        InputError: empty, header only, not `encoding`, ragged or malformed rows: file, row and what is expected.
    """
    if table.format == "parquet":
        yield from _read_parquet(table, choose, budget)
        return
    stream = _utf8(table.stream, encoding, table.name)
    rows = 0
    for frame in (_read_csv if table.format == "csv" else _read_jsonl)(stream, table.name, choose):
        rows += frame.height
        yield frame
    if not rows:
        raise InputError(f"{table.name}: no rows{' below the header' if table.format == 'csv' else ''}")


def _read_parquet(table: Table, choose: Choose, budget: Budget) -> Iterator[pl.DataFrame]:
    try:
        file = pq.ParquetFile(seekable(table, budget))
        columns = choose(file.schema_arrow.names)
        if not file.metadata.num_rows:
            raise InputError(f"{table.name}: no rows")
        size = table.path.stat().st_size if table.path else 0
        for batch in file.iter_batches(batch_size=1 << 17, columns=columns):
            table.advance(size * batch.num_rows // file.metadata.num_rows)
            yield pl.DataFrame(batch).select(columns)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{table.name}: not a readable Parquet file: {one_line(error)}") from error


class _Recoded:
    """Turns another encoding into UTF-8 on the way."""

    def __init__(self, stream: Readable, encoding: str, name: str) -> None:
        self._reader = io.TextIOWrapper(_Raw(stream), encoding=encoding, newline="")  # type: ignore[type-var]
        self._name, self._encoding = name, encoding

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._reader.read(size).encode()
        except UnicodeError as error:
            raise InputError(f"{self._name}: not {self._encoding}: {one_line(error)}") from error


class _Raw(io.RawIOBase):
    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        return self._stream.read(size)

    def read1(self, size: int = -1, /) -> bytes:
        """TextIOWrapper asks for this."""
        return self._stream.read(size if size > 0 else 1 << 16)


def _utf8(stream: Readable, encoding: str, name: str) -> Readable:
    try:
        plain = "".encode(encoding) == b"" and encoding.lower().replace("_", "-") in ("utf-8", "utf8", "ascii")
    except LookupError as error:
        raise InputError(f"{name}: the profile's files.encoding '{encoding}' is not known to Python") from error
    return stream if plain else _Recoded(stream, encoding, name)


def _chunks(stream: Readable, cut: Callable[[bytes], int], name: str) -> Iterator[bytes]:
    """Pieces of about `CHUNK` bytes that end where `cut` says a record ends."""
    rest = b""
    while True:
        piece = stream.read(CHUNK)
        if not piece:
            break
        rest += piece
        end = cut(rest)
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > _UNCLOSED:
            raise InputError(f'{name}: no end of a row in {len(rest) >> 20} MiB; is a quote (") never closed?')
    if rest.strip():
        yield rest


def _after_newline(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def _after_csv_row(data: bytes) -> int:
    """End of the last newline outside quotes; `data` starts at a row."""
    quotes = data.count(b'"')
    end = len(data)
    while (newline := data.rfind(b"\n", 0, end)) >= 0:
        quotes -= data.count(b'"', newline, end)
        if quotes % 2 == 0:
            return newline + 1
        end = newline
    return 0


def _read_csv(stream: Readable, name: str, choose: Choose) -> Iterator[pl.DataFrame]:
    names: list[str] | None = None
    before = 0
    for chunk in _chunks(stream, _after_csv_row, name):
        data = chunk
        if names is None:
            names, separator, data = _header(chunk, name)
            columns = choose(names)
        data = _without_blank_lines(data)
        if not data.strip():
            continue
        try:
            frame = pl.read_csv(
                data,
                has_header=False,
                separator=separator,
                schema=dict.fromkeys(names, pl.String),
                columns=sorted(names.index(c) for c in columns),
                encoding="utf8",
            )
        except pl.exceptions.PolarsError as error:
            raise _csv_error(data, names, separator, name, before, error) from error
        before += frame.height
        yield frame.select(columns)


def _without_blank_lines(data: bytes) -> bytes:
    """Whole rows without the blank lines between and after them, which the parser would take for rows of nulls."""
    if not (data.startswith((b"\n", b"\r\n")) or b"\n\n" in data or b"\n\r\n" in data):
        return data
    kept, is_open = [], False
    for line in data.split(b"\n"):
        if is_open or line.strip():
            kept.append(line)
        is_open ^= line.count(b'"') % 2 == 1  # a quoted value may hold blank lines
    return b"\n".join(kept) + b"\n"


def _header(chunk: bytes, name: str) -> tuple[list[str], str, bytes]:
    """Column names, separator and what follows the first row."""
    if chunk.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in chunk[:200]:
        raise InputError(f"{name}: not UTF-8 text (it looks like UTF-16); save it as UTF-8 or set files.encoding")
    data = chunk.removeprefix(b"\xef\xbb\xbf")
    line, _, rest = data.partition(b"\n")
    text = _decode(line, name, "the header")
    separator = max(",\t;", key=text.count)
    names = next(csv.reader([text.rstrip("\r")], delimiter=separator), [])
    names = [n.strip() for n in names]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise InputError(f"{name}: the header names '{min(twice)}' twice")
    return names, separator, rest


def _decode(data: bytes, name: str, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: {where}: {_not_utf8(data, error)}") from error


def _not_utf8(data: bytes, error: UnicodeDecodeError) -> str:
    around = data[max(0, error.start - 10) : error.start + 5].decode("latin-1")
    return f"not UTF-8 at {around!r}; save the file as UTF-8 or set files.encoding (for instance latin-1)"


def _csv_error(data: bytes, names: list[str], separator: str, name: str, before: int, error: Exception) -> InputError:
    """Find the row that the parser stumbled over; only runs after a failure."""
    try:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as wrong:
            readable = io.StringIO(data[: wrong.start].decode("utf-8") + "?", newline="")
            row = before + sum(1 for _ in csv.reader(readable, delimiter=separator))
            return InputError(f"{name}: row {row}: {_not_utf8(data, wrong)}")
        for number, row_values in enumerate(csv.reader(io.StringIO(text), delimiter=separator, strict=True), 1):
            if len(row_values) > len(names):
                shown = separator.join(row_values)[:80]
                return InputError(
                    f"{name}: row {before + number}: {len(row_values)} values for {len(names)} columns: {shown!r}; "
                    "quote values that hold the separator"
                )
    except csv.Error as malformed:
        return InputError(f"{name}: after row {before}: malformed CSV: {malformed}")
    return InputError(f"{name}: after row {before}: malformed CSV: {one_line(error)}")


def _read_jsonl(stream: Readable, name: str, choose: Choose) -> Iterator[pl.DataFrame]:
    columns: list[str] | None = None
    before = 0
    for chunk in _chunks(stream, _after_newline, name):
        data = chunk.removeprefix(b"\xef\xbb\xbf") if not before else chunk
        if columns is None:
            columns = choose(_keys(data, name))
        try:
            frame = pl.read_ndjson(data, schema=dict.fromkeys(columns, pl.String))
        except pl.exceptions.PolarsError as error:
            raise _jsonl_error(data, name, before, error) from error
        before += frame.height
        yield frame.select(columns)


def _keys(data: bytes, name: str) -> list[str]:
    keys: dict[str, None] = {}
    for number, line in enumerate(filter(bytes.strip, data.split(b"\n", _KEY_LINES)[:_KEY_LINES]), 1):
        keys.update(dict.fromkeys(_json_row(line, name, number)))
    return list(keys)


def _json_row(line: bytes, name: str, number: int) -> dict[str, object]:
    text = _decode(line, name, f"row {number}")
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        why = f"not JSON, of which a log has one object a line: {error.msg} in {text[:80]!r}"
        raise InputError(f"{name}: row {number}: {why}") from error
    except RecursionError:
        raise InputError(f"{name}: row {number}: values nested too deep: {text[:80]!r}") from None
    if not isinstance(row, dict):
        raise InputError(f"{name}: row {number}: expected one JSON object a line, found {text[:80]!r}")
    return row


def _jsonl_error(data: bytes, name: str, before: int, error: Exception) -> InputError:
    for number, line in enumerate(filter(bytes.strip, data.split(b"\n")), before + 1):
        try:
            _json_row(line, name, number)
        except InputError as found:
            return found
    return InputError(f"{name}: after row {before}: malformed JSON lines: {one_line(error)}")


def require(columns: Sequence[str], present: Sequence[str], source: object) -> str:
    """The first of the alternative names `columns` that is there."""
    for column in columns:
        if column in present:
            return column
    raise missing_column(source, columns[0], present)

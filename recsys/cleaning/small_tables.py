"""CSV tables that people write and review, held in memory: rows as text, errors that name file, row and fix."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from recsys.errors import InputError, missing_column
from recsys.runtime import atomic_file

LONGEST_FIELD = 1 << 20  # characters
Row = tuple[int, dict[str, str]]  # its number, the first below the header being 1, blank lines not counted; its cells


def read_rows(path: Path, columns: Sequence[str], *, any_of: Sequence[str] = ()) -> list[Row]:
    """Rows of a CSV file with a header, as text.

    Args:
        path: the file, in UTF-8, with or without a byte order mark.
        columns: must be there and filled.
        any_of: at least one of these must be there.

    Raises:
        InputError: no such file, not UTF-8, not CSV, a column is missing or stands twice, a row is longer than the
            header, or a cell of `columns` is blank.
    """
    previous = csv.field_size_limit(LONGEST_FIELD)
    try:
        reader = csv.DictReader(io.StringIO(_text(path), newline=""), restval="", strict=True)
        names = list(reader.fieldnames or [])
        _require_columns(path, names, columns, any_of)
        rows: list[Row] = list(enumerate(reader, start=1))
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error
    finally:
        csv.field_size_limit(previous)
    for number, row in rows:
        if len(row) > len(names):  # under None stands what no column has a name for
            count = len(names) + len(row[None])  # type: ignore[index]
            raise InputError(
                f"{path}: row {number}: {count} values for {len(names)} columns; quote values that hold a comma"
            )
        for column in columns:
            if not row[column]:
                raise InputError(f"{path}: row {number}: column '{column}' is empty; fill it or delete the row")
    return rows


def _text(path: Path) -> str:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        readable = error.object[: error.start].decode("utf-8") + "?"
        row = sum(map(bool, csv.reader(io.StringIO(readable, newline="")))) - 1
        where = f"row {row}" if row else "the header"
        raise InputError(f"{path}: {where}: not UTF-8; save as UTF-8 (Excel: 'CSV UTF-8')") from error


def _require_columns(path: Path, names: list[str], columns: Sequence[str], any_of: Sequence[str]) -> None:
    if not names:
        raise InputError(f"{path}: empty; needs the columns {', '.join(columns)}")
    lacking = [column for column in columns if column not in names]
    alternatives = any_of and not set(any_of) & set(names)
    for separator, called in ((";", "semicolons"), ("\t", "tabs")):
        if (lacking or alternatives) and len(names) == 1 and separator in names[0]:
            raise InputError(f"{path}: its columns are separated by {called}; separate the columns by commas")
    if lacking:
        raise missing_column(path, lacking[0], names)
    if alternatives:
        shown = ", ".join(names)
        raise InputError(f"{path}: has none of the columns {', '.join(any_of)}; columns: {shown}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{path}: the header names '{twice[0]}' twice; remove one of the columns")


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file that `read_rows` reads back as it was; None is an empty cell."""
    with atomic_file(path) as work, work.open("w", encoding="utf-8", newline="") as stream:
        for row in (columns, *rows):
            line = ",".join("" if cell is None else _quoted(str(cell)) for cell in row)
            stream.write((line or '""') + "\n")  # a blank line would be passed over


def _quoted(cell: str) -> str:
    # The csv module's writer leaves a lone carriage return bare, which its reader takes for the end of a row.
    return '"' + cell.replace('"', '""') + '"' if any(c in cell for c in ',"\r\n') else cell

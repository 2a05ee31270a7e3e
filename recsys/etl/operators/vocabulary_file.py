"""A vocabulary that is given: one value a line, or a column of a CSV or Parquet file; ids follow the file's order."""

from pathlib import Path

import polars as pl

from recsys.errors import InputError, missing_column, one_line


def read_vocabulary(path: Path | str, name: str, column: str | None = None) -> pl.Series:
    """The values (String) of the file, in its order.

    Args:
        path: a .csv or .parquet file, or text (any other suffix): UTF-8, one value a line, blanks count.
        name: of the categorical column, for messages; also the file's column unless `column` is given.
        column: of a .csv or .parquet file; None: `name`, or the only one there is.

    Raises:
        InputError: the file cannot be read, holds nothing, a row without a value (a gap) or a value twice. Names the
            file and the row (line, header included, of a text file; row without the header of a table).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; etl.categorical.{name}.vocabulary names it")
    is_table = path.suffix in (".csv", ".parquet")
    values = _of_table(path, name, column) if is_table else _of_lines(path)
    where = f"{path}: column '{values.name}', row" if is_table else f"{path}: line"
    if not len(values):
        raise InputError(f"{path}: no value in it; a vocabulary needs at least one")
    if values.null_count():
        row = int(values.is_null().arg_true()[0]) + 1
        raise InputError(f"{where} {row}: no value; ids must have no gap, so take the row out")
    again = ~values.is_first_distinct()
    if again.any():
        row = int(again.arg_true()[0])
        first = int((values == values[row]).arg_true()[0]) + 1
        raise InputError(f"{where} {row + 1}: {values[row]!r} stands in row {first} too; keep one of them")
    return values.alias("value")


def _of_lines(path: Path) -> pl.Series:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; convert it, for instance with iconv -t UTF-8") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines[-1] == "":
        lines.pop()  # the last line's end
    return pl.Series("value", [line or None for line in lines], dtype=pl.String)


def _of_table(path: Path, name: str, column: str | None) -> pl.Series:
    try:
        if path.suffix == ".parquet":
            table = pl.read_parquet(path, glob=False)
        else:
            table = pl.read_csv(path, infer_schema=False, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: not a readable vocabulary: {one_line(error)}") from error
    wanted = column or (table.columns[0] if table.width == 1 else name)
    if wanted not in table.columns:
        raise missing_column(path, wanted, table.columns)
    values = table[wanted]
    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
        raise InputError(f"{path}: column '{wanted}' is {values.dtype}; one plain value a row is needed")
    return values.cast(pl.String)

"""What is refused of a table's columns before a row is read: names that only case tells apart, types that change."""

from collections.abc import Container, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import InputError, one_line


def check_names(columns: Sequence[str], source: object) -> None:
    """Raise InputError where two columns differ in case only."""
    seen: dict[str, str] = {}
    for name in columns:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(f"{source}: columns '{other}' and '{name}' differ in case only; rename or drop one")


def check_types(files: Sequence[Path], numbers: Container[str] = ()) -> None:
    """Raise InputError where a column has one kind of values in one Parquet file and another in the next.

    Widths do not matter, nor does a column that is null throughout a file, nor whole numbers beside others in the
    columns of `numbers`. Files of other formats hold text only and are left aside.
    """
    first: dict[str, tuple[str, pa.Field, Path]] = {}
    for file in files:
        if file.suffix != ".parquet":
            continue
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{file}: not a readable Parquet file (cut off?): {one_line(error)}") from error
        for field in schema:
            kind = _kind(field.type)
            if kind == "number with a fraction" and field.name in numbers:
                kind = "whole number"
            if kind == "null":
                continue
            known, other, where = first.setdefault(field.name, (kind, field, file))
            if known != kind:
                raise InputError(
                    f"{file}: column '{field.name}' is {field.type}, but {other.type} in {where.name}; "
                    f"write one type in all files"
                )


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_null(kind):
        return "null"
    if pa.types.is_integer(kind):
        return "whole number"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number with a fraction"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"a list of {_kind(kind.value_type)}"
    if pa.types.is_timestamp(kind):
        return "time with a zone" if kind.tz else "time"
    return str(kind)

"""NVIDIA Merlin's view of a sequence dataset: `schema.pbtxt`, written without Merlin.

The file is a TensorFlow Metadata schema in protobuf's text form, as merlin-core writes and reads it
(``merlin.schema.io.tensorflow_metadata.TensorflowMetadata.from_proto_text_file(folder)``). It describes the columns
that the rows of train/, val/ and test/ hold; columns of scope `item` stand in ``workflow/items.parquet``.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from recsys.schema import SESSION_ID, TIMESTAMP, USER_ID, Column, Kind, Schema, Scope, Tag

SCHEMA_PBTXT = "schema.pbtxt"
_STRUCT = "type.googleapis.com/google.protobuf.Struct"
_TAGS = {
    Tag.ITEM_ID: ("item", "id"),
    Tag.SESSION_ID: ("session", "id"),
    Tag.USER_ID: ("user", "id"),
    Tag.TIMESTAMP: ("time",),
    Tag.TARGET: ("target",),
    Tag.CONTEXT: ("context",),
}
_KIND_TAGS = {Kind.CATEGORICAL: ("categorical",), Kind.CONTINUOUS: ("continuous",)}


def embedding_width(cardinality: int) -> int:
    """The width that NVTabular proposes for so many ids: 1.6 * n^0.56, between 16 and 512."""
    return min(512, max(16, round(1.6 * cardinality**0.56)))


def schema_pbtxt(schema: Schema, row_columns: Sequence[str] = (SESSION_ID,)) -> str:
    """Merlin's schema of sequences with the columns of `schema`.

    Args:
        schema: of the dataset; its columns of scope `event` are ragged lists, of lists where they are multi-valued.
        row_columns: those of session_id and user_id that the rows hold.
    """
    features = [_plain(SESSION_ID, Tag.SESSION_ID)] if SESSION_ID in row_columns else []
    features += [_plain(USER_ID, Tag.USER_ID)] if USER_ID in row_columns else []
    features.append(_feature(TIMESTAMP, "INT", 64, [*_TAGS[Tag.TIMESTAMP], "list"]))
    features += [_column(column) for column in schema.columns if column.scope is not Scope.ITEM]
    return "".join(features)


def write_schema_pbtxt(schema: Schema, folder: Path, row_columns: Sequence[str] = (SESSION_ID,)) -> None:
    """Write `schema_pbtxt` into `folder` (made if missing)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCHEMA_PBTXT).write_text(schema_pbtxt(schema, row_columns), encoding="utf-8")


def _column(column: Column) -> str:
    depth = 0 if column.scope is Scope.SEQUENCE else 1 + column.multi_valued
    tags = [*_KIND_TAGS.get(column.kind, ()), *(t for tag in column.tags for t in _TAGS[tag]), *["list"] * (depth > 0)]
    size = int(column.dtype.removeprefix("int").removeprefix("float") or 64) if _is_number(column) else 0
    if column.kind is Kind.CATEGORICAL and column.cardinality is not None:
        domain = f"int_domain {{ name: {_quoted(column.name)} max: {column.cardinality - 1} is_categorical: true }}"
        sizes = {"cardinality": column.cardinality, "dimension": embedding_width(column.cardinality)}
        return _feature(column.name, "INT", size, tags, domain, sizes, depth)
    kind = "FLOAT" if column.dtype.startswith("float") else "INT" if size else "BYTES"
    return _feature(column.name, kind, size, tags, depth=depth)


def _is_number(column: Column) -> bool:
    return column.dtype.startswith(("int", "float"))


def _plain(name: str, tag: Tag) -> str:
    return f"feature {{\n  name: {_quoted(name)}\n  type: BYTES\n  annotation {{\n{_tag_lines(_TAGS[tag])}  }}\n}}\n"


def _feature(
    name: str,
    kind: str,
    size: int,
    tags: Sequence[str],
    domain: str = "",
    sizes: dict[str, int] | None = None,
    depth: int = 1,
) -> str:
    """A ragged list column: one row a sequence, any number of events.

    depth: 0 for one value a sequence, 2 for a list an event.
    """
    any_length = _list([_number(0), "null_value: NULL_VALUE"])
    fields = [_field("_dims", _list([any_length] * (1 + depth)))]
    if size:
        fields.append(_field("dtype_item_size", _number(size)))
    if sizes is not None:
        inner = " ".join(_field(key, _number(value)) for key, value in sizes.items())
        fields.append(_field("embedding_sizes", f"struct_value {{ {inner} }}"))
    if depth:
        fields += [_field("is_list", "bool_value: true"), _field("is_ragged", "bool_value: true")]
    counts = ["  value_count { }"] if depth else []
    lines = [f"  name: {_quoted(name)}", *counts, f"  type: {kind}", *([f"  {domain}"] if domain else [])]
    extra = "\n".join(f"        {field}" for field in fields)
    return (
        "feature {\n"
        + "\n".join(lines)
        + "\n  annotation {\n"
        + _tag_lines(tags)
        + f"    extra_metadata {{\n      [{_STRUCT}] {{\n{extra}\n      }}\n    }}\n  }}\n}}\n"
    )


def _tag_lines(tags: Iterable[str]) -> str:
    return "".join(f'    tag: "{tag}"\n' for tag in tags)


def _field(key: str, value: str) -> str:
    return f'fields {{ key: "{key}" value {{ {value} }} }}'


def _number(value: int) -> str:
    return f"number_value: {value}"


def _list(values: Iterable[str]) -> str:
    return "list_value { " + " ".join(f"values {{ {value} }}" for value in values) + " }"


def _quoted(text: str) -> str:
    """A string literal of protobuf's text form: everything but plain ASCII as octal bytes."""
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in "\"\\'" else f"\\{b:03o}" for b in text.encode())
    return '"' + "".join(plain) + '"'

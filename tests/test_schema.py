"""The schema: reads back what it wrote, finds columns, tells misfits."""

import pytest

from recsys.errors import SchemaError
from recsys.schema import Column, Kind, Schema, Scope
from tests.data.sequences import make_schema


def test_it_reads_back_equal_and_rewrites_the_same_bytes(tmp_path):
    schema, path = make_schema(), tmp_path / "schema.json"
    schema.save(path)
    first = path.read_bytes()
    Schema.load(path).save(path)
    assert path.read_bytes() == first
    assert Schema.load(path) == schema


def test_columns_are_found_by_name_kind_scope_and_tag():
    schema = make_schema()
    assert schema.item().name == "item_id"
    assert schema["item_id"].num_values() == 12
    assert [c.name for c in schema.select(kind=Kind.CONTINUOUS)] == ["timestamp_interval", "merge_count"]
    assert [c.name for c in schema.select(scope=Scope.ITEM)] == ["classification"]
    with pytest.raises(SchemaError, match="no column 'item' .did you mean 'item_id'"):
        schema["item"]


def test_a_schema_without_an_item_column_says_so():
    with pytest.raises(SchemaError, match="0 columns are tagged item_id"):
        Schema(columns=[]).item()


def changed(name: str, **values: object) -> Schema:
    return Schema(columns=[c.model_copy(update=values) if c.name == name else c for c in make_schema().columns])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            changed("classification", cardinality=366),
            "column 'classification' has 366 classes, the run was trained with 7",
        ),
        (changed("item_id", vocabulary_sha256="x"), "column 'item_id' has another vocabulary than the run"),
        (
            changed("cat", kind=Kind.CONTINUOUS),
            "column 'cat' is continuous, the run was trained with categorical",
        ),
        (Schema(columns=make_schema().columns[1:]), "column 'item_id' is missing"),
    ],
)
def test_misfits_are_named_with_the_fix(other, message):
    with pytest.raises(SchemaError, match=f"schema.json: {message}; preprocess with --workflow RUN/workflow"):
        other.require_match(make_schema(), "schema.json")


def test_further_columns_do_no_harm():
    more = Schema(columns=[*make_schema().columns, Column(name="x", kind=Kind.TEXT)])
    more.require_match(make_schema(), "schema.json")
    assert more.differences(make_schema()) == []


def test_bad_files_are_named(tmp_path):
    with pytest.raises(SchemaError, match="no such file"):
        Schema.load(tmp_path / "schema.json")
    path = tmp_path / "schema.json"
    path.write_text('{"columns": [{"name": "a", "kind": "wrong"}]}')
    with pytest.raises(SchemaError, match=r"columns\.0\.kind"):
        Schema.load(path)

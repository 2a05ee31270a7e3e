"""merlin-core reads our schema.pbtxt, NVTabular our vocabularies and sequences, and both find in them what we meant."""

import warnings

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import EtlConfig
from recsys.etl.merlin import embedding_width, schema_pbtxt, write_schema_pbtxt
from recsys.etl.nvtabular_graph import load_nvtabular
from recsys.etl.workflow import Workflow
from recsys.schema import Column, Kind, Schema, Scope, Tag
from tests.etl.nvtabular_cases import VALUES
from tests.tiny_run import make_commands, make_events

dask = pytest.importorskip("dask", reason="scripts/setup.sh nvtabular installs it")
nvt = load_nvtabular()
pd = pytest.importorskip("pandas")
metadata = pytest.importorskip("merlin.schema.io.tensorflow_metadata")
Tags = pytest.importorskip("merlin.schema").Tags

CONFIG = {
    "categorical": {"item_id": {}, "classification": {}, "merged": {"hash_buckets": 4}},
    "continuous": {"timestamp_interval": {"transforms": ["log1p"]}},
    "time": {"features": ["hour"]},
    "bucketise": {"merge_count": {"boundaries": [2.0]}},
    "text": ["user_id"],
}


@pytest.fixture(autouse=True)
def in_this_process():
    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A workflow with every kind of column, and the folder that it is saved in."""
    folder = tmp_path_factory.mktemp("merlin")
    events = make_events().rename({"user_id": "note"})
    events = events.with_columns(events["merge_count"].alias("merged"))
    config = EtlConfig.model_validate(CONFIG | {"text": ["note"]})
    workflow = Workflow(config).fit(events, make_commands())
    workflow.save(folder / "workflow")
    workflow.transform(events).write_parquet(folder / "part-00000.parquet")
    return workflow, folder, events


def read(folder):
    return metadata.TensorflowMetadata.from_proto_text_file(str(folder)).to_merlin_schema()


def test_merlin_reads_types_tags_and_domains(fitted):
    workflow, folder, _ = fitted
    schema = read(folder / "workflow")
    lists = ["timestamp", "item_id", "merged", "hour", "merge_count_bucket", "timestamp_interval", "note"]
    assert schema.column_names == ["session_id", *lists]  # not classification, which is the items'
    kinds = {"timestamp": "int64", "timestamp_interval": "float32", "note": "str", "session_id": "str"}
    for column in schema:
        assert column.dtype.name == kinds.get(column.name, "int32"), column.name
        assert column.is_list == column.is_ragged == (column.name in lists), column.name
    sizes = {"item_id": 3 + 14, "merged": 3 + 3 + 4, "hour": 3 + 24, "merge_count_bucket": 3 + 2}
    for name, size in sizes.items():
        assert workflow.schema[name].cardinality == size
        domain = schema[name].int_domain
        assert (domain.min, domain.max) == (0, size - 1)
        assert schema[name].properties["embedding_sizes"] == {"cardinality": size, "dimension": embedding_width(size)}
    assert all(schema[name].int_domain is None for name in set(schema.column_names) - set(sizes))
    assert set(schema.select_by_tag(Tags.CATEGORICAL).column_names) == set(sizes)
    assert schema.select_by_tag(Tags.CONTINUOUS).column_names == ["timestamp_interval"]
    assert schema.select_by_tag(Tags.ITEM_ID).column_names == ["item_id"]
    assert schema.select_by_tag(Tags.SESSION_ID).column_names == ["session_id"]
    assert schema.select_by_tag(Tags.TIME).column_names == ["timestamp"]


def test_what_merlin_writes_again_says_the_same(fitted, tmp_path):
    _, folder, _ = fitted
    schema = read(folder / "workflow").remove_col("session_id").remove_col("note")  # Merlin's own writer loses text
    metadata.TensorflowMetadata.from_merlin_schema(schema).to_proto_text_file(str(tmp_path))
    again = read(tmp_path)
    assert again == schema
    assert [c.tags for c in again] == [c.tags for c in schema]
    assert [c.properties for c in again] == [c.properties for c in schema]


def test_users_targets_and_item_columns(tmp_path):
    target = Column(name="next", kind=Kind.CATEGORICAL, tags=[Tag.TARGET], dtype="int64", cardinality=9)
    context = Column(name="shop", kind=Kind.CATEGORICAL, tags=[Tag.CONTEXT], dtype="int32", cardinality=4)
    item = Column(name="colour", kind=Kind.CATEGORICAL, scope=Scope.ITEM, dtype="int32", cardinality=4)
    schema = Schema(columns=[target, context, item])
    write_schema_pbtxt(schema, tmp_path / "new", ("session_id", "user_id"))
    assert (tmp_path / "new" / "schema.pbtxt").read_text() == schema_pbtxt(schema, ("session_id", "user_id"))
    found = read(tmp_path / "new")
    assert found.column_names == ["session_id", "user_id", "timestamp", "next", "shop"]
    assert found.select_by_tag(Tags.USER_ID).column_names == ["user_id"]
    assert found.select_by_tag(Tags.TARGET).column_names == ["next"]
    assert found.select_by_tag(Tags.CONTEXT).column_names == ["shop"]


def test_lists_of_lists_and_single_values(tmp_path):
    tags = Column(name="tags", kind=Kind.CATEGORICAL, dtype="int32", cardinality=9, multi_valued=True)
    country = Column(name="country", kind=Kind.CATEGORICAL, scope=Scope.SEQUENCE, dtype="int32", cardinality=5)
    age = Column(name="age", kind=Kind.CONTINUOUS, scope=Scope.SEQUENCE, dtype="float32", tags=[Tag.CONTEXT])
    write_schema_pbtxt(Schema(columns=[tags, country, age]), tmp_path)
    found = read(tmp_path)
    assert [len(found[n].shape.dims) for n in ("timestamp", "tags", "country", "age")] == [2, 3, 1, 1]
    assert [found[n].is_list for n in ("timestamp", "tags", "country", "age")] == [True, True, False, False]
    assert found["country"].int_domain.max == 4 and found["country"].dtype.name == "int32"
    assert found["age"].dtype.name == "float32" and found.select_by_tag(Tags.CONTEXT).column_names == ["age"]


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda name: name != "timestamp"))
def test_any_name_survives(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("names")
    column = Column(name=name, kind=Kind.CATEGORICAL, dtype="int32", cardinality=5)
    write_schema_pbtxt(Schema(columns=[column]), folder, ())
    found = read(folder)
    assert found.column_names == ["timestamp", name]
    assert found[name].int_domain.name == name


@pytest.mark.parametrize("size", [3, 4, 57, 58, 1000, 4003, 12_345, 300_000, 10**7])
def test_embedding_widths_are_nvtabulars(size):
    rule = pytest.importorskip("nvtabular.ops.categorify")._emb_sz_rule
    assert (size, embedding_width(size)) == rule(size)


def session(values):
    """One session of these items."""
    return pl.DataFrame({"session_id": "s", "item_id": values, "timestamp": range(len(values))})


def make_vocabulary(folder):
    """A workflow over awkward values, and values to encode with it."""
    names = [value for n, value in enumerate(VALUES) for _ in range(n % 3 + 2)]
    events = session(names)
    workflow = Workflow(EtlConfig(categorical={"item_id": {}})).fit(events)
    workflow.save(folder)
    return workflow, [*VALUES, None, "never", *VALUES[::-1], None]


@pytest.mark.parametrize("how", ["path", "values"])
def test_nvtabular_encodes_alike_with_our_file(tmp_path, how):
    workflow, values = make_vocabulary(tmp_path / "workflow")
    file = tmp_path / "workflow" / "unique.item_id.parquet"
    table = pd.read_parquet(file)
    assert table.columns.tolist() == ["item_id", "item_id_size"]
    given = {"path": str(file), "values": table["item_id"]}[how]
    operator = nvt.ops.Categorify(vocabs={"item_id": given}, out_path=str(tmp_path / how))
    rows = nvt.Dataset(pd.DataFrame({"item_id": values}), cpu=True)
    theirs = nvt.Workflow(["item_id"] >> operator).fit_transform(rows).to_ddf().compute()["item_id"].tolist()
    assert theirs == workflow.transform(session(values))["item_id"].to_list()[0]
    assert theirs[len(VALUES) : len(VALUES) + 2] == [1, 2] and len(set(theirs)) == len(VALUES) + 2


def test_nvtabulars_own_file_has_the_same_shape(tmp_path):
    workflow, values = make_vocabulary(tmp_path / "workflow")
    names = [v for v, n in zip(workflow.vocabulary("item_id").values, range(20, 0, -1), strict=False) for _ in range(n)]
    operator = nvt.ops.Categorify(out_path=str(tmp_path))
    nvt.Workflow(["item_id"] >> operator).fit(nvt.Dataset(pd.DataFrame({"item_id": names}), cpu=True))
    theirs, ours = (
        pd.read_parquet(operator.categories["item_id"]),
        pd.read_parquet(tmp_path / "workflow" / "unique.item_id.parquet"),
    )
    assert theirs.columns.tolist() == ours.columns.tolist()
    assert theirs.dtypes.tolist() == ours.dtypes.tolist()
    assert theirs["item_id"].tolist() == ours["item_id"].tolist()
    # A fitted operator, pointed at our file, encodes by it.
    operator.categories["item_id"] = str(tmp_path / "workflow" / "unique.item_id.parquet")
    rows = nvt.Dataset(pd.DataFrame({"item_id": values}), cpu=True)
    found = nvt.Workflow(["item_id"] >> operator).transform(rows).to_ddf().compute()["item_id"].tolist()
    assert found == workflow.transform(session(values))["item_id"].to_list()[0]


def test_nvtabular_reads_our_sequences_by_our_schema(fitted):
    workflow, folder, events = fitted
    path = str(folder / "part-00000.parquet")
    data = nvt.Dataset(path, engine="parquet", schema=read(folder / "workflow"), cpu=True)
    columns = ["item_id", "timestamp_interval", "timestamp"]
    cut = nvt.Workflow(columns >> nvt.ops.ListSlice(-3))
    found = cut.fit_transform(data)
    expected = workflow.transform(events)
    for name in columns:
        lists = [list(values) for values in found.to_ddf().compute()[name]]
        assert lists == [values[-3:] for values in expected[name].to_list()]
    assert found.schema["item_id"].int_domain.max == workflow.schema["item_id"].cardinality - 1

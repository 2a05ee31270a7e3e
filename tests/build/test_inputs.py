"""Configuration to inputs: every choice builds what it names, and what cannot be built is refused in a line."""

import numpy as np
import polars as pl
import pytest
import torch

from recsys.build import attach_text, build_model
from recsys.config import ModelConfig, parse
from recsys.errors import ConfigError, InputError, SchemaError
from recsys.inputs import SequenceInputs
from recsys.nn import fusion
from recsys.nn.time import cyclic_table
from recsys.schema import Column, Kind, Schema, Scope, Tag
from tests.data.models import TINY
from tests.data.sequences import make_items, make_schema


def build(
    schema: Schema | None = None, items: pl.DataFrame | None = None, pretrained=None, **changes
) -> SequenceInputs:
    config = parse(ModelConfig, {**TINY, "inputs": {**TINY["inputs"], **changes}}, "test")
    torch.manual_seed(0)
    given = make_items() if items is None else items
    return build_model(config, schema or make_schema(), given, pretrained).inputs


def with_column(**values) -> Schema:
    return Schema(columns=[*make_schema().columns, Column(**values)])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("self_attention", fusion.SelfAttentionFusion),
        ("cross_attention", fusion.CrossAttentionFusion),
        ("gated", fusion.GatedFusion),
        ("item_product", fusion.ItemProductFusion),
        ("concatenation", fusion.ConcatenationFusion),
        ("sum", fusion.SumFusion),
    ],
)
def test_fusions_by_name(name, kind):
    inputs = build(fusion=name, fusion_heads=8)
    assert type(inputs.fusion) is kind
    assert getattr(inputs.fusion, "num_heads", 8) == 8
    columns = {"item_id": torch.tensor([[3, 4]]), "cat": torch.tensor([[3, 3]])}
    columns |= {"timestamp_interval": torch.zeros(1, 2), "merge_count": torch.zeros(1, 2)}
    assert inputs(columns).shape == (1, 2, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": "gatd"}, "inputs.fusion: 'gatd'"),
        ({"fusion": "item_product", "streams": []}, "item_product needs a second stream"),
        ({"fusion_size": 18, "fusion_heads": 4}, r"fusion_heads \(4\) must divide fusion_size \(18\); try 3"),
        ({"gaps": {"merge_coun": {}}}, "no number 'merge_coun' .did you mean 'merge_count'"),
        ({"gaps": {"cat": {}}}, "no number 'cat'"),
        ({"gaps": {"merge_count": {"longest": 0}}}, "greater than 0"),
        ({"gaps": {"merge_count": {"bucket": 3}}}, "unknown key 'inputs.gaps.merge_count.bucket'"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(**changes)


def test_a_gap_leaves_the_numbers_and_becomes_a_stream():
    inputs = build(gaps={"timestamp_interval": {"buckets": 5, "longest": 9.0, "scale": "sqrt"}})
    assert inputs.event_continuous == ["merge_count"]
    gap = inputs.gaps["timestamp_interval"]
    assert (gap.num_buckets, gap.longest, gap.scale) == (5, 9.0, "sqrt")
    assert len(inputs.projections) == 5


def test_hours_are_embedded_or_put_on_a_circle():
    schema = with_column(name="hour", kind=Kind.CATEGORICAL, cardinality=27)
    assert build(schema).embeddings["hour"].weight.shape == (27, 8)
    circle = build(schema, clock="sin_cos").embeddings["hour"]
    torch.testing.assert_close(circle.table, cyclic_table(27, 3))
    assert not list(circle.parameters())


def test_context_is_added_behind_the_fusion():
    schema = with_column(name="shop", kind=Kind.CATEGORICAL, cardinality=6, tags=[Tag.CONTEXT])
    inputs = build(schema).eval()
    assert "shop" not in inputs.projections
    columns = {"item_id": torch.tensor([[3, 4]]), "cat": torch.tensor([[3, 3]]), "shop": torch.tensor([[4, 4]])}
    columns |= {"timestamp_interval": torch.zeros(1, 2), "merge_count": torch.zeros(1, 2)}
    before = inputs(columns)
    torch.nn.init.ones_(inputs.context.tables["shop"].weight)
    torch.testing.assert_close(inputs(columns), before + 1)


def test_a_list_of_values_an_item_is_a_bag():
    schema = with_column(name="genres", kind=Kind.CATEGORICAL, scope=Scope.ITEM, cardinality=6)
    lists = [None, [], [], [3, 4], [5], *[[3]] * 10]
    items = make_items().with_columns(pl.Series("genres", lists, dtype=pl.List(pl.Int32)))
    inputs = build(schema, items)
    assert inputs.item_bags["genres"].bags[:5].tolist() == [[0, 0], [0, 0], [0, 0], [3, 4], [5, 0]]
    assert inputs.item_attributes == ["classification"]


def text_table() -> torch.Tensor:
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(15, 6))).float()
    table[:3] = 0
    return table


def test_a_text_table_is_projected():
    inputs = build(pretrained=text_table(), text_use="projected")
    assert inputs.pretrained.reduce.weight.shape == (8, 6)
    assert inputs.projections["pretrained"].linear.in_features == 8


def test_a_text_table_is_the_items_first_embedding():
    inputs, without = build(pretrained=text_table(), text_use="initialiser"), build()
    assert inputs.pretrained is None
    assert list(inputs.state_dict()) == list(without.state_dict())
    ours, drawn = inputs.item_table().detach(), without.item_table().detach()
    assert (ours[:3] == drawn[:3]).all()
    near, far = (torch.cdist(x[3:].double(), x[3:].double()) for x in (ours[:, :6], text_table()))
    torch.testing.assert_close(near / near.max(), far / far.max(), rtol=1e-3, atol=1e-4)
    assert (ours[:, 6:] == drawn[:, 6:]).all()


@pytest.mark.parametrize("use", ["frozen", "projected", "initialiser"])
def test_saved_weights_fit_a_model_built_without_the_table(use, tmp_path):
    np.save(tmp_path / "text.npy", text_table().numpy())
    inputs = {**TINY["inputs"], "text_table": str(tmp_path / "text.npy"), "text_use": use}
    config = parse(ModelConfig, {**TINY, "inputs": inputs}, "test")
    schema, vectors = attach_text(config.inputs, make_schema())
    model, again = build_model(config, schema, make_items(), vectors), build_model(config, schema, make_items())
    again.load_state_dict(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert (again.state_dict()[name] == tensor).all(), name


def test_a_table_of_another_size_of_vocabulary_is_refused(tmp_path):
    np.save(tmp_path / "text.npy", text_table()[:14].numpy())
    config = parse(ModelConfig, {"inputs": {"text_table": str(tmp_path / "text.npy")}}, "test")
    with pytest.raises(InputError, match="has 14 rows, the vocabulary has 15 ids"):
        attach_text(config.inputs, make_schema())


@pytest.mark.parametrize(
    ("column", "streams", "message"),
    [
        (
            {"name": "description", "kind": Kind.TEXT, "scope": Scope.ITEM},
            ["description"],
            r"'description' is text, .*`python -m model.pretrained_text_embedding --data .*text_table: TABLE",
        ),
        (
            {"name": "query", "kind": Kind.TEXT},
            ["query"],
            "'query' is text, .*commands.parquet.*or name the col",
        ),
        (
            {"name": "shop", "kind": Kind.CATEGORICAL, "cardinality": 4},
            ["text"],
            "'text' needs model.inputs.text_",
        ),
        (
            {"name": "a.b", "kind": Kind.CATEGORICAL, "cardinality": 4},
            None,
            r"a stream cannot be called 'a\.b'; ren",
        ),
        (
            {"name": "type", "kind": Kind.CATEGORICAL, "cardinality": 4},
            None,
            "a stream cannot be called 'type'; ren",
        ),
    ],
)
def test_columns_that_are_no_streams_are_refused(column, streams, message):
    with pytest.raises(ConfigError, match=message):
        build(with_column(**column), streams=streams)


def test_numbers_may_have_any_name():
    assert build(with_column(name="unit.price", kind=Kind.CONTINUOUS)).event_continuous[-1] == "unit.price"


def test_an_item_table_without_the_lists_of_the_schema_is_refused():
    schema = with_column(name="genres", kind=Kind.CATEGORICAL, scope=Scope.ITEM, cardinality=6, multi_valued=True)
    with pytest.raises(SchemaError, match="items.parquet: column 'genres' has one value an item"):
        build(schema, make_items().with_columns(genres=pl.lit(3)))


def test_lists_of_events_and_one_value_a_sequence():
    columns = [
        Column(name="tags", kind=Kind.CATEGORICAL, cardinality=7, multi_valued=True),
        Column(name="age", kind=Kind.CONTINUOUS, scope=Scope.SEQUENCE),
        Column(name="country", kind=Kind.CATEGORICAL, scope=Scope.SEQUENCE, cardinality=5),
    ]
    schema = Schema(columns=[*make_schema().columns, *columns])
    inputs = build(schema)
    assert inputs.event_bags["tags"].table.weight.shape == (7, 8) and "tags" in inputs.projections
    assert inputs.context.tables["country"].weight.shape == (5, 16) and inputs.context.continuous == ["age"]
    assert not {"tags", "country"} & set(inputs.event_categorical) and "age" not in inputs.event_continuous
    left_out = build(schema, streams=["cat"])
    assert left_out.context is None and not left_out.event_bags


def as_stream(name: str, part: str) -> Schema:
    """A column of the name, in one of the parts that a column can play."""
    parts = {
        "event": Column(name=name, kind=Kind.CATEGORICAL, cardinality=5),
        "list": Column(name=name, kind=Kind.CATEGORICAL, cardinality=5, multi_valued=True),
        "attribute": Column(name=name, kind=Kind.CATEGORICAL, scope=Scope.ITEM, cardinality=5),
        "context": Column(name=name, kind=Kind.CATEGORICAL, cardinality=5, tags=[Tag.CONTEXT]),
        "gap": Column(name=name, kind=Kind.CONTINUOUS),
    }
    return Schema(columns=[*make_schema().columns, parts[part]])


def with_values(name: str) -> pl.DataFrame:
    return make_items().with_columns(pl.lit(3, dtype=pl.Int32).alias(name))


@pytest.mark.parametrize("part", ["event", "list", "attribute", "gap"])
@pytest.mark.parametrize("name", ["continuous", "pretrained"])
def test_a_column_called_as_a_stream_that_there_is_too_is_refused(name, part):
    both = {"gaps": {name: {}}} if part == "gap" else {}
    schema, items = as_stream(name, part), with_values(name)
    text = text_table() if name == "pretrained" else None
    with pytest.raises(
        ConfigError, match=rf"model\.inputs: column '{name}' is called as the stream of .*; rename it in"
    ):
        build(schema, items, text, **both)
    alone = ["cat", name] if name == "continuous" else None  # without numbers; without a text table
    built = build(schema, items, streams=alone, **both)
    assert name in built.projections and len(built.projections) == (3 if alone else 5)


def test_context_and_numbers_may_be_called_as_a_stream():
    for name in ("continuous", "pretrained"):
        assert name in build(as_stream(name, "context"), None, text_table()).context.tables
        assert name in build(as_stream(name, "gap"), None, text_table()).event_continuous


@pytest.mark.parametrize("part", ["event", "list", "attribute", "context", "gap"])
def test_a_column_called_text_is_a_stream_unless_there_is_a_table(part, tmp_path):
    np.save(tmp_path / "text.npy", text_table().numpy())
    schema = as_stream("text", part)
    config = parse(ModelConfig, {"inputs": {"text_table": str(tmp_path / "text.npy")}}, "test")
    with pytest.raises(
        ConfigError, match="text_table: the data have a column 'text'.*; rename it in the data"
    ) as caught:
        attach_text(config.inputs, schema)
    assert "\n" not in str(caught.value)
    built = build(schema, with_values("text"), gaps={"text": {}} if part == "gap" else {})
    assert built.pretrained is None
    assert "text" in (built.context.tables if part == "context" else built.projections)


def test_a_table_is_attached_again_to_the_schema_of_a_run(tmp_path):
    np.save(tmp_path / "text.npy", text_table().numpy())
    config = parse(ModelConfig, {"inputs": {"text_table": str(tmp_path / "text.npy")}}, "test")
    schema, _ = attach_text(config.inputs, make_schema())
    assert attach_text(config.inputs, schema)[0] == schema


def test_a_column_of_raw_text_may_be_called_text(tmp_path):
    schema = with_column(name="text", kind=Kind.TEXT, scope=Scope.ITEM)
    assert build(schema).pretrained is None
    with pytest.raises(ConfigError, match="column 'text' is text"):
        build(schema, streams=["text"])
    np.save(tmp_path / "text.npy", text_table().numpy())
    config = parse(ModelConfig, {"inputs": {"text_table": str(tmp_path / "text.npy")}}, "test")
    attached, vectors = attach_text(config.inputs, schema)
    assert attached["text"].kind is Kind.PRETRAINED
    assert "pretrained" in build(attached, None, vectors, streams=["text"]).projections

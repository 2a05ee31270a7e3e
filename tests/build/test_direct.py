"""Inputs without learned maps: embeddings enter the backbone, and come back as the output table, as they are."""

import pytest
import torch

from recsys.build import build_model
from recsys.config import ModelConfig, parse
from recsys.errors import ConfigError
from recsys.schema import Column, Kind, Schema
from tests.data.models import TINY
from tests.data.sequences import make_items, make_schema

DIRECT = {"streams": ["cat"], "fusion": "sum", "direct": True, "dropout": 0.0}
DIRECT |= {"embedding_size": 16, "fusion_size": 16}


def build(inputs=None, **changes):
    values = {**TINY, "inputs": {**DIRECT, **(inputs or {})}, "auxiliary": [], "tied": True, **changes}
    config = parse(ModelConfig, values, "test")
    return build_model(config, make_schema(), make_items(), None)


def test_vectors_are_the_sum_of_the_embeddings():
    model = build().eval()
    columns = {"item_id": torch.tensor([[3, 4, 3]]), "cat": torch.tensor([[4, 3, 3]])}
    tables = [model.inputs.embeddings[name].weight for name in ("item_id", "cat")]
    expected = (tables[0][columns["item_id"]] + tables[1][columns["cat"]]) / 2**0.5
    torch.testing.assert_close(model.inputs(columns), expected)
    torch.testing.assert_close(model.inputs(columns, model.inputs.tables()), expected)


def test_the_output_table_is_the_embedding():
    model = build().eval()
    hidden, reserved = torch.randn(4, 16), model.heads[model.item].reserved
    embedding = model.inputs.item_table()
    torch.testing.assert_close(model.item_scores(hidden)[:, reserved:], (hidden @ embedding.T)[:, reserved:])
    names = {name for name, _ in model.named_parameters()}
    assert not {name for name in names if "projections" in name or "tied" in name or name.startswith("inputs.output")}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"fusion_size": 8, "fusion_heads": 1}, r"fusion_size \(8\) and backbone.hidden_size \(16\) must be equal"),
        ({"streams": None}, "'timestamp_interval, merge_count' is numbers"),
    ],
)
def test_what_cannot_enter_as_it_is_is_refused(inputs, message):
    with pytest.raises(ConfigError, match=message):
        build(inputs)


def test_a_frozen_text_is_refused():
    config = parse(ModelConfig, {**TINY, "inputs": {**DIRECT, "streams": ["text"]}, "auxiliary": []}, "test")
    schema = make_schema()
    with pytest.raises(ConfigError, match="projected or initialiser"):
        build_model(config, schema, make_items(), torch.randn(schema.item().num_ids(), 7))


@pytest.mark.parametrize("name", ["hour", "weekday"])
def test_a_clock_of_circles_is_refused(name):
    clock = Column(name=name, kind=Kind.CATEGORICAL, cardinality=10)
    schema = Schema(columns=[*make_schema().columns, clock])

    def vectors(**inputs):
        values = {**TINY, "inputs": {**DIRECT, **inputs}, "auxiliary": []}
        columns = {"item_id": torch.tensor([[3, 4]]), "cat": torch.tensor([[3, 3]]), name: torch.tensor([[3, 9]])}
        return build_model(parse(ModelConfig, values, "test"), schema, make_items()).inputs(columns)

    with pytest.raises(
        ConfigError, match=rf"direct: '{name}' is places on a circle.*; set clock to embedding"
    ) as caught:
        vectors(streams=["cat", name], clock="sin_cos")
    assert "\n" not in str(caught.value)
    assert vectors(streams=["cat", name]).shape == vectors(streams=["cat"], clock="sin_cos").shape == (1, 2, 16)

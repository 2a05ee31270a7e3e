"""Inputs: item streams once per distinct item give what they give per event; every column counts."""

import torch

from recsys.build import build_model
from recsys.config import ModelConfig, parse
from recsys.data.collate import Collator
from recsys.data.windows import evaluation_windows
from recsys.nn.masking import causal
from tests.data.models import TINY, make_model
from tests.data.sequences import make_dataset, make_items, make_schema


def some_inputs() -> dict[str, torch.Tensor]:
    data = make_dataset([6, 4, 9])
    windows = evaluation_windows(data, 16, "all")
    return Collator(data, ["item_id"], lambda i, n: causal(i, n)[:2])(windows).inputs


def test_sharing_by_distinct_item_changes_nothing():
    inputs = make_model().inputs.eval()
    columns = some_inputs()
    shared = inputs(columns)
    items = columns["item_id"].flatten()
    per_event = inputs.fusion(inputs.item_streams(items), torch.arange(len(items)), inputs.event_streams(columns))
    expected = inputs.output(per_event).view(*columns["item_id"].shape, -1)
    torch.testing.assert_close(shared, expected, rtol=1e-4, atol=1e-5)


def test_streams_are_projected_and_normalised_as_documented():
    inputs = make_model().inputs.eval()
    items = torch.tensor([3, 7, 2])
    streams = inputs.item_streams(items)
    classes = torch.tensor(make_items()["classification"].to_list())[items]
    for n, (name, ids) in enumerate((("item_id", items), ("classification", classes))):
        projection = inputs.projections[name]
        raw = inputs.embeddings[name].weight[ids] @ projection.linear.weight.T + projection.linear.bias
        normal = (raw - raw.mean(-1, keepdim=True)) / (raw.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        expected = normal * projection.norm.weight + projection.norm.bias
        torch.testing.assert_close(streams[:, n], expected, rtol=1e-4, atol=1e-5)


def test_every_column_moves_the_vectors_of_its_own_event_only():
    inputs = make_model().inputs.eval()
    columns = some_inputs()
    before = inputs(columns)
    for name, values in columns.items():
        changed = values.clone()
        changed[1, 2] = 4 if values.dtype == torch.int64 and int(values[1, 2]) != 4 else 3
        moved = (inputs({**columns, name: changed}) - before).abs().sum(-1) > 1e-6
        assert moved.nonzero().tolist() == [[1, 2]], name


def test_pretrained_vectors_are_a_stream_of_their_own():
    torch.manual_seed(0)
    table = torch.randn(15, 6)
    model = build_model(parse(ModelConfig, TINY, "test"), make_schema(), make_items(), pretrained=table)
    assert model.inputs.item_streams(torch.tensor([3])).shape == (1, 3, 16)
    assert "inputs.pretrained.table" in model.state_dict()
    assert not any("pretrained.table" in name for name, _ in model.named_parameters())

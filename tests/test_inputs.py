"""Inputs: each distinct value once gives what every event gives; finished tables give the same; every column counts."""

import polars as pl
import pytest
import torch

from recsys.build import build_model
from recsys.config import ModelConfig, parse
from recsys.data.windows import evaluation_windows
from recsys.inputs import SequenceInputs
from recsys.schema import Column, Kind, Schema, Tag
from tests.data.models import TINY, make_model
from tests.data.sequences import make_dataset, make_items, make_schema

FUSIONS = ("self_attention", "cross_attention", "gated", "item_product", "concatenation", "sum")


LENGTHS = (6, 4, 9)


def some_inputs() -> dict[str, torch.Tensor]:
    data = make_dataset(list(LENGTHS))
    columns, _ = data.gather(evaluation_windows(data, 16, "all"))
    whole = {name: x.dtype.kind == "i" for name, x in columns.items()}
    inputs = {
        name: torch.from_numpy(x).to(torch.int64 if whole[name] else torch.float32) for name, x in columns.items()
    }
    return inputs | {"merge_count": inputs["merge_count"].abs()}


def rich_inputs(fusion: str = "self_attention") -> tuple[SequenceInputs, dict[str, torch.Tensor]]:
    """Inputs with every kind of stream, and columns for them: item, class, bag, text, category, hour, gap, numbers.

    And a column of lists; behind the fusion two columns of context, one at every event and one a sequence.
    """
    more = [
        Column(name="genres", kind=Kind.CATEGORICAL, scope="item", cardinality=8),
        Column(name="hour", kind=Kind.CATEGORICAL, cardinality=27),
        Column(name="shop", kind=Kind.CATEGORICAL, cardinality=6, tags=[Tag.CONTEXT]),
        Column(name="tags", kind=Kind.CATEGORICAL, cardinality=9, multi_valued=True),
        Column(name="country", kind=Kind.CATEGORICAL, cardinality=6, scope="sequence", tags=[Tag.CONTEXT]),
    ]
    schema = Schema(columns=[*make_schema().columns, *more])
    bags = [[], [], [], *([3 + n % 5, 3 + n % 3][: 1 + n % 2] for n in range(12))]
    items = make_items().with_columns(pl.Series("genres", bags, dtype=pl.List(pl.Int32)))
    gaps = {"merge_count": {"longest": 4.0, "buckets": 6}}
    changes = {"fusion": fusion, "gaps": gaps, "clock": "sin_cos", "text_use": "projected"}
    config = parse(ModelConfig, {**TINY, "inputs": {**TINY["inputs"], **changes}}, "test")
    torch.manual_seed(0)
    inputs = build_model(config, schema, items, torch.randn(15, 6)).inputs.eval()
    for table in inputs.context.tables.values():
        torch.nn.init.normal_(table.weight)
    columns = some_inputs()
    shape = columns["item_id"].shape
    sizes = torch.randint(0, 4, (shape.numel(),))
    lists = {"tags": torch.randint(1, 9, (int(sizes.sum()),)), "tags.offsets": torch.tensor([0, *sizes.cumsum(0)])}
    columns |= {"hour": torch.randint(3, 27, shape), "shop": torch.randint(3, 6, shape), **lists}
    return inputs, columns | {"country": torch.randint(3, 6, shape[:1])}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_sharing_distinct_values_changes_nothing(fusion):
    inputs, columns = rich_inputs(fusion)
    fused = inputs.fusion(inputs.streams(columns, share=False))
    expected = inputs.output(fused).view(*columns["item_id"].shape, -1) + inputs.context(columns)
    shared = inputs(columns)
    torch.testing.assert_close(shared, expected, rtol=1e-4, atol=1e-5)
    probe, wanted = torch.randn_like(expected), list(inputs.parameters())
    ours = torch.autograd.grad((shared * probe).sum(), wanted)
    for mine, theirs in zip(ours, torch.autograd.grad((expected * probe).sum(), wanted), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_finished_tables_give_the_same(fusion):
    inputs, columns = rich_inputs(fusion)
    torch.testing.assert_close(inputs(columns, inputs.tables()), inputs(columns), rtol=1e-4, atol=1e-5)


def test_streams_are_encoded_once_a_distinct_value():
    inputs, columns = rich_inputs()
    streams = inputs.streams(columns, lengths=torch.tensor(LENGTHS))
    items = columns["item_id"].unique()
    classes = inputs.attributes[items, 0].unique()
    padding = torch.arange(max(LENGTHS)) >= torch.tensor(LENGTHS)[:, None]
    hours, gaps = columns["hour"].unique(), inputs.gaps["merge_count"].ids(columns["merge_count"], padding)
    expected = [len(x) for x in (items, classes, items, items, columns["cat"].unique(), hours, gaps.unique())]
    assert [len(s.values) for s in streams] == [*expected, *[columns["item_id"].numel()] * 2]


def test_streams_are_projected_and_normalised_as_documented():
    inputs = make_model().inputs.eval()
    items = torch.tensor([[3, 7, 2]])
    streams = inputs.streams(
        some_inputs() | {name: x[:1, :3] for name, x in some_inputs().items()} | {"item_id": items}
    )
    classes = torch.tensor(make_items()["classification"].to_list())[items]
    for n, (name, ids) in enumerate((("item_id", items[0]), ("classification", classes[0]))):
        projection = inputs.projections[name]
        raw = inputs.embeddings[name].weight[ids] @ projection.linear.weight.T + projection.linear.bias
        normal = (raw - raw.mean(-1, keepdim=True)) / (raw.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        expected = normal * projection.norm.weight + projection.norm.bias
        torch.testing.assert_close(streams[n].values[streams[n].index], expected, rtol=1e-4, atol=1e-5)


def test_every_column_moves_the_vectors_of_its_own_event_only():
    inputs, columns = rich_inputs()
    before = inputs(columns)
    for name, values in columns.items():
        if name.startswith("tags") or name == "country":
            continue
        changed = values.clone()
        changed[1, 2] = 4 if values.dtype == torch.int64 and int(values[1, 2]) != 4 else 3
        moved = (inputs({**columns, name: changed}) - before).abs().sum(-1) > 1e-6
        assert moved.nonzero().tolist() == [[1, 2]], name


def test_a_list_moves_its_event_and_context_its_sequence():
    inputs, columns = rich_inputs()
    before = inputs(columns)
    time = columns["item_id"].shape[1]
    offsets = columns["tags.offsets"]
    event = int((offsets.diff() > 0).nonzero()[5])
    changed = columns["tags"].clone()
    changed[offsets[event]] = changed[offsets[event]] % 8 + 1
    moved = (inputs({**columns, "tags": changed}) - before).abs().sum(-1) > 1e-6
    assert moved.nonzero().tolist() == [[event // time, event % time]]
    country = columns["country"].clone()
    country[1] = 3 + (country[1] - 2) % 3
    moved = (inputs({**columns, "country": country}) - before).abs().sum(-1) > 1e-6
    assert moved.nonzero().tolist() == [[1, t] for t in range(time)]


@pytest.mark.parametrize("item", [0, 1, 2])
def test_an_event_of_no_known_item_keeps_its_gap(item):
    inputs, columns = rich_inputs()
    place = list(inputs._places(columns, torch.zeros(3, 9).bool(), share=True)).index("merge_count")
    lengths = torch.tensor(LENGTHS)

    def gaps(items):
        stream = inputs.streams({**columns, "item_id": items}, lengths=lengths)[place]
        return stream.values[stream.index].view(3, 9, -1)

    known, unknown = columns["item_id"].clone(), columns["item_id"].clone()
    known[0, 3], unknown[0, 3] = 5, item
    assert torch.equal(gaps(known), gaps(unknown))
    seconds = columns["merge_count"]
    bucket = inputs.gaps["merge_count"].ids(seconds, torch.arange(9) >= lengths[:, None])
    assert bucket[0, 3] > 0 and (bucket[1, 4:] == 0).all() and (bucket[1, :4] > 0).all()


def test_pretrained_vectors_are_a_stream_of_their_own():
    torch.manual_seed(0)
    table = torch.randn(15, 6)
    model = build_model(parse(ModelConfig, TINY, "test"), make_schema(), make_items(), pretrained=table)
    stream = model.inputs.streams(some_inputs())[2]
    projection = model.inputs.projections["pretrained"]
    torch.testing.assert_close(stream.values, projection(table[some_inputs()["item_id"].unique()]))
    assert "inputs.pretrained.table" in model.state_dict()
    assert not any("pretrained.table" in name for name, _ in model.named_parameters())

"""Each graph in onnxruntime against the model in PyTorch: all backbones, all fusions, lengths 1 to the longest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recsys.build import build_model
from recsys.export.graphs import EmbedGraph, RankGraph, _gap_bounds, event_columns, exportable, hidden_size, item_tables
from recsys.export.gru import ExportedGRU, translations
from recsys.export.models import embed_signature, rank_signature
from recsys.export.to_onnx import save_all, to_onnx
from recsys.inference import load
from recsys.nn.time import TimeGapEmbedding
from recsys.recommender import Recommender
from recsys.schema import Column, Kind, Schema, Scope
from recsys.serving.graphs import Graph
from tests.tiny_backbones import BACKBONES, HEADS
from tests.tiny_bundle import make_rich_config, make_rich_run
from tests.tiny_run import make_config, make_events, make_run

TOLERANCE = 2e-5
"""Scores of onnxruntime and PyTorch differ by at most so much times the larger of 1 and the score."""
FURTHER = {
    "gpt2": {"backbone": {"name": "gpt2", **HEADS}},
    "qwen3": {"backbone": {"name": "qwen3", **HEADS}},
    "xlnet": {"backbone": {"name": "xlnet", **HEADS}, "masking": "permutation"},
}
SLOW = ("mixtral", "bert", "t5", *FURTHER)
BATCHES = [(1, 1, 1), (1, 6, 3), (2, 1, 1), (5, 4, 2), (3, 6, 1)]
"""B, T (6 is the longest), S."""


def model_of(folder: Path, settings: dict[str, Any]) -> Recommender:
    inputs = {"embedding_size": 4, "fusion_size": 8, "fusion_heads": 2}
    _, run = make_run(folder, make_events(sessions=12), make_config(inputs=inputs, **settings))
    model = load(run, device="cpu").model
    if model.scores_repeats:  # as large as the other scores
        torch.nn.init.normal_(model.heads[model.item].repeats.weight)
    return model


def save(folder: Path, name: str, graph: nn.Module, signature: Any, tables: dict[str, Tensor], size: int) -> Graph:
    (folder / "tables").mkdir(exist_ok=True)
    for table, values in tables.items():
        np.save(folder / "tables" / f"{table}.npy", values.numpy())
    save_all({name: to_onnx(graph, signature, translations(size))}, folder)
    return Graph(folder, name)


@torch.no_grad()
def plain_scores(model: Recommender, feeds: dict[str, Tensor]) -> Tensor:
    """Scores ``[B, V]``, each history alone and without padding."""
    rows = []
    for n, length in enumerate(feeds["lengths"].tolist()):
        alone, times = feeds["vectors"][n : n + 1, :length], feeds["times"][n : n + 1, :length]
        hidden = model.predictive(alone, torch.tensor([length]), times)
        items = feeds["inputs.item_id"][n : n + 1, :length]
        rows.append(model.item_scores(hidden[:, length - 1], model.histories(items, torch.tensor([length - 1])))[0])
    return torch.stack(rows)


def make_feeds(model: Recommender, batch: int, time: int, excluded: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, time + 1, (batch,), generator=generator)
    lengths[0] = time
    gone = torch.randint(0, len(model.inputs.attributes), (batch, excluded), generator=generator)
    return {
        "vectors": torch.randn(batch, time, hidden_size(model), generator=generator),
        "lengths": lengths,
        "times": torch.randint(0, 10**10, (batch, time), generator=generator).cumsum(1),
        "excluded": gone,
        "inputs.item_id": torch.randint(1, 8, (batch, time), generator=generator),
    }


def expect_lists(
    found: dict[str, np.ndarray], scores: Tensor, gone: Sequence[set[int]], k: np.ndarray, reserved: int
) -> None:
    """The lists are those of plain sorting: by score, equal ones by lowest id; no reserved and no excluded item, and
    no more than each row's own k."""
    shares = scores.double().softmax(1).numpy()
    assert found["ids"].shape == (len(scores), min(k.max(), scores.shape[1]))
    for n, row in enumerate(scores.numpy()):
        candidates = [i for i in range(reserved, len(row)) if i not in gone[n]]
        best = sorted(candidates, key=lambda i: (-row[i], i))[: k[n]]
        ids = found["ids"][n].tolist()
        assert ids == best + [-1] * (len(ids) - len(best))
        size = np.maximum(1, np.abs(row[best]))
        assert (np.abs(found["scores"][n][: len(best)] - row[best]) <= TOLERANCE * size).all()
        np.testing.assert_allclose(found["probabilities"][n][: len(best)], shares[n][best], rtol=1e-3, atol=1e-6)
        assert (found["probabilities"][n][len(best) :] == 0).all()
        assert (found["scores"][n][len(best) :] == -np.inf).all()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in (*BACKBONES, *FURTHER)]
)
def test_ranks_as_pytorch_does(name: str, tmp_path: Path) -> None:
    model = model_of(tmp_path, {**BACKBONES, **FURTHER}[name])
    reserved = 3
    feeds = [make_feeds(model, *sizes) for sizes in BATCHES]
    expected = [plain_scores(model, f) for f in feeds]
    model = exportable(model)
    tables = item_tables(model)
    graph = save(tmp_path, "rank", RankGraph(model), rank_signature(model, tables), tables, hidden_size(model))
    for k, (given, scores) in zip((1, 5, 3, 1000, 4), zip(feeds, expected, strict=True), strict=True):
        wanted = np.maximum(1, k - 2 * np.arange(len(scores)))  # of each row another number
        batch = {n: v.numpy() for n, v in given.items()} | {"k": wanted}
        gone = [set(row) for row in given["excluded"].tolist()]
        expect_lists(graph.run(batch), scores, gone, wanted, reserved)


def test_equal_scores_by_lowest_id_and_further_items_without_a_new_export(tmp_path: Path) -> None:
    backbone = {"name": "sasrec", **HEADS, "norm": "post"}
    model = exportable(model_of(tmp_path, {"backbone": backbone, "masking": "final_value"}))
    tables = item_tables(model)
    signature = rank_signature(model, tables)
    save(tmp_path, "rank", RankGraph(model), signature, tables, hidden_size(model))
    generator = torch.Generator().manual_seed(1)
    column = torch.randn(hidden_size(model), 1, generator=generator)
    output = torch.cat([tables["output"], column.expand(-1, 40), 2 * column], dim=1)  # 40 new items alike, one other
    np.save(tmp_path / "tables" / "output.npy", output.numpy())
    graph, feeds = Graph(tmp_path, "rank"), make_feeds(model, 7, 5, 2)
    wanted = np.full(7, output.shape[1])
    found = graph.run({n: v.numpy() for n, v in feeds.items()} | {"k": wanted})
    hidden = model.predictive(feeds["vectors"], feeds["lengths"])[torch.arange(7), feeds["lengths"] - 1]
    scores = (hidden @ output).index_fill(1, torch.arange(3), float("-inf"))
    alike = range(len(tables["output"][0]), output.shape[1] - 1)
    assert [[i for i in row if i in alike] for row in found["ids"].tolist()] == [[*alike]] * 7
    scores[:, alike.start : alike.stop] = scores[:, alike.start : alike.start + 1]  # a product may differ in its end
    expect_lists(found, scores, [set(row) for row in feeds["excluded"].tolist()], wanted, 3)


@pytest.mark.parametrize(
    "fusion",
    [
        "self_attention",
        pytest.param("cross_attention", marks=pytest.mark.slow),
        pytest.param("gated", marks=pytest.mark.slow),
        pytest.param("item_product", marks=pytest.mark.slow),
        pytest.param("concatenation", marks=pytest.mark.slow),
        pytest.param("sum", marks=pytest.mark.slow),
    ],
)
def test_embeds_as_pytorch_does(fusion: str, tmp_path: Path) -> None:
    """Every kind of column; lists filled up to any length; a table with a row more gives that row's vector."""
    inputs = {"embedding_size": 4, "fusion_size": 8, "fusion_heads": 2, "fusion": fusion}
    inputs["gaps"] = {"timestamp_interval": {"buckets": 16, "longest": 3600.0, "scale": "sqrt"}}
    every = fusion == "self_attention"
    model = rich_model(tmp_path, inputs) if every else model_with_vectors(tmp_path, inputs)
    columns = event_columns(model.inputs, frozenset({"version", "level"}))
    kinds = {(c.is_ids, c.dimensions) for c in columns}
    all_kinds = {(True, 1), (True, 2), (True, 3), (False, 1), (False, 2)}
    assert kinds == (all_kinds if every else {(True, 2), (False, 2)})
    tables = item_tables(model)
    tables["streams"] = torch.cat([tables["streams"], tables["streams"][5:6]])
    graph = save(tmp_path, "embed", EmbedGraph(model.inputs, columns), embed_signature(columns, tables), tables, 8)
    generator = torch.Generator().manual_seed(0)
    for batch, time, _ in BATCHES:
        given = {c.name: column_values(c.name, c.is_ids, (batch, time, 2)[: c.dimensions], generator) for c in columns}
        bags = {c.name for c in columns if c.dimensions == 3}
        plain = {n: v.flatten() if n in bags else v for n, v in given.items()}
        plain |= {f"{n}.offsets": torch.arange(0, 2 * batch * time + 1, 2) for n in bags}
        with torch.no_grad():
            expected = model.inputs(plain).numpy()
        feeds = {f"inputs.{n}": v.numpy() for n, v in given.items()}
        np.testing.assert_allclose(graph.run(feeds)["vectors"], expected, rtol=1e-4, atol=2e-5)
        added = feeds | {"inputs.item_id": np.where(feeds["inputs.item_id"] == 5, 17, feeds["inputs.item_id"])}
        np.testing.assert_array_equal(graph.run(added)["vectors"], graph.run(feeds)["vectors"])
        longer = feeds | {f"inputs.{n}": np.pad(feeds[f"inputs.{n}"], ((0, 0), (0, 0), (0, 3))) for n in bags}
        np.testing.assert_allclose(graph.run(longer)["vectors"], expected, rtol=1e-4, atol=2e-5)


def rich_model(folder: Path, inputs: dict[str, Any]) -> Recommender:
    return load(make_rich_run(folder, inputs=inputs), device="cpu").model


def model_with_vectors(folder: Path, inputs: dict[str, Any]) -> Recommender:
    """Few columns, and pretrained vectors of the items."""
    inputs = {**inputs, "streams": ["classification", "place", "merge_count", "timestamp_interval", "text"]}
    run = load(make_rich_run(folder), device="cpu")
    settings = {"continuous": "soft_one_hot" if inputs["fusion"] == "gated" else "mlp"}
    settings["text_use"] = "projected" if inputs["fusion"] == "sum" else "frozen"
    text = Column(name="text", kind=Kind.PRETRAINED, scope=Scope.ITEM, dtype="float32", dimension=6)
    schema = Schema(columns=[*run.schema.columns, text])
    vectors = torch.randn(schema.item().num_ids(), 6)
    config = make_rich_config(inputs={**inputs, **settings}).model
    return build_model(config, schema, run.workflow.items, vectors).eval()


def column_values(name: str, is_ids: bool, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if is_ids:
        return torch.randint(0, 5, shape, generator=generator)
    numbers = torch.randn(shape, generator=generator)
    return numbers.abs() * 500 if name == "timestamp_interval" else numbers


@pytest.mark.parametrize("scale", ["log", "sqrt"])
def test_bounds_of_gaps_are_exact(scale: Any) -> None:
    gap = TimeGapEmbedding(4, 64, 604_800.0, scale)
    bounds = _gap_bounds(gap)
    assert bounds.shape == (63,) and (bounds[1:] > bounds[:-1]).all()
    below = torch.nextafter(bounds, torch.zeros(()))
    others = torch.cat([torch.rand(10_000) * 700_000, torch.rand(1000), torch.tensor([0.0, 604_800.0, 1e9])])
    for gaps in (bounds, below, others):
        found = 1 + (gaps[:, None] >= bounds).sum(1)
        assert torch.equal(found, gap.ids(gaps, torch.zeros(len(gaps), dtype=torch.bool)))


def test_gru_layers_are_those_of_pytorch() -> None:
    gru = nn.GRU(5, 5, 2, batch_first=True)
    vectors = torch.randn(3, 4, 5)
    torch.testing.assert_close(ExportedGRU(gru)(vectors)[0], gru(vectors)[0])

"""A recommender as two graphs: events to vectors (`EmbedGraph`), vectors to the best items (`RankGraph`).

Both take what belongs to the items as inputs: `EmbedGraph` each item's streams, encoded, projected and prepared for the
fusion, side by side ``[V, S]``; `RankGraph` the output table ``[H, V]``. So further items are further rows and columns,
and the graphs stay. B is the batch, T the time, V the items (reserved ids included), H the width of the backbone.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.backbones.hstu import HSTU
from recsys.export.buckets import ExportedTimeBuckets, least_floats
from recsys.export.decoder import newest_decoder, take_newest
from recsys.export.fusion import item_fusion, streams_of_items
from recsys.export.gru import ExportedGRU
from recsys.export.to_onnx import fixed
from recsys.heads import MIN_TEMPERATURE, CatalogueHead
from recsys.inputs import CONTINUOUS, SequenceInputs
from recsys.nn.embedding import BagEmbedding
from recsys.nn.fusion import Fusion, Stream
from recsys.nn.repeats import histories
from recsys.nn.time import TimeGapEmbedding
from recsys.recommender import Recommender

STREAMS, OUTPUT, BIAS = "streams", "output", "bias"
"""Names of the item tables."""


@torch.no_grad()
def item_tables(model: Recommender) -> dict[str, Tensor]:
    """What the graphs read of the items: `streams` ``[V, S]``, `output` ``[H, V]``, and `bias` ``[V]`` if there is."""
    inputs, head = model.inputs, model.heads[model.item]
    assert isinstance(head, CatalogueHead)
    streams = item_fusion(inputs, inputs.fusion)[1]
    output = head.table(inputs.item_table())
    output = functional.normalize(output, dim=-1) if head.cosine else output
    tables = {STREAMS: streams, OUTPUT: output.T}
    if head.bias is not None:
        tables[BIAS] = head.bias
    return {name: table.detach().float().contiguous() for name, table in tables.items()}


@dataclass(frozen=True)
class EventColumn:
    """A column that `EmbedGraph` reads: ids or numbers, and whether it is ``[B]``, ``[B, T]`` or ``[B, T, L]``."""

    name: str
    is_ids: bool
    dimensions: int


def event_columns(inputs: SequenceInputs, once: frozenset[str] = frozenset()) -> list[EventColumn]:
    """The columns that the graph reads, the item's first. once: those of one value a sequence."""
    found = [EventColumn(name, True, 2) for name in (inputs.item_column, *inputs.event_categorical)]
    found += [EventColumn(name, False, 2) for name in (*inputs.gaps, *inputs.event_continuous)]
    found += [EventColumn(name, True, 3) for name in inputs.event_bags]
    if inputs.context is not None:
        found += [EventColumn(name, True, 1 if name in once else 2) for name in inputs.context.tables]
        found += [EventColumn(name, False, 1 if name in once else 2) for name in inputs.context.continuous]
    return found


class EmbedGraph(nn.Module):
    """Columns of events to fused vectors ``[B, T, H]``: `SequenceInputs` with everything finished that can be.

    Args:
        inputs: of the model, in evaluation mode.
        columns: what `event_columns` gave.
    """

    def __init__(self, inputs: SequenceInputs, columns: list[EventColumn]) -> None:
        super().__init__()
        self.names = [c.name for c in columns]
        self.inputs = inputs
        tables = inputs.tables()
        own = streams_of_items(inputs)
        self.finished = nn.ParameterList([fixed(table) for table in tables[own:]])  # of classes, then of gaps
        bounds = [_gap_bounds(gap) for gap in inputs.gaps.values() if isinstance(gap, TimeGapEmbedding)]
        self.bounds = nn.ParameterList([fixed(b) for b in bounds])
        direct = range(len(tables), len(tables) + (inputs.continuous is not None) + len(inputs.event_bags))
        self.prepared = nn.ModuleList([_prepare(inputs, place) for place in direct])
        fusion, self.output = _join_outputs(inputs)
        self.fusion = item_fusion(inputs, fusion)[0]
        self.continuous: Any = None
        if inputs.continuous is not None:
            self.continuous = inputs.continuous.composed(inputs.projections[CONTINUOUS].linear)  # type: ignore[operator]

    def forward(self, columns: list[Tensor], streams: Tensor) -> Tensor:
        """columns ``[B]``, ``[B, T]`` or ``[B, T, L]`` each, streams ``[V, S]`` to vectors ``[B, T, H]``."""
        given = dict(zip(self.names, columns, strict=True))
        items = given[self.inputs.item_column]  # [B, T]
        rows = functional.embedding(items.flatten(), streams)  # [M, S]
        found = [Stream(table, ids) for table, ids in zip(self.finished, self._ids(given), strict=True)]
        found += [Stream(p(v)) for p, v in zip(self.prepared, self._direct(given), strict=True)]
        fused = self.fusion(rows, found)  # [M, D]
        vectors: Tensor = self.output(fused).view(items.shape[0], items.shape[1], -1)
        if self.inputs.context is not None:
            vectors = vectors + self.inputs.context(given)
        return vectors

    def _ids(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        """Ids ``[M]`` of every stream that is the event's own."""
        ids = [given[name].flatten() for name in self.inputs.event_categorical]
        for name, bounds in zip(self.inputs.gaps, self.bounds, strict=True):
            ids.append(1 + (given[name].flatten()[:, None] >= bounds).sum(1))
        return ids

    def _direct(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        """Encoded and projected streams ``[M, D]`` without distinct values."""
        inputs, found = self.inputs, []
        if self.continuous is not None:
            numbers = torch.stack([given[name].flatten() for name in inputs.event_continuous], dim=-1)  # [M, C]
            found.append(inputs.projections[CONTINUOUS].norm(self.continuous(numbers)))  # type: ignore[operator]
        for name, bag in inputs.event_bags.items():
            assert isinstance(bag, BagEmbedding)
            found.append(inputs.projections[name](bag(given[name].flatten(0, 1))))
        return found


class RankGraph(nn.Module):
    """Vectors ``[B, T, H]`` to the best items of each row. The scores are those of `recsys.inference.scoring`.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Recommender) -> None:
        super().__init__()
        head = model.heads[model.item]
        assert isinstance(head, CatalogueHead)
        self.model, self.decoder = model, newest_decoder(model)
        self.reserved, self.cosine, self.temperature = head.reserved, head.cosine, head.temperature
        self.repeats = head.repeats
        if head.log_temperature is not None:
            self.temperature = max(float(head.log_temperature.detach().exp()), MIN_TEMPERATURE)

    def forward(
        self,
        vectors: Tensor,
        lengths: Tensor,
        excluded: Tensor,
        k: Tensor,
        output: Tensor,
        bias: Tensor | None = None,
        times: Tensor | None = None,
        items: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The `k` best items of each row, K the largest of `k` but at most V.

        vectors ``[B, T, H]``, lengths ``[B]``, excluded ``[B, S]`` ids that are no candidates, k ``[B]``, output
        ``[H, V]``, bias ``[V]``, times ``[B, T]``, items ``[B, T]`` ids where the model `scores_repeats`.

        -> ids ``[B, K]`` (equal scores by lowest id; -1 behind a row's own `k` and where no candidate is left), scores
        ``[B, K]`` (minus infinity there), probabilities ``[B, K]`` over the whole catalogue (0 there).
        """
        newest = self._newest(vectors, lengths, times)  # [B, H]
        if self.cosine:
            newest = functional.normalize(newest, dim=-1)
        scores = (newest if self.temperature == 1 else newest / self.temperature) @ output  # [B, V]
        if bias is not None:
            scores = scores + bias
        if self.repeats is not None:
            assert items is not None
            history = histories(items, torch.arange(items.shape[0]), lengths - 1)  # [B, T]
            scores = scores.scatter_add(1, history, self.repeats(history) / self.temperature)
        scores = scores.masked_fill(torch.arange(scores.shape[1]) < self.reserved, float("-inf"))
        total = scores.logsumexp(1, keepdim=True)  # [B, 1]
        candidates = scores.scatter(1, excluded, float("-inf"))
        wanted: Any = torch.minimum(k.max(), torch.full_like(k[0], scores.shape[1])).item()
        torch._check(wanted >= 1)
        torch._check(wanted <= scores.shape[1])
        best, ids = candidates.topk(wanted, dim=1)  # ONNX's TopK lists equal ones by lowest index
        best = best.masked_fill(torch.arange(wanted) >= k[:, None], float("-inf"))
        ids = ids.masked_fill(best == float("-inf"), -1)
        return ids, best, (best - total).exp()

    def _newest(self, vectors: Tensor, lengths: Tensor, times: Tensor | None) -> Tensor:
        """Each row's state ``[B, H]`` that predicts what follows."""
        if self.decoder is not None:
            states: Tensor = self.decoder(vectors, lengths)
            return states
        return take_newest(self.model.predictive(vectors, lengths, times), lengths).squeeze(1)


def exportable(model: Recommender) -> Recommender:
    """The model with the parts that have no export as they are replaced by equal ones; changes `model`."""
    backbone = model.backbone
    inner = getattr(backbone, "model", None)
    if inner is not None and hasattr(inner, "config"):
        inner.config.use_cache = False
        if getattr(inner.config, "model_type", "") == "mixtral":  # the default walks over experts in a Python loop
            inner.set_experts_implementation("batched_mm")
    layers = getattr(backbone, "gru", None)
    if isinstance(layers, nn.GRU):
        backbone.gru = ExportedGRU(layers)
    if isinstance(backbone, HSTU) and backbone.needs_times:
        backbone.buckets = ExportedTimeBuckets(backbone.time_buckets)
    return model.requires_grad_(False).eval()


def hidden_size(model: Recommender) -> int:
    """H."""
    weight = model.inputs.output.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


@torch.no_grad()
def _prepare(inputs: SequenceInputs, place: int) -> nn.Linear:
    """What the fusion does to the stream at `place` alone, which is linear, as one map."""
    weight = inputs.output.weight
    assert isinstance(weight, Tensor)
    size = weight.shape[1]
    zero = inputs.fusion.prepare(place, torch.zeros(1, size))  # [1, W]
    change = inputs.fusion.prepare(place, torch.eye(size)) - zero  # [D, W]
    linear = nn.Linear(size, change.shape[1])
    linear.weight.copy_(change.T)
    linear.bias.copy_(zero[0])
    return linear


@torch.no_grad()
def _join_outputs(inputs: SequenceInputs) -> tuple[Fusion, nn.Module]:
    """The fusion without its last map, where that is linear, and the map to the backbone with it."""
    outer, inner = inputs.output, getattr(inputs.fusion, "output", None)
    if not isinstance(inner, nn.Linear) or not isinstance(outer, nn.Linear):
        return inputs.fusion, outer
    joined = nn.Linear(inner.in_features, outer.out_features)
    joined.weight.copy_(outer.weight @ inner.weight)
    joined.bias.copy_(outer(inner.bias))
    fusion = deepcopy(inputs.fusion)
    fusion.output = nn.Identity()
    return fusion, joined


@torch.no_grad()
def _gap_bounds(gap: TimeGapEmbedding) -> Tensor:
    """Least float32 of the buckets 2, 3, ...: ONNX has no log1p, and a last digit moves a gap to the next bucket."""
    buckets = torch.arange(2, gap.num_buckets + 1)
    none = torch.zeros(len(buckets), dtype=torch.bool)
    return least_floats(lambda gaps: gap.ids(gaps, none), buckets)

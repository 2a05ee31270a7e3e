"""Columns of a batch to one vector a timestep: encoders, per-stream projection, fusion, projection to the backbone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.data.bags import OFFSETS
from recsys.nn.context import ContextFeatures
from recsys.nn.dropout import Dropout
from recsys.nn.embedding import BagEmbedding, PretrainedTable
from recsys.nn.fusion import Fusion, Stream
from recsys.nn.time import TimeGapEmbedding

PRETRAINED, CONTINUOUS = "pretrained", "continuous"
"""Names of the streams that are no column's."""


class StreamProjection(nn.Module):
    """``LayerNorm(W f + b)``: every stream to the common width D."""

    def __init__(self, size_in: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size_in, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, stream: Tensor) -> Tensor:
        """stream ``[..., E]`` to ``[..., D]``."""
        projected: Tensor = self.norm(self.linear(stream))
        return projected


@dataclass(frozen=True)
class _Ids:
    """Where a stream's value is looked up: its ids ``[U]``, and each timestep's row of them ``[M]``."""

    ids: Tensor
    index: Tensor | None


class SequenceInputs(nn.Module):
    """All streams of a timestep fused into one vector of the backbone's width.

    A stream of ids (item, attributes, hours, time gaps) is encoded, and projected for the fusion, once for each
    distinct value in the batch; `tables` does so once for all values, for inference.

    Args:
        item: name of the item column.
        attributes: ``[V, A]`` ids of each item's A attributes, in the order of `item_attributes`.
        item_attributes: item-scope columns of ids.
        item_bags: by name, modules from item ids ``[U]`` to ``[U, E]`` (`ItemBags`).
        event_bags: by event-scope column of lists, its embedding.
        event_categorical: event-scope columns of ids.
        event_continuous: event-scope real-valued columns; together they are one stream.
        embeddings: by column, modules from ids ``[U]`` to ``[U, E]``, of the item, its attributes and the events.
        pretrained: from item ids ``[U]`` to their pretrained vectors ``[U, E]``, or None.
        gaps: by column of seconds, its embedding.
        continuous: from ``[M, C]`` to ``[M, E]``, or None.
        context: columns added behind the fusion, or None.
        widths: E of each stream, by its name.
        stream_size: D, width of the streams in the fusion.
        hidden_size: H, width of the backbone.
        fusion: see `recsys.nn.fusion`.
        dropout: on the fused vector.
        direct: streams of ids enter the fusion, and its result the backbone, as they are: E = D = H.
    """

    attributes: Tensor

    def __init__(
        self,
        *,
        item: str,
        attributes: Tensor,
        item_attributes: Sequence[str],
        item_bags: Mapping[str, nn.Module],
        event_bags: Mapping[str, BagEmbedding],
        event_categorical: Sequence[str],
        event_continuous: Sequence[str],
        embeddings: Mapping[str, nn.Module],
        pretrained: nn.Module | None,
        gaps: Mapping[str, TimeGapEmbedding],
        continuous: nn.Module | None,
        context: ContextFeatures | None,
        widths: Mapping[str, int],
        stream_size: int,
        hidden_size: int,
        fusion: Fusion,
        dropout: float,
        direct: bool = False,
    ) -> None:
        super().__init__()
        self.item_column = item
        self.item_attributes = list(item_attributes)
        self.event_categorical = list(event_categorical)
        self.event_continuous = list(event_continuous)
        self.register_buffer("attributes", attributes)
        self.embeddings = nn.ModuleDict(embeddings)
        self.pretrained = pretrained
        self.item_bags = nn.ModuleDict(item_bags)
        self.event_bags = nn.ModuleDict(event_bags)
        self.gaps = nn.ModuleDict(gaps)
        self.continuous = continuous
        self.projections = nn.ModuleDict(
            {name: nn.Identity() if direct else StreamProjection(w, stream_size) for name, w in widths.items()}
        )
        self.fusion = fusion
        self.output = nn.Identity() if direct else nn.Linear(stream_size, hidden_size)
        self.context = context
        self.dropout = Dropout(dropout)

    def item_table(self) -> Tensor:
        """``[V, E]`` the item embedding, for a tied output layer."""
        weight = self.embeddings[self.item_column].weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(
        self, inputs: Mapping[str, Tensor], tables: Sequence[Tensor] | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Columns, as a batch has them (`recsys.data.batch`), to fused vectors ``[B, T, H]``.

        tables: what `tables` gave for the present weights. The result is the same without.
        lengths: ``[B]`` events of each row; None: there is no padding.
        """
        fusion, padding = self.fusion, self._padding(inputs, lengths)
        if tables is None:
            fused = fusion(self._streams(inputs, padding, share=True))  # [M, D]
        else:
            fused = fusion.mix(self._finished(inputs, tables, padding))
        vectors = self.output(fused).view(*inputs[self.item_column].shape, -1)
        if self.context is not None:
            vectors = vectors + self.context(inputs)
        dropped: Tensor = self.dropout(vectors)
        return dropped

    def streams(self, inputs: Mapping[str, Tensor], share: bool = True, lengths: Tensor | None = None) -> list[Stream]:
        """Encoded and projected streams of a batch's columns, values ``[U, D]`` each, in the fusion's order.

        share: encode each distinct value once; without, every event's, which gives the same.
        lengths: as in `forward`.
        """
        return self._streams(inputs, self._padding(inputs, lengths), share)

    def _streams(self, inputs: Mapping[str, Tensor], padding: Tensor, share: bool) -> list[Stream]:
        places = self._places(inputs, padding, share)
        return [Stream(self._encode(name, at.ids), at.index) for name, at in places.items()] + self._direct(inputs)

    def _direct(self, inputs: Mapping[str, Tensor]) -> list[Stream]:
        """Streams without distinct values, ``[M, D]`` each: numbers, and lists of ids."""
        found = [] if self.continuous is None else [Stream(self._numbers(inputs))]
        for name, bag in self.event_bags.items():
            assert isinstance(bag, BagEmbedding)
            found.append(Stream(self.projections[name](bag.of_lists(inputs[name], inputs[name + OFFSETS]))))
        return found

    def _padding(self, inputs: Mapping[str, Tensor], lengths: Tensor | None) -> Tensor:
        """Bool ``[B, T]``. An event whose item nobody knows is none: what pads a row stands behind its length."""
        items = inputs[self.item_column]
        if lengths is None:
            return torch.zeros_like(items, dtype=torch.bool)
        return torch.arange(items.shape[1], device=items.device) >= lengths[:, None]

    def tables(self) -> list[Tensor]:
        """Finished values ``[U, W]`` of every stream of ids, for all its ids: encoded and prepared for the fusion.

        They are of the present weights; take them anew after a step of training.
        """
        device = self.attributes.device
        sizes = self._sizes().items()
        return [
            self.fusion.prepare(place, self._encode(name, torch.arange(size, device=device)))
            for place, (name, size) in enumerate(sizes)
        ]

    def _finished(self, inputs: Mapping[str, Tensor], tables: Sequence[Tensor], padding: Tensor) -> list[Stream]:
        places = self._places(inputs, padding, share=False).values()
        found = [Stream(table, at.ids) for table, at in zip(tables, places, strict=True)]
        for stream in self._direct(inputs):
            found.append(Stream(self.fusion.prepare(len(found), stream.values)))
        return found

    def _places(self, inputs: Mapping[str, Tensor], padding: Tensor, share: bool) -> dict[str, _Ids]:
        """Ids of every stream of ids, by its name."""
        items = inputs[self.item_column]  # [B, T]
        item = _look_up(items.flatten(), share)
        places = {self.item_column: item}
        for k, name in enumerate(self.item_attributes):
            at = _look_up(self.attributes[item.ids, k], share)  # an attribute has fewer values than items
            places[name] = at if at.index is None or item.index is None else _Ids(at.ids, at.index[item.index])
        places |= dict.fromkeys(self.item_bags, item)
        if self.pretrained is not None:
            places[PRETRAINED] = item
        for name in self.event_categorical:
            places[name] = _look_up(inputs[name].flatten(), share)
        for name, gap in self.gaps.items():
            assert isinstance(gap, TimeGapEmbedding)
            # Scores never depend on padding; its bucket only keeps the first one clean of its zeros.
            places[name] = _look_up(gap.ids(inputs[name], padding).flatten(), share)
        return places

    def _sizes(self) -> dict[str, int]:
        """How many ids each stream of ids has, by its name; the order is that of `_places`."""
        items = len(self.attributes)
        sizes = dict.fromkeys((self.item_column, *self.item_attributes, *self.item_bags), items)
        sizes |= {name: _rows(self.embeddings[name]) for name in self.item_attributes}
        if self.pretrained is not None:
            sizes[PRETRAINED] = items
        sizes |= {name: _rows(self.embeddings[name]) for name in self.event_categorical}
        return sizes | {name: _rows(gap) for name, gap in self.gaps.items()}

    def _encode(self, name: str, ids: Tensor) -> Tensor:
        """ids ``[U]`` of a stream to ``[U, D]``."""
        encoded: Tensor = self.projections[name](self._encoder(name)(ids))
        return encoded

    def _encoder(self, name: str) -> nn.Module:
        if name == PRETRAINED and self.pretrained is not None:
            return self.pretrained
        for modules in (self.item_bags, self.gaps):
            if name in modules:
                return modules[name]
        return self.embeddings[name]

    def _numbers(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The stream of the real-valued columns, ``[M, D]``."""
        assert self.continuous is not None
        values = torch.stack([inputs[name].flatten() for name in self.event_continuous], dim=-1)  # [M, C]
        projection = self.projections[CONTINUOUS]
        assert isinstance(projection, StreamProjection)
        projected: Tensor = projection.norm(self.continuous(values, projection.linear))
        return projected


def _look_up(ids: Tensor, share: bool) -> _Ids:
    """The ids ``[M]``, or where they are shared their distinct values ``[U]`` and each one's row ``[M]``."""
    return _Ids(*torch.unique(ids, return_inverse=True)) if share else _Ids(ids, None)


def _rows(module: nn.Module) -> int:
    """How many ids a look-up module takes."""
    table = module.table if isinstance(module, PretrainedTable | TimeGapEmbedding) else module
    rows = table if isinstance(table, Tensor) else table.weight
    assert isinstance(rows, Tensor)
    return len(rows)

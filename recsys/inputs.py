"""Columns of a batch to one vector a timestep: encoders, per-stream projection, fusion, projection to the backbone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.nn.continuous import ContinuousMLP, SoftOneHot
from recsys.nn.embedding import PretrainedTable, id_embedding


@dataclass(frozen=True)
class CategoricalStream:
    """A stream of ids. Item streams look their id up in `attributes` by the item's id."""

    column: str
    cardinality: int


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


class SequenceInputs(nn.Module):
    """All streams of a timestep fused into one vector of the backbone's width.

    Streams that depend on the item alone (its id, attributes such as class and target, text vector) are encoded once
    for each distinct item of the batch.

    Args:
        item: the item column's name and cardinality V.
        item_attributes: item-scope categorical columns with their cardinality.
        attributes: ``[V, len(item_attributes)]`` ids of each item's attributes.
        event_categorical: event-scope categorical columns.
        event_continuous: event-scope real-valued columns; together they are one stream.
        pretrained: ``[V, E]`` frozen vectors of the items, or None.
        embedding_size: width of each id embedding.
        stream_size: D, width of the streams in the fusion.
        hidden_size: H, width of the backbone.
        fusion: module from ``(item_streams, index, event_streams)`` to ``[M, D]``.
        continuous_encoder: `mlp` or `soft_one_hot`.
        dropout: on the fused vector.
    """

    attributes: Tensor

    def __init__(
        self,
        *,
        item: CategoricalStream,
        item_attributes: Sequence[CategoricalStream],
        attributes: Tensor,
        event_categorical: Sequence[CategoricalStream],
        event_continuous: Sequence[str],
        pretrained: Tensor | None,
        embedding_size: int,
        stream_size: int,
        hidden_size: int,
        fusion: nn.Module,
        continuous_encoder: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.item_column = item.column
        self.item_attributes = [s.column for s in item_attributes]
        self.event_categorical = [s.column for s in event_categorical]
        self.event_continuous = list(event_continuous)
        self.register_buffer("attributes", attributes)
        self.embeddings = nn.ModuleDict(
            {
                s.column: id_embedding(s.cardinality, embedding_size)
                for s in (item, *item_attributes, *event_categorical)
            }
        )
        widths = dict.fromkeys(self.embeddings, embedding_size)
        self.pretrained = None if pretrained is None else PretrainedTable(pretrained)
        if pretrained is not None:
            widths["pretrained"] = pretrained.shape[1]
        self.continuous: nn.Module | None = None
        if self.event_continuous:
            encoder = ContinuousMLP if continuous_encoder == "mlp" else SoftOneHot
            self.continuous = encoder(len(self.event_continuous), stream_size)
            widths["continuous"] = stream_size
        self.projections = nn.ModuleDict({name: StreamProjection(w, stream_size) for name, w in widths.items()})
        self.fusion = fusion
        self.output = nn.Linear(stream_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def item_table(self) -> Tensor:
        """``[V, E]`` the item embedding, for a tied output layer."""
        weight = self.embeddings[self.item_column].weight
        assert isinstance(weight, Tensor)
        return weight

    def item_streams(self, items: Tensor) -> Tensor:
        """Streams that depend on the item alone: ids ``[U]`` to ``[U, N_i, D]``."""
        streams = [self._categorical(self.item_column, items)]
        for k, name in enumerate(self.item_attributes):
            streams.append(self._categorical(name, self.attributes[items, k]))
        if self.pretrained is not None:
            streams.append(self.projections["pretrained"](self.pretrained(items)))
        return torch.stack(streams, dim=1)

    def event_streams(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Streams that differ from event to event: columns ``[B, T]`` to ``[B * T, N_e, D]``, None without any."""
        streams = [self._categorical(name, inputs[name].flatten()) for name in self.event_categorical]
        if self.continuous is not None:
            values = torch.stack([inputs[name].flatten() for name in self.event_continuous], dim=-1)  # [M, C]
            streams.append(self.projections["continuous"](self.continuous(values)))
        return torch.stack(streams, dim=1) if streams else None

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Columns ``[B, T]`` to fused vectors ``[B, T, H]``."""
        items = inputs[self.item_column]  # [B, T]
        distinct, index = torch.unique(items, return_inverse=True)  # [U], [B, T]
        streams = self.item_streams(distinct)  # [U, N_i, D]
        fused = self.fusion(streams, index.flatten(), self.event_streams(inputs))  # [B * T, D]
        vectors: Tensor = self.dropout(self.output(fused)).view(*items.shape, -1)
        return vectors

    def _categorical(self, name: str, ids: Tensor) -> Tensor:
        stream: Tensor = self.projections[name](self.embeddings[name](ids))
        return stream

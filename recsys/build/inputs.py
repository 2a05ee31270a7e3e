"""Columns of the schema to streams, and the names of fusions to modules."""

from pathlib import Path

import polars as pl
import torch
from torch import Tensor, nn

from recsys.config import InputsConfig, ModelConfig
from recsys.errors import ConfigError, nearest
from recsys.inputs import CategoricalStream, SequenceInputs
from recsys.nn.fusion import SelfAttentionFusion, SumFusion
from recsys.nn.pretrained import load_table
from recsys.schema import Column, Kind, Schema, Scope

TEXT = "text"  # name of the column and stream of pretrained vectors


def attach_text(config: InputsConfig, schema: Schema) -> tuple[Schema, Tensor | None]:
    """Read the text table that the configuration names, and add its column to the schema."""
    if config.text_table is None:
        return schema, None
    item = schema.item()
    table = load_table(Path(config.text_table), item.num_ids(), item.first_id, item.vocabulary_sha256)
    column = Column(name=TEXT, kind=Kind.PRETRAINED, scope=Scope.ITEM, dtype="float32", dimension=table.shape[1])
    return Schema(columns=[*(c for c in schema.columns if c.name != TEXT), column]), table


def build_inputs(config: ModelConfig, schema: Schema, items: pl.DataFrame, pretrained: Tensor | None) -> SequenceInputs:
    """All streams that the schema offers and the configuration wants."""
    item = schema.item()
    wanted = _streams(config.inputs, schema, pretrained is not None)
    attributes = [
        c for c in schema.select(kind=Kind.CATEGORICAL, scope=Scope.ITEM) if c.name in wanted and c.name != item.name
    ]
    events = schema.select(scope=Scope.EVENT)
    categorical = [c for c in events if c.kind is Kind.CATEGORICAL and c.name in wanted and c.name != item.name]
    continuous = [c.name for c in events if c.kind is Kind.CONTINUOUS and c.name in wanted]
    ids = [torch.from_numpy(items.get_column(c.name).to_numpy().astype("int64")) for c in attributes]
    return SequenceInputs(
        item=_stream(item),
        item_attributes=[_stream(c) for c in attributes],
        attributes=torch.stack(ids, dim=1) if ids else torch.zeros(item.num_ids(), 0, dtype=torch.int64),
        event_categorical=[_stream(c) for c in categorical],
        event_continuous=continuous,
        pretrained=pretrained if TEXT in wanted else None,
        embedding_size=config.inputs.embedding_size,
        stream_size=config.inputs.fusion_size,
        hidden_size=config.backbone.hidden_size,
        fusion=_build_fusion(config.inputs),
        continuous_encoder=config.inputs.continuous,
        dropout=config.inputs.dropout,
    )


def _streams(config: InputsConfig, schema: Schema, text: bool) -> set[str]:
    """Names of the streams to read; the item's own always is one."""
    offered = [c.name for c in schema.columns if c.kind in (Kind.CATEGORICAL, Kind.CONTINUOUS)]
    if text:
        offered.append(TEXT)
    if config.streams is None:
        return set(offered)
    for name in config.streams:
        if name not in offered:
            raise ConfigError(f"model.inputs.streams: the data have no '{name}'{nearest(name, offered)}")
    return {schema.item().name, *config.streams}


def _build_fusion(config: InputsConfig) -> nn.Module:
    match config.fusion:
        case "self_attention":
            return SelfAttentionFusion(config.fusion_size, config.fusion_heads)
        case "sum":
            return SumFusion()


def _stream(column: Column) -> CategoricalStream:
    return CategoricalStream(column.name, column.num_ids())

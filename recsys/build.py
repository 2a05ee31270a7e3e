"""From configuration to objects: the only place where names in a config meet classes."""

from pathlib import Path

import polars as pl
import torch
from torch import Tensor, nn

from recsys.backbones.hf import LlamaBackbone
from recsys.config import AuxiliaryConfig, BackboneConfig, InputsConfig, LossConfig, ModelConfig
from recsys.data.collate import Positions
from recsys.errors import ConfigError, nearest
from recsys.heads import CatalogueHead, RealHead
from recsys.inputs import CategoricalStream, SequenceInputs
from recsys.losses import CatalogueLoss, CrossEntropy, Focal, MeanSquaredError
from recsys.nn import masking
from recsys.nn.fusion import SelfAttentionFusion, SumFusion
from recsys.nn.pretrained import load_table
from recsys.recommender import Recommender
from recsys.schema import CLASSIFICATION, TARGET, Column, Kind, Schema, Scope

TEXT = "text"  # name of the column and stream of pretrained vectors


def build_model(
    config: ModelConfig, schema: Schema, items: pl.DataFrame, pretrained: Tensor | None = None
) -> Recommender:
    """A recommender with fresh weights (drawn from torch's global generator).

    Args:
        config: the `model` section.
        schema: of the sequence dataset.
        items: the workflow's item table, one row an id, with item-scope columns.
        pretrained: ``[V, E]`` text vectors of the items. Without them a schema with a `text` column gives a table of
            zeros, to be filled from a run's weights.
    """
    if pretrained is None and TEXT in schema:
        pretrained = torch.zeros(_cardinality(schema.item()), schema[TEXT].dimension or 0)
    item = schema.item()
    auxiliary = _auxiliary(config, schema)
    heads: dict[str, CatalogueHead | RealHead] = {
        item.name: CatalogueHead(
            hidden_size=config.backbone.hidden_size,
            cardinality=_cardinality(item),
            reserved=item.first_id,
            loss=build_catalogue_loss(config.loss, item.first_id),
            bias=config.bias,
            tied_size=config.inputs.embedding_size if config.tied else None,
            dropout=config.output_dropout,
        )
    }
    heads |= {a.column: _build_head(a, schema[a.column], config) for a in auxiliary}
    return Recommender(
        inputs=_build_inputs(config, schema, items, pretrained),
        backbone=_build_backbone(config.backbone, config.max_length),
        heads=heads,
        weights={item.name: 1.0, **{a.column: a.weight for a in auxiliary}},
        item=item.name,
    )


def attach_text(config: InputsConfig, schema: Schema) -> tuple[Schema, Tensor | None]:
    """Read the text table that the configuration names, and add its column to the schema."""
    if config.text_table is None:
        return schema, None
    item = schema.item()
    table = load_table(Path(config.text_table), _cardinality(item), item.first_id, item.vocabulary_sha256)
    column = Column(name=TEXT, kind=Kind.PRETRAINED, scope=Scope.ITEM, dtype="float32", dimension=table.shape[1])
    return Schema(columns=[*(c for c in schema.columns if c.name != TEXT), column]), table


def build_masking(name: str) -> Positions:
    """The masking function that training labels positions with."""
    match name:
        case "causal":
            return lambda ids, lengths: masking.causal(ids, lengths)[:2]
        case "causal_last":
            return lambda ids, lengths: masking.causal_last(ids, lengths)[:2]
        case _:
            raise ConfigError(f"model.masking: unknown '{name}'{nearest(name, ['causal', 'causal_last'])}")


def build_catalogue_loss(config: LossConfig, reserved: int) -> CatalogueLoss:
    """A loss over ids; the first `reserved` are outside the softmax."""
    match config.name:
        case "focal":
            return Focal(gamma=config.gamma, dtype=config.dtype, ignore_rows=reserved)
        case "cross_entropy":
            return CrossEntropy(label_smoothing=config.label_smoothing, dtype=config.dtype, ignore_rows=reserved)


def _build_head(config: AuxiliaryConfig, column: Column, model: ModelConfig) -> CatalogueHead | RealHead:
    size = model.backbone.hidden_size
    if column.kind is Kind.CONTINUOUS:
        return RealHead(hidden_size=size, loss=MeanSquaredError())
    loss = build_catalogue_loss(config.loss, column.first_id)
    return CatalogueHead(hidden_size=size, cardinality=_cardinality(column), reserved=column.first_id, loss=loss)


def _auxiliary(config: ModelConfig, schema: Schema) -> list[AuxiliaryConfig]:
    """The auxiliary heads asked for, or the document's two where the data have them."""
    if config.auxiliary is None:
        return [AuxiliaryConfig(column=name, loss=config.loss) for name in (CLASSIFICATION, TARGET) if name in schema]
    for head in config.auxiliary:
        if head.column not in schema:
            found = f"'{head.column}'{nearest(head.column, schema.names())}"
            fix = "take it out, or give the commands' attributes to data_processing.reconstruct --metadata"
            raise ConfigError(f"model.auxiliary: the data have no column {found}; {fix}")
        column = schema[head.column]
        if column.kind not in (Kind.CATEGORICAL, Kind.CONTINUOUS):
            raise ConfigError(f"model.auxiliary: column '{head.column}' is {column.kind.value}; it cannot be predicted")
        if head.column == schema.item().name:
            raise ConfigError(f"model.auxiliary: '{head.column}' is the main head already")
    return config.auxiliary


def _build_inputs(
    config: ModelConfig, schema: Schema, items: pl.DataFrame, pretrained: Tensor | None
) -> SequenceInputs:
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
        attributes=torch.stack(ids, dim=1) if ids else torch.zeros(_cardinality(item), 0, dtype=torch.int64),
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


def _build_backbone(config: BackboneConfig, max_length: int) -> nn.Module:
    match config.name:
        case "llama":
            return LlamaBackbone(
                hidden_size=config.hidden_size,
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                num_kv_heads=config.num_kv_heads or config.num_heads,
                intermediate_size=config.intermediate_size or 4 * config.hidden_size,
                max_length=max_length,
                rope_theta=config.rope_theta,
                attention_dropout=config.attention_dropout,
                residual_dropout=config.residual_dropout,
            )


def _cardinality(column: Column) -> int:
    return column.first_id + column.num_values()


def _stream(column: Column) -> CategoricalStream:
    return CategoricalStream(column.name, _cardinality(column))

"""The main head and the auxiliary ones."""

from recsys.build.losses import build_catalogue_loss
from recsys.config import AuxiliaryConfig, ModelConfig
from recsys.errors import ConfigError, nearest
from recsys.heads import CatalogueHead, RealHead
from recsys.losses import MeanSquaredError
from recsys.schema import CLASSIFICATION, TARGET, Column, Kind, Schema


def build_heads(config: ModelConfig, schema: Schema) -> tuple[dict[str, CatalogueHead | RealHead], dict[str, float]]:
    """Heads by column, the item's first, and the weight of each one's loss."""
    item = schema.item()
    auxiliary = _auxiliary(config, schema)
    heads: dict[str, CatalogueHead | RealHead] = {
        item.name: CatalogueHead(
            hidden_size=config.backbone.hidden_size,
            cardinality=item.num_ids(),
            reserved=item.first_id,
            loss=build_catalogue_loss(config.loss, item.first_id),
            bias=config.bias,
            tied_size=config.inputs.embedding_size if config.tied else None,
            dropout=config.output_dropout,
        )
    }
    heads |= {a.column: _build_head(a, schema[a.column], config) for a in auxiliary}
    return heads, {item.name: 1.0, **{a.column: a.weight for a in auxiliary}}


def _build_head(config: AuxiliaryConfig, column: Column, model: ModelConfig) -> CatalogueHead | RealHead:
    size = model.backbone.hidden_size
    if column.kind is Kind.CONTINUOUS:
        return RealHead(hidden_size=size, loss=MeanSquaredError())
    loss = build_catalogue_loss(config.loss, column.first_id)
    return CatalogueHead(hidden_size=size, cardinality=column.num_ids(), reserved=column.first_id, loss=loss)


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

"""The main head, the auxiliary ones, and how their losses are weighed."""

from collections.abc import Callable, Sequence

import polars as pl
import torch
from torch import Tensor

from recsys.build.losses import Counts, build_class_loss, build_value_loss
from recsys.config import AuxiliaryConfig, LossConfig, ModelConfig
from recsys.errors import ConfigError, nearest
from recsys.heads import BinaryHead, CatalogueHead, RealHead
from recsys.losses import MeanSquaredError, UncertaintyWeights, given_weights, inverse_frequency
from recsys.nn.masking import RULES
from recsys.nn.repeats import RepeatBias
from recsys.schema import CLASSIFICATION, TARGET, Column, Kind, Schema, Scope

COUNT = "count"  # column of the item table: events in train
ColumnCounts = Callable[[str], Sequence[float]]
"""Gives how often each id of a column of the events occurs in train (`recsys.etl.fitted.Fitted.id_counts`)."""

LOSSES = {
    "classes": ("cross_entropy", "focal", "tversky", "sampled_softmax", "bce", "gbce", "info_nce"),
    "binary": ("binary_cross_entropy",),
    "real": ("mse", "huber"),
}
"""Losses that fit a kind of head; the first of binary and real ones is the default."""


def build_heads(
    config: ModelConfig, schema: Schema, items: pl.DataFrame, counts: ColumnCounts | None = None
) -> tuple[dict[str, CatalogueHead | RealHead], dict[str, float]]:
    """Heads by column, the item's first, and the weight of each one's loss.

    Args:
        config: the `model` section.
        schema: of the sequence dataset.
        items: the workflow's item table; negatives and class weights may need its counts.
        counts: of the ids of a column of events in train, likewise.
    """
    item = schema.item()
    auxiliary = _auxiliary(config, schema)
    heads: dict[str, CatalogueHead | RealHead] = {item.name: _build_main(config, item, items)}
    for a in auxiliary:
        column = schema[a.column]
        heads[a.column] = _build_auxiliary(a, column, config, _counts_of(column, item, items, counts))
    return heads, {item.name: 1.0, **{a.column: a.weight for a in auxiliary}}


def build_task_weights(
    config: ModelConfig, heads: dict[str, CatalogueHead | RealHead], weights: dict[str, float]
) -> UncertaintyWeights | None:
    """Learned weights of the heads' losses, None where they are fixed."""
    if config.task_weights == "fixed":
        return None
    squared = {name for name, head in heads.items() if isinstance(head, RealHead) and not isinstance(head, BinaryHead)}
    return UncertaintyWeights(weights, frozenset(squared))


def _build_main(config: ModelConfig, item: Column, items: pl.DataFrame) -> CatalogueHead:
    _require_loss("model.loss", config.loss, "classes")
    counts = _counts_of(item, item, items)
    loss, sampler = build_class_loss(config.loss, item.num_ids(), item.first_id, counts)
    if config.repeat_bias and not RULES[config.masking].every_position:
        fitting = ", ".join(name for name, rule in RULES.items() if rule.every_position)
        raise ConfigError(f"model.repeat_bias: masking '{config.masking}' hides what a history is; use {fitting}")
    return CatalogueHead(
        hidden_size=config.backbone.hidden_size,
        cardinality=item.num_ids(),
        reserved=item.first_id,
        loss=loss,
        bias=config.bias,
        tied_size=config.inputs.embedding_size if config.tied else None,
        direct=config.inputs.direct,
        dropout=config.output_dropout,
        similarity=config.similarity,
        temperature=config.temperature,
        learn_temperature=config.learn_temperature,
        sampler=sampler,
        class_weights=_class_weights(config.loss, item, counts),
        repeats=RepeatBias(config.max_length) if config.repeat_bias else None,
    )


def _build_auxiliary(
    config: AuxiliaryConfig, column: Column, model: ModelConfig, counts: Counts
) -> CatalogueHead | RealHead:
    size = model.backbone.hidden_size
    kind = _kind(config, column)
    if kind == "real" and config.loss is not None and config.loss.is_old():
        return RealHead(hidden_size=size, loss=MeanSquaredError())  # where old runs name a loss of classes
    where = f"model.auxiliary: column '{column.name}'"
    loss = config.loss or LossConfig.model_validate({"name": "focal" if kind == "classes" else LOSSES[kind][0]})
    _require_loss(where, loss, kind)
    if kind == "classes":
        built, sampler = build_class_loss(loss, column.num_ids(), column.first_id, counts)
        return CatalogueHead(
            hidden_size=size,
            cardinality=column.num_ids(),
            reserved=column.first_id,
            loss=built,
            sampler=sampler,
            class_weights=_class_weights(loss, column, counts),
        )
    if kind == "real":
        return RealHead(hidden_size=size, loss=build_value_loss(loss))
    first = column.first_id if column.kind is Kind.CATEGORICAL else 0
    return BinaryHead(hidden_size=size, loss=build_value_loss(loss), first_id=first)


def _kind(config: AuxiliaryConfig, column: Column) -> str:
    """What the head predicts, checked against what the column holds."""
    categorical = column.kind is Kind.CATEGORICAL
    kind = config.kind or ("classes" if categorical else "real")
    where = f"model.auxiliary: column '{column.name}'"
    if kind == "real" and categorical:
        raise ConfigError(f"{where} is categorical; take kind: real out")
    if kind == "classes" and not categorical:
        raise ConfigError(f"{where} is {column.kind.value} and has no classes; take kind: classes out")
    if kind == "binary" and categorical and column.num_values() != 2:
        raise ConfigError(f"{where} has {column.num_values()} classes; a binary head needs 2, so use kind: classes")
    return kind


def _require_loss(where: str, loss: LossConfig, kind: str) -> None:
    if loss.name not in LOSSES[kind]:
        fitting: Sequence[str] = LOSSES[kind]
        raise ConfigError(f"{where}: loss '{loss.name}' does not fit a head of kind {kind}; use {', '.join(fitting)}")


def _class_weights(loss: LossConfig, column: Column, counts: Counts) -> Tensor | None:
    if loss.class_weights is None:
        return None
    if loss.class_weights == "inverse_frequency":
        return inverse_frequency(counts(), column.first_id)
    return given_weights(list(loss.class_weights), column.name, column.num_ids(), column.first_id)


def _counts_of(column: Column, item: Column, items: pl.DataFrame, more: ColumnCounts | None = None) -> Counts:
    """Counts in train of a column's ids ``[V]``.

    Of a column of the items they are those of the items, summed over the items of each id; `more` gives those of a
    column of the events.
    """

    def counts() -> Tensor:
        if column.scope is not Scope.ITEM and column.name != item.name:
            if more is None:
                fix = "the item table has no counts of it; give class_weights as a list"
                raise ConfigError(f"column '{column.name}': {fix}")
            return torch.tensor(more(column.name), dtype=torch.float64)
        if COUNT not in items.columns:
            raise ConfigError(f"column '{column.name}': the item table has no column '{COUNT}'; run preprocess again")
        of_items = torch.from_numpy(items.get_column(COUNT).fill_null(0).to_numpy().astype("float64"))
        if column.name == item.name:
            return of_items
        ids = torch.from_numpy(items.get_column(column.name).to_numpy().astype("int64"))
        return torch.zeros(column.num_ids(), dtype=torch.float64).index_add_(0, ids, of_items)

    return counts


def _auxiliary(config: ModelConfig, schema: Schema) -> list[AuxiliaryConfig]:
    """The auxiliary heads asked for, or the document's two where the data have them."""
    if config.auxiliary is None:
        return [_default(name, config.loss) for name in (CLASSIFICATION, TARGET) if name in schema]
    for head in config.auxiliary:
        if head.column not in schema:
            found = f"'{head.column}'{nearest(head.column, schema.names())}"
            fix = "take it out, or give the commands' attributes to data_processing.reconstruct --metadata"
            raise ConfigError(f"model.auxiliary: the data have no column {found}; {fix}")
        column = schema[head.column]
        if column.kind not in (Kind.CATEGORICAL, Kind.CONTINUOUS):
            raise ConfigError(f"model.auxiliary: column '{head.column}' is {column.kind.value}; it cannot be predicted")
        if column.multi_valued or column.scope is Scope.SEQUENCE:
            why = "holds lists" if column.multi_valued else "is one value a sequence"
            raise ConfigError(f"model.auxiliary: column '{head.column}' {why}; it cannot be predicted")
        if head.column == schema.item().name:
            raise ConfigError(f"model.auxiliary: '{head.column}' is the main head already")
    return config.auxiliary


def _default(name: str, loss: LossConfig) -> AuxiliaryConfig:
    """A head by the item's loss, or by cross entropy where that one is sampled or weighted for the items alone."""
    plain = loss.name in ("cross_entropy", "focal", "tversky") and not isinstance(loss.class_weights, list)
    return AuxiliaryConfig(column=name, loss=loss if plain else LossConfig(name="cross_entropy"))

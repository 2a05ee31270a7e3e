"""The model of a configuration with shapes and types and no numbers: what a plan of memory is made from."""

from typing import Any

import polars as pl
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from peft_ext.adapt import PeftError, adapt
from peft_ext.memory import Quantised
from recsys.build import peft as adapters
from recsys.build.backbones import settle
from recsys.build.heads import ColumnCounts
from recsys.config import ModelConfig, PeftConfig
from recsys.errors import ConfigError
from recsys.recommender import Recommender
from recsys.schema import Kind, Schema


def build_planned(
    config: ModelConfig, schema: Schema, items: pl.DataFrame, counts: ColumnCounts | None = None
) -> tuple[Recommender, Quantised | None]:
    """A recommender on the meta device, frozen and adapted as `model.peft` says, and its weights of 4 or 8 bits.

    Neither pretrained weights nor bitsandbytes are needed: what will be quantised has plain weights here. Whether a
    backbone of `auto` is causal is measured, which takes numbers; here it is taken to be what the masking needs.

    Args:
        config: the `model` section.
        schema: of the sequence dataset, with the text column where there is a table.
        items, counts: as in `build_model`.

    Raises:
        ConfigError: as `build_model` and `recsys.build.peft.freeze`.
    """
    from recsys.build import build_model

    config = settle(config)
    untrained = {"backbone": config.backbone.model_copy(update={"pretrained": None}), "peft": PeftConfig()}
    if config.inputs.text_use == "initialiser":  # no stream, and there are no numbers to start from
        schema = Schema(columns=[column for column in schema.columns if column.kind is not Kind.PRETRAINED])
    with torch.device("meta"):
        model = build_model(config.model_copy(update=untrained), schema, items, counts=counts)
        model.to("meta")  # tables of the data, and what some architectures make in memory whatever the device
        return model, _freeze(model, config.peft)


def _freeze(model: Recommender, peft: PeftConfig) -> Quantised | None:
    if not peft.freezes:
        return None
    body: Any = model.backbone.model
    for parameter in body.parameters():
        parameter.data = parameter.data.to(adapters.dtype_of(peft))
    layers = {name: layer for name, layer in body.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    kept = [name for name in layers if name.split(".")[-1] in (body._keep_in_fp32_modules or ())]
    for name in kept:  # `from_pretrained` quantises none of them, and makes none float16
        layer = layers.pop(name)
        if peft.compute_dtype == "float16":
            layer.float()
    try:
        adapt(
            body,
            adapters.adapters_of(peft),
            dtype=adapters.dtype_of(peft),
            gradient_checkpointing=peft.gradient_checkpointing,
        )
    except PeftError as error:
        raise ConfigError(f"model.peft: {error}") from error
    if peft.quantization == "none":
        return None
    known = {id(layer.weight) for layer in layers.values()}
    names = frozenset(name for name, weight in model.named_parameters() if id(weight) in known)
    return Quantised(peft.quantization, peft.double_quantization, names, adapters.dtype_of(peft).itemsize)

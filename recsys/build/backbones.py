"""Names of backbones to modules; architectures and weights of others to ours."""

from typing import Any

from transformers import PreTrainedModel

from recsys.backbones import shapes, source
from recsys.backbones.base import Backbone
from recsys.backbones.gru import GRU
from recsys.backbones.hf import Transformer, probe
from recsys.backbones.hstu import HSTU
from recsys.backbones.ligr import LiGR
from recsys.backbones.mixtral import Mixtral
from recsys.backbones.sasrec import SASRec
from recsys.backbones.shapes import Sizes
from recsys.backbones.t5 import T5
from recsys.backbones.xlnet import XLNet
from recsys.build import peft as adapters
from recsys.config import BackboneConfig, ModelConfig, PeftConfig
from recsys.errors import ConfigError

UNBOUNDED = ("t5", "xlnet")
"""Architectures whose positions are relative, whatever their configuration says."""


def build_backbone(
    config: BackboneConfig,
    max_length: int,
    permutation: bool = False,
    peft: PeftConfig | None = None,
    start_pretrained: bool = False,
    is_causal: bool = True,
) -> Backbone:
    """The module from ``([B, T, H], lengths [B])`` to ``[B, T, H]``, with fresh weights unless told otherwise.

    Args:
        config: settled (see `settle`).
        max_length: vectors that it reads at most.
        permutation: whether it is trained with permutation LM.
        peft: what is trained in place of pretrained weights, which are then always read.
        start_pretrained: read the weights that `pretrained` names, if it does.
        is_causal: what `auto` is taken for on the meta device, where there are no numbers to try it with.
    """
    peft = peft or PeftConfig()
    adapters.require_base(config, peft)
    own: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "num_layers": config.num_layers,
        "max_length": max_length,
        "residual_dropout": config.residual_dropout,
    }
    attention: dict[str, Any] = {
        "num_heads": config.num_heads,
        "intermediate_size": config.feed_forward_size(),
        "attention_dropout": config.attention_dropout,
    }
    match config.name:
        case "sasrec":
            return SASRec(**own, **attention, norm=config.norm)
        case "ligr":
            return LiGR(**own, **attention)
        case "hstu":
            return HSTU(**own, num_heads=config.num_heads, time_buckets=config.time_buckets)
        case "gru":
            return GRU(**own)
        case _:
            if config.pretrained is None or not (start_pretrained or peft.freezes):
                return _wrap(_fresh(config, max_length), config, max_length, permutation, is_causal)
            model, missing = _pretrained(config, max_length, peft)
            backbone = _wrap(model, config, max_length, permutation, is_causal)
            source.require_complete(model, missing, config.pretrained)
            adapters.freeze(backbone, config, peft)
            return backbone


def _wrap(
    model: PreTrainedModel, config: BackboneConfig, max_length: int, permutation: bool, is_causal: bool
) -> Backbone:
    """A model of `transformers` as ours."""
    drop = config.residual_dropout
    match config.name:
        case "auto":
            causal = is_causal if model.device.type == "meta" else probe(model, max(2, max_length))
            return Transformer(model, max_length=max_length, is_causal=causal)
        case "mixtral":
            return Mixtral(model, max_length=max_length, residual_dropout=drop, router_loss=config.router_loss)
        case "t5":
            return T5(model, max_length=max_length)
        case "xlnet":
            return XLNet(model, max_length=max_length, query_stream=permutation)
        case "bert":
            return Transformer(model, max_length=max_length, is_causal=False)
        case "gpt2":
            return Transformer(model, max_length=max_length)
        case _:
            return Transformer(model, max_length=max_length, residual_dropout=drop)


def _pretrained(config: BackboneConfig, max_length: int, peft: PeftConfig) -> tuple[PreTrainedModel, set[str]]:
    """The model that `pretrained` names, quantised where asked, and the parameters that its files lack."""
    assert config.pretrained is not None
    changes = shapes.dropouts(config.name, config.attention_dropout, config.residual_dropout)
    given, quantization = (config.pretrained, _described(config), changes), adapters.quantization(peft)
    if source.find(config.pretrained).gguf is None:
        options: dict[str, Any] = {"quantization": quantization, "device": adapters.place()}
        model, missing = source.read_model(*given, dtype=adapters.dtype_of(peft), **options)
    else:  # transformers does not quantise what it reads from such a file
        model, missing = source.read_model(*given, dtype=adapters.dtype_of(peft))
        adapters.quantise(model, quantization)
    _require_positions(model, max_length)
    return model, missing


def _described(config: BackboneConfig) -> dict[str, Any]:
    if not isinstance(config.architecture, dict):
        raise ConfigError(f"model.backbone.architecture: '{config.architecture}' has not been read; call settle first")
    return config.architecture


def _fresh(config: BackboneConfig, max_length: int) -> PreTrainedModel:
    """The model of `transformers` that the fields, or the architecture, describe."""
    changes: dict[str, Any] = shapes.dropouts(config.name, config.attention_dropout, config.residual_dropout)
    if config.architecture is None:
        return shapes.fresh(config.name, _values(config, max_length), changes)
    architecture = _described(config)
    model = shapes.fresh(str(architecture["model_type"]), architecture, changes)
    _require_positions(model, max_length)
    return model


def _require_positions(model: PreTrainedModel, max_length: int) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    if model.config.model_type not in UNBOUNDED and limit is not None and limit < max_length:
        raise ConfigError(
            f"model.backbone: this {model.config.model_type} has {limit} positions and {max_length} are needed; "
            f"lower model.max_length by {max_length - limit}"
        )


def _values(config: BackboneConfig, max_length: int) -> dict[str, Any]:
    sizes = Sizes(
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        intermediate_size=config.feed_forward_size(),
        max_length=max_length,
    )
    rotary = (config.num_kv_heads or config.num_heads, config.rope_theta)
    match config.name:
        case "llama":
            return shapes.llama(sizes, *rotary)
        case "qwen3":
            return shapes.qwen3(sizes, *rotary)
        case "mixtral":
            return shapes.mixtral(sizes, *rotary, config.num_experts, config.experts_per_token)
        case "gpt2":
            return shapes.gpt2(sizes)
        case "bert":
            return shapes.bert(sizes)
        case "t5":
            return shapes.t5(sizes)
        case "xlnet":
            return shapes.xlnet(sizes)
        case _:
            raise ConfigError(f"model.backbone.name: {config.name} has no shape of its own")


def settle(config: ModelConfig, complete: bool = False) -> ModelConfig:
    """The configuration with the architecture that `pretrained` or `architecture` names written out.

    A run saves it so, and is loaded without what was named. `hidden_size` and `num_layers` become the architecture's.

    Args:
        config: as it was given, or settled already, which changes nothing.
        complete: take what a written-out architecture leaves open from the one that `pretrained` names.

    Raises:
        ConfigError: nothing is there; it is another architecture than `name`; a size that was set differs.
    """
    backbone = config.backbone
    if backbone.pretrained is None and backbone.architecture is None:
        return config
    architecture = backbone.architecture
    given = architecture if isinstance(architecture, str) else backbone.pretrained
    if not isinstance(architecture, dict):
        architecture = source.read_architecture(str(given))
    elif complete and backbone.pretrained is not None:
        architecture = {**source.read_architecture(backbone.pretrained), **architecture}
    found = shapes.sizes_of(architecture)
    kind = architecture["model_type"]
    if backbone.name not in ("auto", kind):
        raise ConfigError(
            f"model.backbone.name: is {backbone.name}, but {given or 'the architecture'} is {kind}; "
            f"set name to {kind} or auto"
        )
    for field, value in found.items():
        stated = getattr(backbone, field)
        if field in backbone.model_fields_set and stated != value:
            raise ConfigError(f"model.backbone.{field}: is {stated}, but {given or kind} has {value}; leave it out")
    settled = backbone.model_copy(update={"architecture": architecture, **found})
    return config.model_copy(update={"backbone": settled})

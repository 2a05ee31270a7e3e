"""Section `model.peft` to a frozen backbone with adapters; the only place where `recsys` meets `peft_ext`."""

import os
from typing import Any

import torch

from recsys.backbones import source
from recsys.backbones.base import Backbone
from recsys.config import BackboneConfig, PeftConfig
from recsys.errors import ConfigError


def require_base(config: BackboneConfig, peft: PeftConfig) -> None:
    """Raise ConfigError where a backbone is to be frozen that nobody has trained."""
    if peft.freezes and config.pretrained is None:
        raise ConfigError(
            f"model.peft.method: {peft.method} freezes the backbone, and this {config.name} would be frozen untrained; "
            "name a trained one by model.backbone.pretrained, or set method none"
        )


def dtype_of(peft: PeftConfig) -> torch.dtype:
    """The dtype of a pretrained model's weights: those that are trained are float32."""
    dtype: torch.dtype = getattr(torch, peft.compute_dtype) if peft.freezes else torch.float32
    return dtype


def place() -> torch.device:
    """Where quantised weights are made: this process's GPU, where there is one."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else CPU


CPU = torch.device("cpu")


def quantization(peft: PeftConfig) -> Any:
    """What `from_pretrained` takes as `quantization_config`; None where the weights stay as they are.

    Raises:
        ConfigError: bitsandbytes is missing, or cannot run this kind here; says which it can.
    """
    if peft.quantization == "none":
        return None
    from peft_ext import adapt as extension

    try:
        return extension.configuration(peft.quantization, peft.double_quantization, dtype_of(peft), place())
    except extension.PeftError as error:
        raise ConfigError(f"model.peft: {error}") from error


def quantise(model: Any, quantization: Any) -> None:
    """Quantise a model that has been read, where it will compute; None leaves it as it is.

    Raises:
        ConfigError: nothing of it can be quantised.
    """
    if quantization is not None:
        from peft_ext import adapt as extension

        try:
            extension.quantise_(model.to(place()), quantization)
        except extension.PeftError as error:
            raise ConfigError(f"model.peft: {error}") from error


def adapters_of(peft: PeftConfig) -> Any:
    """The section as `peft_ext.adapt.Adapters`; None where the method adds none."""
    from peft_ext import adapt as extension

    if not peft.adapts:
        return None
    return extension.Adapters(
        r=peft.r,
        alpha=peft.alpha,
        dropout=peft.dropout,
        targets=peft.target_modules,
        use_dora=peft.method == "dora",
        experts=peft.adapt_experts,
    )


def freeze(backbone: Backbone, config: BackboneConfig, peft: PeftConfig) -> None:
    """Freeze a backbone that holds pretrained weights, add the adapters and note which weights it must be loaded with.

    Raises:
        ConfigError: peft is missing, or a target matches no layer.
    """
    if not peft.freezes:
        return
    from peft_ext import adapt as extension

    options: dict[str, Any] = {"dtype": dtype_of(peft), "gradient_checkpointing": peft.gradient_checkpointing}
    model: Any = backbone.model
    try:
        frozen = extension.adapt(model, adapters_of(peft), **options)
    except extension.PeftError as error:
        raise ConfigError(f"model.peft: {error}") from error
    backbone.external = frozenset(f"model.{name}" for name in frozen)
    backbone.base = source.fingerprint(str(config.pretrained))

"""A pretrained model frozen, with low-rank adapters in its layers that are trained in its place.

LoRA (Hu et al. 2022, arXiv:2106.09685): ``W x`` becomes ``W x + alpha / r * B A x`` with A ``[r, in]`` drawn from a
normal distribution and B ``[out, r]`` zero, so that training starts from the pretrained model. DoRA (Liu et al. 2024,
arXiv:2402.09353) learns the length of each row of the sum beside it. QLoRA is LoRA on weights of 4 bits.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_ext.quantise import EXTRA, PeftError, be_quiet, configuration, keep_packing_, quantise_

__all__ = ["Adapters", "PeftError", "adapt", "configuration", "matches", "quantise_"]

EXPERTS = ("gate_up_proj", "down_proj")
"""Weights ``[E, out, in]`` of all experts of a layer, which are no linear layers."""


@dataclass(frozen=True)
class Adapters:
    """What is added to a frozen model.

    Attributes:
        r: rank.
        alpha: the product of the two matrices is scaled by alpha / r.
        dropout: on what the adapters read.
        targets: all-linear, attention, or names of layers (q_proj, or with the modules above it: mlp.up_proj).
        use_dora: DoRA in place of LoRA.
        experts: whether the experts of a mixture get adapters too.
    """

    r: int = 16
    alpha: float = 64.0
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"
    use_dora: bool = False
    experts: bool = False


def adapt(
    model: nn.Module, adapters: Adapters | None, *, dtype: torch.dtype, gradient_checkpointing: bool = False
) -> frozenset[str]:
    """Freeze a model of `transformers` in place and add adapters (none: it only stays as it is).

    The model then computes in `dtype` and gives states of the dtype that its vectors had; adapters are float32.

    Returns:
        The names in the model's state that are frozen, quantised or plain.

    Raises:
        PeftError: the package peft is missing, or a target matches no layer; lists those there are.
    """
    model.requires_grad_(False)
    keep_packing_(model)
    if adapters is not None:
        inject(model, adapters)
    if gradient_checkpointing:
        _checkpoint_activations(model)
    cast = _Cast(dtype)
    model.register_forward_pre_hook(cast.enter, with_kwargs=True)
    model.register_forward_hook(cast.leave)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return frozenset(model.state_dict().keys() - trained)


def _checkpoint_activations(model: Any) -> None:
    """Have each layer keep its input alone and compute the rest again in the backward pass."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise PeftError(f"gradient_checkpointing: {model.config.model_type} does not support it; leave it out")
    model.activation_checkpointing_enable({"use_reentrant": False})


def inject(model: nn.Module, adapters: Adapters) -> None:
    """Add adapters, in float32, to the layers of a frozen model in place (see `adapt`)."""
    be_quiet()
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise PeftError(f"adapters need the package peft ({error}); {EXTRA}") from error
    found = expert_weights(model) if adapters.experts else []
    if adapters.experts and not found:
        raise PeftError("adapt_experts: this model has no experts; leave it out")
    config = LoraConfig(
        r=adapters.r,
        lora_alpha=adapters.alpha,  # type: ignore[arg-type]
        lora_dropout=adapters.dropout,
        target_modules=matches(model, adapters.targets),
        target_parameters=found or None,
        use_dora=adapters.use_dora,
        init_lora_weights="gaussian",
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in model.modules()),
    )
    inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def linear_layers(model: nn.Module) -> list[str]:
    """Names of the layers that a matrix makes, quantised or plain (GPT-2 has `Conv1D`, which is one)."""
    return [n for n, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)]


def expert_weights(model: nn.Module) -> list[str]:
    """Names of the parameters that hold a layer's experts."""
    return [n for n, p in model.named_parameters() if n.rpartition(".")[2] in EXPERTS and p.ndim == 3]


def matches(model: nn.Module, targets: str | Iterable[str]) -> list[str]:
    """Names of the layers that `targets` means (see `Adapters`).

    Raises:
        PeftError: one of the targets matches none; lists the names that do.
    """
    layers = linear_layers(model)
    if targets == "all-linear":
        found = layers
    elif targets == "attention":
        found = [n for n in layers if any("attn" in part or "attention" in part for part in n.lower().split("."))]
    else:
        found = []
        for target in targets:
            own = [name for name in layers if name == target or name.endswith(f".{target}")]
            if not own:
                raise PeftError(f"target_modules: no layer '{target}' ({_known(layers)})")
            found += own
    if not found:
        raise PeftError(f"target_modules: {targets} matches no layer ({_known(layers)})")
    return sorted(set(found))


def _known(layers: Iterable[str]) -> str:
    """The names that end with something else than a number, each once."""
    names = sorted({name.rpartition(".")[2] for name in layers})
    return f"there are {', '.join(names)}" if names else "the model has no linear layers"


class _Cast:
    """Forward hooks: vectors go into the model in its dtype, and its states come out in theirs."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.outer = torch.float32

    def enter(self, module: nn.Module, arguments: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Cast the keyword arguments that are vectors."""
        self.outer = given["inputs_embeds"].dtype
        vectors = {
            name: value.to(self.dtype)
            for name, value in given.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return arguments, {**given, **vectors}

    def leave(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        """Cast the states back."""
        output.last_hidden_state = output.last_hidden_state.to(self.outer)
        return output

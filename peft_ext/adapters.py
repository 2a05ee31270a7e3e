"""What the adapters of a model are: how many numbers they hold, and how they are merged into its weights."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from peft_ext.adapt import Adapters, inject
from peft_ext.quantise import PeftError, dequantise_, replace


def target_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes ``[out, in]`` of the weights that have adapters, by name; ``[E, out, in]`` of a layer's experts."""
    found: dict[str, tuple[int, ...]] = {}
    for name, layer in _adapted(model).items():  # quantised weights themselves have lost their shape
        experts = (layer.num_experts,) if hasattr(layer, "num_experts") else ()
        found[name] = (*experts, layer.out_features, layer.in_features)
    return found


def count(shapes: Mapping[str, tuple[int, ...]], r: int, use_dora: bool = False) -> int:
    """Numbers that adapters of rank `r` hold on weights of these shapes: the sum of r (out + in), E times for experts.

    DoRA has the length of each row beside them.
    """
    return sum(prod(shape[:-2]) * r * sum(shape[-2:]) + (shape[-2] if use_dora else 0) for shape in shapes.values())


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that `adapt` added, by name."""
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def merge_(model: nn.Module, adapters: Adapters | None) -> None:
    """Turn a model that `adapt` adapted into a plain one in place: weights in float32, ``W + alpha / r * B A``.

    Quantised weights are dequantised first and stay so. Merging into them (as peft does) would quantise the sum again
    and lose a part of what was learnt.

    Args:
        model: adapted; on the CPU or a GPU.
        adapters: as `adapt` was given them.

    Raises:
        PeftError: the adapters found are not those that were given.
    """
    state = adapter_state(model)
    _unload(model)
    dequantise_(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    if adapters is None:
        return
    inject(model, adapters)
    fresh = adapter_state(model)
    if {n: t.shape for n, t in fresh.items()} != {n: t.shape for n, t in state.items()}:
        raise PeftError("merge: the model has other adapters than those given")
    for name, tensor in state.items():
        fresh[name].copy_(tensor)
    for layer in _adapted(model).values():
        layer.merge(safe_merge=True)
    _unload(model)


def _unload(model: nn.Module) -> None:
    """Put the layers themselves back in the place of those that hold them with adapters."""
    while adapted := _adapted(model):
        name, outermost = next(iter(adapted.items()))
        replace(model, name, outermost.get_base_layer())
    vars(model).pop("peft_config", None)  # where peft notes what it has added


def _adapted(model: nn.Module) -> dict[str, Any]:
    """Layers with adapters by name, those that hold others first."""
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "merged_adapters")}

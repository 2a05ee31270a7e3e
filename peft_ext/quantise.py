"""Weights in 4 or 8 bits by bitsandbytes, and back (Dettmers et al. 2023, arXiv:2305.14314; 2022, arXiv:2208.07339)."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

KINDS = ("nf4", "fp4", "int8")
EXTRA = "pip install 'recsys[llm]'"


class PeftError(ValueError):
    """What was asked for cannot be done; one line with the fix."""


def configuration(kind: str, double: bool, dtype: torch.dtype, device: torch.device) -> Any:
    """What `from_pretrained` takes as `quantization_config`.

    Args:
        kind: one of `KINDS`.
        double: whether the scales of nf4 and fp4 are quantised too.
        dtype: in which a quantised layer computes.
        device: where it will.

    Raises:
        PeftError: bitsandbytes is missing, or cannot run `kind` on `device`; says which kinds it can.
    """
    from transformers import BitsAndBytesConfig

    _require_packages()
    _require_runnable(kind, device)
    if kind == "int8":
        # With a threshold, columns in which any row of the batch has a larger number are left out of the rounding, so
        # that what a row gives would depend on those beside it and on padding.
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
    )


def be_quiet() -> None:
    """Keep bitsandbytes from telling of kernels that it would fetch and of int8's casts; errors are still told."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _require_packages() -> None:
    be_quiet()
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise PeftError(f"quantization needs the package bitsandbytes ({error}); {EXTRA}") from error


def _require_runnable(kind: str, device: torch.device) -> None:
    reason = why_not(kind, device)
    if reason is None:
        return
    others = [other for other in KINDS if other != kind and why_not(other, device) is None]
    fix = f"quantization {' or '.join(others)} can" if others else "none of its kinds can; set quantization to none"
    raise PeftError(f"bitsandbytes cannot run {kind} on {device} ({reason}); {fix}")


def why_not(kind: str, device: torch.device) -> str | None:
    """Why a layer of `kind` cannot be run forward and backward on `device`; None where it can. It is tried."""
    try:
        with torch.random.fork_rng(devices=[]):  # the layer's weights must not move the caller's generator
            layer = quantised(nn.Linear(64, 64), kind, True, torch.float32).to(device)
        with torch.enable_grad():
            layer(torch.ones(2, 64, device=device, requires_grad=True)).sum().backward()
    except (RuntimeError, NotImplementedError, ImportError, OSError, ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return None


def quantised(layer: nn.Linear | Conv1D, kind: str, double: bool, dtype: torch.dtype) -> nn.Module:
    """A layer like `layer` whose weight takes 4 or 8 bits on the same device; its bias stays as it is."""
    import bitsandbytes as bnb

    weight = layer.weight.data.T.contiguous() if isinstance(layer, Conv1D) else layer.weight.data
    outer, inner = weight.shape
    options = {"bias": layer.bias is not None, "device": "meta"}
    new: Any
    if kind == "int8":
        new = bnb.nn.Linear8bitLt(inner, outer, has_fp16_weights=False, threshold=0.0, **options)
        new.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        new = bnb.nn.Linear4bit(
            inner, outer, compute_dtype=dtype, compress_statistics=double, quant_type=kind, **options
        )
        new.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, quant_type=kind, compress_statistics=double, module=new
        )
    new.bias = layer.bias
    new.source_cls = type(layer)  # as transformers notes it
    keep_packing_(new)
    return new.to(layer.weight.device)  # quantises


def keep_packing_(model: nn.Module) -> None:
    """Have 4-bit layers keep their weights as they are, in place.

    On CPUs with AVX512-BF16, bitsandbytes repacks them at the first forward pass without gradients: from then on they
    give no gradient, so that training after a validation would learn nothing, and they can no longer be dequantised.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def quantise_(model: nn.Module, configuration: Any) -> None:
    """Quantise the layers of a model of `transformers` in place: those that `from_pretrained` does while it reads.

    Raises:
        PeftError: there is none.
    """
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    kind = "int8" if configuration.load_in_8bit else configuration.bnb_4bit_quant_type
    options = configuration.bnb_4bit_use_double_quant, configuration.bnb_4bit_compute_dtype
    kept: list[str] = []
    if isinstance(model, PreTrainedModel):  # T5's `wo` is among them
        kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    found = {name: layer for name, layer in model.named_modules() if type(layer) in (nn.Linear, Conv1D)}
    found = {name: layer for name, layer in found.items() if should_convert_module(name, kept)}
    if not found:
        raise PeftError("quantization: this model has no linear layer to quantise; set quantization to none")
    for name, layer in found.items():
        replace(model, name, quantised(layer, kind, *options))


def weight_of(layer: nn.Module) -> Tensor:
    """The weight ``[out, in]`` of a linear layer in float32, from its 4 or 8 bits where it has been quantised."""
    weight: Any = layer.weight
    if getattr(weight, "quant_state", None) is not None:
        from bitsandbytes.functional import dequantize_4bit

        dense: Tensor = dequantize_4bit(weight.data, weight.quant_state).float()
        return dense
    scale = getattr(weight, "SCB", None)
    if scale is None:
        scale = getattr(getattr(layer, "state", None), "SCB", None)
    if weight.dtype == torch.int8 and scale is not None:
        return weight.data.float() * (scale.float() / 127.0)[:, None]
    return weight.data.float()


def dequantise_(model: nn.Module) -> None:
    """Turn the quantised layers of a model into plain ones in place; the weights stay what the 4 or 8 bits say."""
    for name, layer in list(model.named_modules()):
        if type(layer).__name__ in ("Linear4bit", "Linear8bitLt") and type(layer).__module__.startswith("bitsandbytes"):
            replace(model, name, _plain(layer))


def _plain(layer: Any) -> nn.Module:
    """The float32 layer that was quantised; GPT-2's hold their weight the other way round."""
    weight, plain = weight_of(layer), nn.Linear(1, 1, layer.bias is not None, device="meta")
    if issubclass(getattr(layer, "source_cls", nn.Linear), Conv1D):
        weight, plain = weight.T.contiguous(), Conv1D(layer.out_features, layer.in_features)
    else:
        plain.in_features, plain.out_features = layer.in_features, layer.out_features
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.data.float(), requires_grad=False)
    return plain


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` in the place of the module of that dotted name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)

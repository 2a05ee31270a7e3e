"""How much memory training a model takes: counted from shapes, before there is any memory or card.

What is held at the busiest moment of a step, in bytes::

    weights      every parameter and buffer in its own type; 4- and 8-bit weights with their scales
    gradients    one number for each trainable parameter, in its type
    optimizer    two numbers for each trainable parameter (AdamW), and its count of steps
    activations  what the forward pass keeps for the backward pass
    working      what comes and goes beside them: gradients of activations, logits, layers computed again

The first three are exact, and those of a running model are measured by walking its tensors. Activations and working
memory come from a pass on fake tensors (`peft_ext.activations`).
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_ext.activations import Batch, Loss, trace
from peft_ext.adapters import adapter_state, count, target_shapes

Kind = Literal["nf4", "fp4", "int8"]
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit")
"""Those that are paged count in full, though their pages can leave the card while they are not needed."""
BLOCK, SECOND_BLOCK = 64, 256
"""Weights that share a scale, and scales that share one of the second level, in bitsandbytes."""
MIN_8BIT = 4096
"""A tensor with fewer numbers keeps a 32-bit state under bitsandbytes' 8-bit optimizers."""
FLOAT = 4


@dataclass(frozen=True)
class Quantised:
    """Which weights take fewer bits than their tensors say, and how.

    Attributes:
        kind: nf4, fp4 (both 4 bits) or int8.
        double: whether the scales of the 4-bit kinds are quantised too.
        names: of the parameters.
        compute_size: bytes of a number of the type that they are turned into for a product.
    """

    kind: Kind
    double: bool
    names: frozenset[str]
    compute_size: int = 2


@dataclass(frozen=True)
class Memory:
    """What training takes, in bytes, and how many numbers are trained.

    Attributes:
        parameters: numbers in the model's parameters; a quantised one counts as the numbers it stands for.
        trainable: of them, those that are trained.
        weights: bytes by type (float32, bfloat16, nf4, ...); buffers are among them.
        gradients: bytes.
        optimizer: bytes.
        activations: bytes kept for the backward pass.
        working: bytes beside them at the busiest moment.
    """

    parameters: int
    trainable: int
    weights: dict[str, int] = field(default_factory=dict)
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    working: int = 0

    @property
    def all_weights(self) -> int:
        """Bytes of the weights of all types."""
        return sum(self.weights.values())

    @property
    def total(self) -> int:
        """Bytes at the busiest moment."""
        return self.all_weights + self.gradients + self.optimizer + self.activations + self.working


def quantised_bytes(numbers: int, rows: int, kind: Kind, double: bool) -> int:
    """Bytes of a weight of `numbers` numbers in `rows` rows as bitsandbytes keeps it.

    nf4 and fp4 (Dettmers et al. 2023, arXiv:2305.14314, section 3): half a byte a number; a float32 scale for each 64,
    or with double quantisation one byte, with a float32 scale for each 256 of those, their float32 mean and the table
    of 256 float32 values that the bytes stand for; a table of 16 float32 values. int8: a byte a number and a float32
    scale a row.
    """
    if kind == "int8":
        return numbers + FLOAT * rows
    blocks = math.ceil(numbers / BLOCK)
    scales = blocks + FLOAT * (math.ceil(blocks / SECOND_BLOCK) + 1 + 256) if double else FLOAT * blocks
    return math.ceil(numbers / 2) + scales + 16 * FLOAT


def static_memory(module: nn.Module, quantised: Quantised | None = None, optimizer: str = "adamw") -> Memory:
    """Weights, gradients and optimizer of a module on any device, the meta device too; exact.

    Raises:
        ValueError: an unknown optimizer.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer '{optimizer}' is none of {', '.join(OPTIMIZERS)}")
    names: Collection[str] = frozenset() if quantised is None else quantised.names
    weights: dict[str, int] = {}
    numbers = 0
    turned = {id(layer.weight) for layer in module.modules() if isinstance(layer, Conv1D)}  # held as [in, out]
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        numbers += tensor.numel() if isinstance(tensor, nn.Parameter) else 0
        if quantised is not None and name in names:
            rows = tensor.shape[-1 if id(tensor) in turned else 0]
            size = quantised_bytes(tensor.numel(), rows, quantised.kind, quantised.double)
            weights[quantised.kind] = weights.get(quantised.kind, 0) + size
        else:
            kind = str(tensor.dtype).removeprefix("torch.")
            weights[kind] = weights.get(kind, 0) + tensor.numel() * tensor.itemsize
    trained = [p for p in module.parameters() if p.requires_grad]
    return Memory(
        parameters=numbers,
        trainable=sum(p.numel() for p in trained),
        weights=weights,
        gradients=sum(p.numel() * p.itemsize for p in trained),
        optimizer=sum(_optimizer_bytes(p, optimizer) for p in trained),
    )


def plan_memory(
    module: nn.Module,
    loss: Loss,
    batch: Batch,
    *,
    quantised: Quantised | None = None,
    optimizer: str = "adamw",
    precision: str = "float32",
    gpu: bool = False,
    distinct: Sequence[int] = (),
) -> Memory:
    """All that training `module` takes at the busiest moment of a step.

    Args:
        module: with plain weights, best on the meta device; those of `quantised` are counted as what they will be.
        loss, batch, precision, gpu, distinct: as in `peft_ext.activations.trace`.
        quantised: weights of 4 or 8 bits; the largest stands in full beside the activations while it is used.
        optimizer: one of `OPTIMIZERS`.

    Raises:
        ValueError: an unknown optimizer or precision, or the pass asks for values, of which there are none.
    """
    static = static_memory(module, quantised, optimizer)
    held = trace(module, loss, batch, precision=precision, gpu=gpu, distinct=distinct)
    working = max(0, held.peak - held.saved - static.gradients)
    if quantised is not None:
        sizes = (p.numel() for name, p in module.named_parameters() if name in quantised.names)
        working += quantised.compute_size * max(sizes, default=0)
    return replace(static, activations=held.saved, working=working)


def _optimizer_bytes(parameter: Tensor, optimizer: str) -> int:
    """Two moments (AdamW, arXiv:1711.05101): PyTorch's in the parameter's type with a float32 count of steps.

    bitsandbytes' are float32, or with 8 bits (Dettmers et al. 2022, arXiv:2110.02861) a byte and a float32 scale for
    each 256.
    """
    numbers = parameter.numel()
    if optimizer == "adamw":
        return 2 * numbers * parameter.itemsize + FLOAT
    if optimizer == "paged_adamw" or numbers < MIN_8BIT:
        return 2 * numbers * FLOAT
    return 2 * (numbers + FLOAT * math.ceil(numbers / SECOND_BLOCK))


def count_parameters(module: nn.Module) -> int:
    """Numbers in a module's parameters; one that is packed into 4 bits counts as the numbers it stands for."""
    states = ((parameter, getattr(parameter, "quant_state", None)) for parameter in module.parameters())
    return sum(parameter.numel() if state is None else math.prod(state.shape) for parameter, state in states)


def adapter_numbers(model: nn.Module, r: int, use_dora: bool) -> tuple[int, int]:
    """Numbers in the adapters of a model that `adapt` adapted, and how many the formula of their rank says."""
    return sum(tensor.numel() for tensor in adapter_state(model).values()), count(target_shapes(model), r, use_dora)


def measured_weights(module: nn.Module) -> int:
    """Bytes of the weights that a module holds now, by walking its tensors: scales of quantised ones too."""
    tensors = [*module.parameters(), *module.buffers()]
    states = [getattr(layer, "state", None) for layer in module.modules()]  # where 8-bit layers move their scales
    for owner in (*tensors, *module.modules(), *states):
        tensors += _tensors_of(getattr(owner, "quant_state", None))
        tensors += [t for t in (getattr(owner, "SCB", None), getattr(owner, "CB", None)) if isinstance(t, Tensor)]
    return storage_bytes(tensors)


def _tensors_of(quant_state: object) -> list[Tensor]:
    """Scales and tables of a 4-bit weight."""
    if quant_state is None:
        return []
    own = [getattr(quant_state, name, None) for name in ("absmax", "code", "offset")]
    return [t for t in own if isinstance(t, Tensor)] + _tensors_of(getattr(quant_state, "state2", None))


def measured_gradients(module: nn.Module) -> int:
    """Bytes of the gradients that a module's parameters hold now."""
    return storage_bytes(p.grad for p in module.parameters() if p.grad is not None)


def measured_optimizer(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the tensors of an optimizer's state."""
    return storage_bytes(v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor))


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors, each storage once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())

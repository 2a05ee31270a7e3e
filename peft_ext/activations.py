"""What a step of training holds beside weights and optimizer, in bytes: counted on a real batch, or without any memory.

Autograd keeps tensors of the forward pass for the backward pass. `count_saved` counts them as a real pass runs: each
storage once, less those of the module's own parameters and buffers, which are there anyway. `trace` runs a whole
forward and backward pass on fake tensors, which have a shape, a type and no numbers, and takes down what would be held
at every moment; so a model of billions of parameters takes seconds and no memory, and every module, adapter and hook
counts as it is, with mixed precision and gradient checkpointing.

It can be checked on paper. Korthikanti et al. 2022 (arXiv:2205.05198, eq. 1) count ``34 h + 5 a T`` bytes an event in
a layer of GPT in 16 bits. The term ``5 a T`` is the attention matrix, which the fused kernel never keeps. In a layer
of LLaMA with h = hidden, k = width of the keys, f = intermediate size, a = heads, an event takes

- trained in full in float32: ``4 (8 h + 2 k + 4 f + a + 2)`` bytes. Each norm keeps what it reads, the normalised and
  the weighted values (3 h and one number), attention its queries, keys, values and result (2 h + 2 k) and a logarithm
  a head, the gated block both branches, the activated one and the product (4 f);
- frozen in bfloat16 with adapters of rank r and dropout on all seven projections: ``(12 + 6 (2 + m)) h + 4 k +
  (6 + 2 + m) f + 14 r + 4 a + 8`` bytes, where m is the size of a value of a dropout mask: 1 on a GPU, 4 on a CPU.
  Frozen weights need nothing of what they are multiplied with; an adapter keeps what it reads in 16 bits, the mask, and
  its r numbers. Copies of the adapters in 16 bits, 2 bytes a number, come once for each layer.
"""

import copy
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types that a pass is computed in, by name; None: no autocast."""
ANSWER = 3
"""What a whole number that depends on values is taken for: a valid id."""
Batch = Mapping[str, tuple[Sequence[int], torch.dtype]]
"""Shape and type of each tensor of a batch."""
Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
"""From a module and a batch to the number that gradients are taken of."""


class Saved:
    """Running count of saved storages.

    Attributes:
        bytes: of all of them, each once.
    """

    def __init__(self, module: nn.Module) -> None:
        self.bytes = 0
        self._seen = {_storage(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self._kept: list[Tensor] = []  # so that no storage is freed and its identity given to another

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd saves, and give it back."""
        found = _storage(tensor)
        if found not in self._seen:
            self._seen.add(found)
            self._kept.append(tensor)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor

    def forget(self) -> None:
        """Let go of the tensors; the count stays."""
        self._seen, self._kept = set(), []


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def count_saved(module: nn.Module) -> Iterator[Saved]:
    """Count what forward passes of `module` inside the block save for their backward pass."""
    saved = Saved(module)
    with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda tensor: tensor):
        yield saved
    saved.forget()


@dataclass(frozen=True)
class Trace:
    """Bytes of one forward and backward pass.

    Attributes:
        saved: what the forward pass keeps for the backward pass.
        peak: most that is held at one moment, gradients of parameters included, weights not.
    """

    saved: int
    peak: int


def trace(
    module: nn.Module,
    loss: Loss,
    batch: Batch,
    *,
    precision: str = "float32",
    gpu: bool = False,
    distinct: Sequence[int] = (),
) -> Trace:
    """What a forward and a backward pass would hold.

    Args:
        module: on any device, the meta device too, and in the mode (training or not) that counts; left as it was.
        loss: called once.
        batch: what it is called with.
        precision: of the pass: float32, bfloat16 or float16, as autocast has it.
        gpu: dropout keeps a mask of one byte a value, as a GPU's kernel does; else one of the value's own type.
        distinct: at the n-th call of `torch.unique`, how many values differ at most; then from the first on again.

    Raises:
        ValueError: an unknown precision, or the pass asks for values, of which there are none.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision '{precision}' is none of {', '.join(PRECISIONS)}")
    runner, held = _Runner(on_meta(module), loss, PRECISIONS[precision]), _Held(distinct)
    with ExitStack() as modes:
        modes.enter_context(_no_compiler())
        modes.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        fakes = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype).requires_grad_(tensor.requires_grad)
            for name, tensor in (*runner.named_parameters(), *runner.named_buffers())
        }
        made = {name: torch.empty(tuple(shape), dtype=kind) for name, (shape, kind) in batch.items()}
        held.know(fakes.values())
        for mode in (torch.enable_grad(), held, _Values(gpu)):
            modes.enter_context(mode)
        try:
            saved: int = torch.func.functional_call(runner, fakes, (made,))
        except (RuntimeError, NotImplementedError) as error:
            raise ValueError(f"the pass cannot be planned: {_first_line(error)}") from error
    return Trace(saved, held.peak)


@contextmanager
def _no_compiler() -> Iterator[None]:
    """Have `transformers` build no mask for sequences packed into one row.

    It takes fake tensors for a compiler's, which cannot ask whether there are any, and makes the mask to be safe.
    """
    masks: Any = sys.modules.get("transformers.masking_utils")
    if masks is None:
        yield
        return
    asked = masks.find_packed_sequence_indices
    masks.find_packed_sequence_indices = lambda positions: None
    try:
        yield
    finally:
        masks.find_packed_sequence_indices = asked


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters and buffers have shapes and types and take no memory."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        given = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        memo[id(tensor)] = given
    return copy.deepcopy(module, memo)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + lines[0] if lines else ''}"


class _Runner(nn.Module):
    """A module's forward and backward pass as one call."""

    def __init__(self, module: nn.Module, loss: Loss, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.module = module
        self.loss = loss
        self.dtype = dtype

    def forward(self, batch: Mapping[str, Tensor]) -> int:
        """Run both on a batch; the bytes that were saved between them."""
        half = torch.autocast("cpu", dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)
        with half, count_saved(self) as saved:
            total = self.loss(self.module, batch)
        # What `Tensor.backward` calls in the end; itself, it would switch modes off for layers that are computed again.
        engine: Any = torch.autograd.Variable._execution_engine
        engine.run_backward((total,), (torch.ones_like(total),), False, False, (), True, True)
        return saved.bytes


class _Held(TorchDispatchMode):
    """Takes down the most bytes that are held at one moment, of storages made while it is on.

    It answers what fake tensors cannot: numbers, how many values differ or are masked, and grouped products in every
    type.
    """

    def __init__(self, distinct: Sequence[int]) -> None:
        super().__init__()
        self.distinct = cycle(distinct)
        self.now = 0
        self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        if func is aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else ANSWER
        if func is aten._unique2.default:
            values = args[0]
            size = min(values.numel(), next(self.distinct, values.numel()))
            result: Any = values.new_empty(size), torch.empty_like(values), values.new_empty(size)
        elif func is aten.index.Tensor:
            result = func(args[0], _as_numbers(args[1]))
        elif func is aten._grouped_mm.default:
            result = _grouped_product(*args, **(kwargs or {}))
        else:
            result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._take(tensor.untyped_storage())
        return result

    def know(self, tensors: Iterable[Tensor]) -> None:
        """Leave out the storages of tensors that were there before."""
        for tensor in tensors:
            self._known[_storage(tensor)] = tensor

    def _take(self, storage: torch.UntypedStorage) -> None:
        key, size = int(storage._cdata), storage.nbytes()
        if key in self._known:
            return

        def release(_: object) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, release)
        self.now += size
        self.peak = max(self.peak, self.now)


def _as_numbers(index: Sequence[Tensor | None]) -> list[Tensor | None]:
    """An index whose masks are lists of places; as nobody knows how many there are, of all."""
    places: list[Tensor | None] = []
    for part in index:
        if part is not None and part.dtype == torch.bool:
            places += [part.new_zeros(part.numel(), dtype=torch.int64) for _ in part.shape]
        else:
            places.append(part)
    return places


def _grouped_product(left: Tensor, right: Tensor, offsets: Tensor, *_: Any, **__: Any) -> Tensor:
    """Shape of `torch._grouped_mm`: left ``[R, K]`` by right ``[E, K, N]``, or of a weight's gradient ``[K, N]``."""
    groups = () if right.ndim == 3 else (len(offsets),)
    return left.new_empty(*groups, left.shape[0], right.shape[-1])


class _Values(TorchFunctionMode):
    """Answers `Tensor.tolist`, and on a GPU has dropout and attention keep what its kernels keep."""

    def __init__(self, gpu: bool) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.tolist:
            return _filled(list(args[0].shape))
        if self.gpu and func is functional.dropout:
            return _byte_dropout(*args, **kwargs)
        if self.gpu and func is functional.scaled_dot_product_attention and "dropout_p" in kwargs:
            # A GPU's kernels draw their dropout anew in the backward pass; a CPU's has none, and keeps the matrix.
            return func(*args, **{**kwargs, "dropout_p": 0.0})
        return func(*args, **kwargs)


def _filled(shape: list[int]) -> Any:
    return [_filled(shape[1:]) for _ in range(shape[0])] if shape else ANSWER


def _byte_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout by the kernel that keeps a mask of bytes."""
    if not training or p == 0:
        return input
    dropped: Tensor = torch.native_dropout(input, p, True)[0]
    return dropped

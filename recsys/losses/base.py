"""What every loss returns, and the chunked engine under the losses over a catalogue.

The engine never holds the logits of all positions. It walks over the positions in chunks; for each chunk
it forms the logits, their exponentials and, at once, the gradients of hidden states, table and bias. The
backward pass only multiplies what is stored (``[P, D]`` and ``[V, D]``) by the incoming gradient. All chunks
share one buffer, since fresh pages for every chunk would cost more than the arithmetic.

A chunk of logits is gone over as little as can be: one product writes it, the exponential is taken in place, one pass
sums it, and two products read it. What makes a softmax of it, the division by the row's sum, is done on the
D numbers of the position instead of its C logits, and so is the smoothing. The row's largest entry is subtracted only
where the lengths of hidden states and rows do not already rule out an overflow.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys.errors import ConfigError
from recsys.losses.checks import check_additions, check_inputs
from recsys.losses.fused import fused_nll, is_usable

DEFAULT_CHUNK_SIZE = 2**20
"""Logits in one chunk: 4 MiB in fp32, 2 in bf16; the fastest of 2^17 .. 2^22 for 3,416 items of width 64 in bf16."""

MIN_CHUNK_ROWS = 64
"""Fewest positions in a chunk: each chunk reads and writes the table's whole gradient once."""

SAFE_LOGIT = 40.0
"""No logit above it, none below its negative: then sums of exponentials and what is made of them stay far inside the
range of float32 and bfloat16 (e^-87 to e^88) without a shift, for any catalogue that fits in memory."""


class LossOutput(NamedTuple):
    """A loss as sum and count, so that accumulation steps and ranks can be normalised by token.

    `sum` is differentiable; `count` is the number of positions, or the sum of the weights where weights are
    given; ``sum / count`` is the mean. `parts` holds detached sums for the log.
    """

    sum: Tensor
    # mypy minds that this hides tuple.count, which nobody calls on a loss.
    count: Tensor  # type: ignore[assignment]
    parts: dict[str, Tensor]


class Additions(NamedTuple):
    """What is added to some logits of each position; of reserved ids nothing is.

    ids: ``[P, S]``; but for reserved ones, no position names an id twice. values: ``[P, S]``.
    """

    ids: Tensor
    values: Tensor


class Settings(NamedTuple):
    """Plain values that the engine needs beside the tensors."""

    rows: int
    smoothing: float
    bf16: bool
    ignore_rows: int
    needs_grad: tuple[bool, bool, bool, bool]


class CatalogueLoss(nn.Module, ABC):
    """Base of the losses over a catalogue; a subclass gives `curve`, the loss as a function of -log p.

    chunk_size: logits in one chunk (positions times items); at least 64 positions are taken at a time.
    dtype: "float32" or "bfloat16", the type of the three matrix products. With "bfloat16" a chunk's logits, their
        exponentials and each position's sum of them are rounded to it too, since to keep that sum in float32 makes
        a step a tenth slower on a CPU; what follows from the sum, and what is accumulated over chunks, is float32
        (float64 where the inputs are float64). With "bfloat16" on a GPU, `cut-cross-entropy` takes the engine's
        place where it is installed.
    ignore_rows: this many first rows of the table (the reserved ids) are left out of the softmax.
    """

    label_smoothing: float = 0.0

    def __init__(
        self,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        dtype: Literal["float32", "bfloat16"] = "float32",
        ignore_rows: int = 0,
    ) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ConfigError(f"chunk_size ({chunk_size}) must be at least 1; default {DEFAULT_CHUNK_SIZE}")
        if dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype ('{dtype}') must be 'float32' or 'bfloat16'")
        if ignore_rows < 0:
            raise ConfigError(f"ignore_rows ({ignore_rows}) must not be negative")
        self.chunk_size = chunk_size
        self.dtype = dtype
        self.ignore_rows = ignore_rows

    @abstractmethod
    def curve(self, nll: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each position and its derivative, both as functions of ``nll = -log p_target`` ``[n]``."""

    def forward(
        self,
        hidden: Tensor,
        table: Tensor,
        targets: Tensor,
        bias: Tensor | None = None,
        weights: Tensor | None = None,
        additions: Additions | None = None,
    ) -> LossOutput:
        """Loss of ``hidden @ table.T + bias`` against the rows of the table named by `targets`.

        hidden: ``[P, D]``; table: ``[V, D]``; targets: ``[P]`` int64, in ``ignore_rows .. V-1``;
        bias: ``[V]``; weights: ``[P]``, constants (no gradient flows into them); additions: to the logits.
        ->  LossOutput; parts: `nll`, the (weighted) sum of plain -log p without focus or smoothing.

        Raises InputError where shapes do not fit or a target is reserved or out of range.
        """
        check_inputs(hidden, table, targets, bias, weights, self.ignore_rows)
        if additions is not None:
            check_additions(*additions, len(targets), table.shape[0])
        if self.dtype == "bfloat16" and not self.label_smoothing and additions is None and is_usable(hidden):
            total, nll = self._fused(hidden, table, targets, bias, weights)
        else:
            total, nll = self._chunked(hidden, table, targets, bias, weights, additions)
        if weights is None:
            count = torch.tensor(float(targets.shape[0]), dtype=total.dtype, device=total.device)
        else:
            count = weights.sum().to(total.dtype)
        return LossOutput(total, count, {"nll": nll})

    def _chunked(
        self,
        hidden: Tensor,
        table: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        weights: Tensor | None,
        additions: Additions | None,
    ) -> tuple[Tensor, Tensor]:
        """(sum of the loss, sum of -log p) by our own engine."""
        enabled = torch.is_grad_enabled()
        ids, values = (None, None) if additions is None else additions
        settings = Settings(
            rows=max(MIN_CHUNK_ROWS, self.chunk_size // max(1, table.shape[0] - self.ignore_rows)),
            smoothing=self.label_smoothing,
            bf16=self.dtype == "bfloat16",
            ignore_rows=self.ignore_rows,
            needs_grad=(
                enabled and hidden.requires_grad,
                enabled and table.requires_grad,
                enabled and bias is not None and bias.requires_grad,
                enabled and values is not None and values.requires_grad,
            ),
        )
        total, nll = _ChunkedLoss.apply(hidden, table, bias, values, targets, weights, ids, self.curve, settings)
        return total, nll

    def _fused(
        self, hidden: Tensor, table: Tensor, targets: Tensor, bias: Tensor | None, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(sum of the loss, sum of -log p) by cut-cross-entropy."""
        skip = self.ignore_rows
        nll = fused_nll(hidden, table[skip:], targets - skip, None if bias is None else bias[skip:])  # [P]
        flat = nll.detach().clamp_min(0)
        value, slope = self.curve(flat)
        scale = 1.0 if weights is None else weights.to(flat.dtype)
        # Its value is the curve's, its gradient the slope times that of -log p.
        each = value + slope * (nll - nll.detach())
        return (each * scale).sum(), (flat * scale).sum()

    def extra_repr(self) -> str:
        """Settings shown by ``print(module)``."""
        return f"chunk_size={self.chunk_size}, dtype={self.dtype}, ignore_rows={self.ignore_rows}"


class _ChunkedLoss(torch.autograd.Function):
    """(sum of the loss, sum of -log p) with gradients formed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        table: Tensor,
        bias: Tensor | None,
        values: Tensor | None,
        targets: Tensor,
        weights: Tensor | None,
        ids: Tensor | None,
        curve: Any,
        settings: Settings,
    ) -> tuple[Tensor, Tensor]:
        # Autocast would lower the products that are meant to stay in fp32; our own dtype switch decides.
        with torch.autocast(hidden.device.type, enabled=False):
            work = _Pass(hidden, table, targets, bias, weights, settings)
            if ids is not None and values is not None:
                work.add(ids, values)
            for start in range(0, targets.shape[0], settings.rows):
                work.chunk(start, curve)
            if settings.smoothing:
                work.finish()
        ctx.save_for_backward(*work.gradients())
        ctx.dtypes = tuple(None if given is None else given.dtype for given in (hidden, table, bias, values))
        total, nll = work.sums()
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sum: Tensor, _grad_nll: Tensor) -> tuple[Tensor | None, ...]:
        # Multiplied before the cast, so that a loss scale does its work for half-precision inputs.
        found = (
            None if grad is None else (grad * grad_sum).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return *found, None, None, None, None, None


class _Pass:
    """One forward pass: inputs in the types of the products, the buffer, accumulators.

    n positions of a chunk, C = V - ignore_rows candidates.
    """

    def __init__(
        self,
        hidden: Tensor,
        table: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        weights: Tensor | None,
        settings: Settings,
    ) -> None:
        self.settings = settings
        exact = torch.promote_types(torch.promote_types(hidden.dtype, table.dtype), torch.float32)
        skip, device = settings.ignore_rows, hidden.device
        product = torch.bfloat16 if settings.bf16 else exact
        full, rows = hidden.detach(), table.detach()[skip:]
        self.unit = math.log(2) if settings.bf16 else 1.0  # of the logits: powers of 2 come cheaper in bfloat16
        self.hidden, self.table = (full / self.unit).to(product), rows.to(product)  # [P, D], [C, D]
        self.bias = None if bias is None else (bias.detach()[skip:] / self.unit).to(product)  # [C]
        self.weights = None if weights is None else weights.to(exact)  # [P]
        self.targets = (targets - skip).unsqueeze(1)  # [P, 1]
        self.bound = _bound(full, rows, bias)
        self.logits = torch.empty(min(settings.rows, len(targets)), len(rows), dtype=product, device=device)
        self.places = torch.arange(len(self.logits), device=device)
        self.values, self.nll, self.scale = torch.empty(3, len(targets), dtype=exact, device=device)  # [P] each
        need_hidden, need_table, need_bias, _ = settings.needs_grad
        self.grad_hidden = torch.empty(hidden.shape, dtype=exact, device=device) if need_hidden else None
        self.grad_table = torch.zeros(table.shape, dtype=exact, device=device) if need_table else None
        self.grad_bias = torch.zeros(table.shape[0], dtype=exact, device=device) if need_bias else None
        self.low_table = torch.empty_like(self.table) if need_table and settings.bf16 else None
        self.added: tuple[Tensor, Tensor, Tensor] | None = None
        self.grad_added: Tensor | None = None

    def add(self, ids: Tensor, values: Tensor) -> None:
        """Take note of `Additions`: places ``[P, S]`` among the candidates, values, and which of them count."""
        counts = ids >= self.settings.ignore_rows
        given = values.detach() * counts
        places = (ids - self.settings.ignore_rows).clamp_min(0)  # what does not count adds 0 to the first candidate
        self.added = (places, (given / self.unit).to(self.hidden.dtype), counts)
        self.bound += float(given.abs().max()) if given.numel() else 0.0
        if self.settings.needs_grad[3]:
            self.grad_added = torch.zeros(values.shape, dtype=self.nll.dtype, device=values.device)

    def chunk(self, start: int, curve: Any) -> None:
        """Loss and gradients of the positions from `start` on."""
        part = slice(start, min(start + self.settings.rows, self.targets.shape[0]))
        target, smoothing, exact = self.targets[part], self.settings.smoothing, self.nll.dtype  # [n, 1]
        logits = self._product(part)  # [n, C]
        place = (self.places[: len(target)], target.squeeze(1))  # of each position's target in the chunk
        own = logits[place].to(exact) * self.unit  # [n]
        mean = logits.mean(1, dtype=exact) * self.unit if smoothing else None  # [n]
        odds = logits.exp2_() if self.settings.bf16 else logits.exp_()  # [n, C], not normalised
        odds[place] = 0
        # Summed without the target, so that near p = 1 nothing of the others is lost to its rounding.
        others = odds.sum(1).to(exact)  # [n]
        whole = others + own.exp()  # [n]
        log_whole = whole.log()
        nll = (log_whole - own).clamp_min_(0)  # [n]
        value, slope = curve(nll)  # [n], [n]
        if mean is not None:
            value = (1 - smoothing) * value + smoothing * (log_whole - mean)
        weight = None if self.weights is None else self.weights[part]
        self.values[part] = value if weight is None else value * weight
        self.nll[part] = nll if weight is None else nll * weight
        self.scale[part] = slope if weight is None else slope * weight
        if any(self.settings.needs_grad):
            # d loss / d logits = scale / whole * (odds - (1 - smoothing) whole onehot) - scale * smoothing / C, where
            # whole = odds + others at the target. The first is here but for its factor, the last comes in `finish`.
            odds[place] = (smoothing * whole - others).to(odds.dtype)
            self._accumulate(part, odds, self.scale[part] / whole)

    def _product(self, part: slice) -> Tensor:
        """Logits ``[n, C]`` in the shared buffer, less each row's largest where that is needed."""
        hidden = self.hidden[part]
        logits = self.logits[: len(hidden)]
        if self.bias is None:
            torch.mm(hidden, self.table.t(), out=logits)
        else:
            torch.addmm(self.bias, hidden, self.table.t(), out=logits)
        if self.added is not None:
            logits.scatter_add_(1, self.added[0][part], self.added[1][part])
        # Shifted too where the bound is not finite.
        return logits if self.bound <= SAFE_LOGIT else logits.sub_(logits.amax(1, keepdim=True))

    def _accumulate(self, part: slice, error: Tensor, factor: Tensor) -> None:
        """Add the chunk's gradients: error ``[n, C]`` before the row factor ``[n]``."""
        if self.grad_hidden is not None:
            torch.mul(torch.mm(error, self.table), factor.unsqueeze(1), out=self.grad_hidden[part])
        if self.grad_bias is not None:
            self.grad_bias[self.settings.ignore_rows :] += error.t() @ factor.to(error.dtype)
        if self.grad_added is not None and self.added is not None:
            places, _, counts = (each[part] for each in self.added)
            self.grad_added[part] = error.gather(1, places) * factor.unsqueeze(1) * counts
        if self.grad_table is None:
            return
        scaled = (self.hidden[part] * (self.unit * factor).unsqueeze(1)).to(self.hidden.dtype)  # [n, D]
        grad = self.grad_table[self.settings.ignore_rows :]
        if self.low_table is None:
            grad.addmm_(error.t(), scaled)
        else:
            grad.add_(torch.mm(error.t(), scaled, out=self.low_table))

    def finish(self) -> None:
        """Take the smoothing's share, the same for every candidate, off the gradients."""
        skip, exact = self.settings.ignore_rows, self.nll.dtype
        each = self.settings.smoothing / len(self.table) * self.scale  # [P]
        if self.grad_hidden is not None:
            self.grad_hidden -= each.unsqueeze(1) * self.table.sum(0, dtype=exact)
        if self.grad_table is not None:
            self.grad_table[skip:] -= each @ self.hidden.to(exact) * self.unit  # [D]
        if self.grad_bias is not None:
            self.grad_bias[skip:] -= each.sum()
        if self.grad_added is not None and self.added is not None:
            self.grad_added -= each.unsqueeze(1) * self.added[2]

    def sums(self) -> tuple[Tensor, Tensor]:
        """(sum of the loss, sum of -log p), scalars."""
        return self.values.sum(), self.nll.sum()

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Gradients of hidden, table, bias and additions for an incoming gradient of 1; None where not needed."""
        return self.grad_hidden, self.grad_table, self.grad_bias, self.grad_added


def _bound(hidden: Tensor, table: Tensor, bias: Tensor | None) -> float:
    """Above the size of every logit, by Cauchy and Schwarz. hidden ``[P, D]``, table ``[C, D]``."""
    if not len(hidden):
        return 0.0
    bound = torch.linalg.vector_norm(hidden, dim=1).max() * torch.linalg.vector_norm(table, dim=1).max()
    return float(bound if bias is None else bound + bias.abs().max())

"""The engine under the losses that see a sample of the catalogue, gradients formed in the forward pass.

Beside the target, each position sees K negatives, either one set for all positions (a matrix product) or K of its own
(gathered rows). Only the rows that are needed come in, so what a step costs does not grow with the catalogue.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys.errors import ConfigError, InputError
from recsys.losses.base import DEFAULT_CHUNK_SIZE, LossOutput
from recsys.losses.checks import check_inputs

MIN_CHUNK_ROWS = 16
"""Fewest positions in a chunk."""


class SampledLoss(nn.Module, ABC):
    """Base of the sampled losses; a subclass gives `slopes`, the loss as a function of the logits.

    chunk_size: values in one chunk: logits (positions times negatives), or gathered rows where each position has
        negatives of its own.
    """

    uses_log_counts = False

    def __init__(self, chunk_size: int = DEFAULT_CHUNK_SIZE) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ConfigError(f"chunk_size ({chunk_size}) must be at least 1; default {DEFAULT_CHUNK_SIZE}")
        self.chunk_size = chunk_size

    @abstractmethod
    def slopes(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss ``[n]`` and its derivatives by the logits of targets ``[n]`` and negatives ``[n, K]``.

        A negative of -inf is left out. `negative` may be overwritten.
        """

    def forward(
        self,
        hidden: Tensor,
        rows: Tensor,
        targets: Tensor,
        row_ids: Tensor,
        negatives: Tensor,
        log_counts: Tensor | None = None,
        bias: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> LossOutput:
        """Loss of the logits of targets and negatives.

        hidden: ``[P, D]``; rows: ``[V', D]``, some rows of the table; row_ids: ``[V']``, their ids; targets: ``[P]``
        and negatives: ``[K]`` or ``[P, K]``, all int64 places in `rows`; log_counts: of the negatives' shape, what
        logQ takes from their logits; bias: ``[V']``; weights: ``[P]``, constants.
        A negative whose id is the target's is left out.
        ->  LossOutput; parts: `accidental_hits`, how many were left out.

        Raises InputError where shapes do not fit or a place is out of range.
        """
        check_inputs(hidden, rows, targets, bias, weights, 0)
        check_sample(rows, row_ids, targets, negatives, log_counts)
        return self._loss_of(hidden, rows, targets, row_ids, negatives, log_counts, bias, weights, None)

    def _loss_of(
        self,
        hidden: Tensor,
        rows: Tensor,
        targets: Tensor,
        row_ids: Tensor,
        negatives: Tensor,
        log_counts: Tensor | None,
        bias: Tensor | None,
        weights: Tensor | None,
        max_cosine: float | None,
    ) -> LossOutput:
        enabled = torch.is_grad_enabled()
        sample = _Sample(
            row_ids=row_ids,
            targets=targets,
            negatives=negatives,
            log_counts=log_counts if self.uses_log_counts else None,
            weights=weights,
            max_cosine=max_cosine,
            chunk_size=self.chunk_size,
            needs_grad=(
                enabled and hidden.requires_grad,
                enabled and rows.requires_grad,
                enabled and bias is not None and bias.requires_grad,
            ),
        )
        total, hits = _SampledFunction.apply(hidden, rows, bias, sample, self.slopes)
        if weights is None:
            count = torch.tensor(float(targets.shape[0]), dtype=total.dtype, device=total.device)
        else:
            count = weights.sum().to(total.dtype)
        return LossOutput(total, count, {"accidental_hits": hits})

    def extra_repr(self) -> str:
        """Settings shown by ``print(module)``."""
        return f"chunk_size={self.chunk_size}"


def check_sample(rows: Tensor, row_ids: Tensor, targets: Tensor, negatives: Tensor, log_counts: Tensor | None) -> None:
    """Raise InputError where the sample's tensors do not fit together (shapes as in `SampledLoss.forward`)."""
    if row_ids.shape != rows.shape[:1]:
        raise InputError(f"row_ids {list(row_ids.shape)} must be [{rows.shape[0]}], one id a row")
    if negatives.dim() not in (1, 2) or (negatives.dim() == 2 and len(negatives) != len(targets)):
        raise InputError(f"negatives {list(negatives.shape)} must be [K] or [{len(targets)}, K]")
    if negatives.numel():
        low, high = (int(x) for x in torch.stack(torch.aminmax(negatives)).tolist())
        if low < 0 or high >= len(rows):
            raise InputError(f"negative {low if low < 0 else high} is no row; they must lie in 0 .. {len(rows) - 1}")
    if log_counts is not None and log_counts.shape != negatives.shape:
        raise InputError(f"log_counts {list(log_counts.shape)} must be {list(negatives.shape)}, one a negative")


class _Sample(NamedTuple):
    """What the engine needs beside the tensors that get gradients."""

    row_ids: Tensor
    targets: Tensor
    negatives: Tensor
    log_counts: Tensor | None
    weights: Tensor | None
    max_cosine: float | None
    chunk_size: int
    needs_grad: tuple[bool, bool, bool]


class _SampledFunction(torch.autograd.Function):
    """(sum of the loss, accidental hits)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, rows: Tensor, bias: Tensor | None, sample: _Sample, slopes: Any
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            work = _Pass(hidden, rows, bias, sample)
            step = max(MIN_CHUNK_ROWS, sample.chunk_size // max(1, work.width))
            for start in range(0, len(sample.targets), step):
                work.chunk(slice(start, start + step), slopes)
            work.finish()
        ctx.save_for_backward(work.grad_hidden, work.grad_rows, work.grad_bias)
        ctx.dtypes = (hidden.dtype, rows.dtype, None if bias is None else bias.dtype)
        hits = work.hits.to(work.total.dtype)
        ctx.mark_non_differentiable(hits)
        return work.total, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sum: Tensor, _grad_hits: Tensor) -> tuple[Tensor | None, ...]:
        hidden, rows, bias = (
            None if grad is None else (grad * grad_sum).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return hidden, rows, bias, None, None


class _Pass:
    """One forward pass: n positions of a chunk, K negatives, V' rows."""

    def __init__(self, hidden: Tensor, rows: Tensor, bias: Tensor | None, sample: _Sample) -> None:
        self.sample = sample
        exact = torch.promote_types(torch.promote_types(hidden.dtype, rows.dtype), torch.float32)
        self.hidden = hidden.detach().to(exact)  # [P, D]
        self.rows = rows.detach().to(exact)  # [V', D]
        self.bias = None if bias is None else bias.detach().to(exact)  # [V']
        self.shared = sample.negatives.dim() == 1
        self.width = sample.negatives.shape[-1] * (1 if self.shared else rows.shape[1])
        self.common = self.rows[sample.negatives] if self.shared else None  # [K, D]
        self.unit = None if sample.max_cosine is None else nn.functional.normalize(self.rows, dim=1)
        need_hidden, need_rows, need_bias = sample.needs_grad
        self.grad_hidden = torch.zeros_like(self.hidden) if need_hidden else None
        self.grad_rows = torch.zeros_like(self.rows) if need_rows else None
        self.grad_common = torch.zeros_like(self.common) if need_rows and self.common is not None else None
        self.grad_bias = torch.zeros(len(rows), dtype=exact, device=rows.device) if need_bias else None
        self.total = self.hidden.new_zeros(())
        self.hits = torch.zeros((), dtype=torch.int64, device=rows.device)

    def chunk(self, part: slice, slopes: Any) -> None:
        """Loss and gradients of the positions in `part`."""
        sample, hidden = self.sample, self.hidden[part]  # [n, D]
        target = sample.targets[part]  # [n]
        negative = sample.negatives if self.shared else sample.negatives[part]  # [K] or [n, K]
        own = self.rows[target]  # [n, D]
        against = self.common if self.common is not None else self.rows[negative]  # [K, D] or [n, K, D]
        positive = (hidden * own).sum(1)  # [n]
        logits = hidden @ against.t() if self.shared else torch.einsum("nd,nkd->nk", hidden, against)  # [n, K]
        if self.bias is not None:
            positive = positive + self.bias[target]
            logits.add_(self.bias[negative])
        if sample.log_counts is not None:
            logits.sub_((sample.log_counts if self.shared else sample.log_counts[part]).to(logits.dtype))
        out = self._left_out(target, negative)  # [n, K]
        value, by_positive, by_negative = slopes(positive, logits.masked_fill_(out, float("-inf")))
        if sample.weights is not None:
            weight = sample.weights[part].to(value.dtype)
            value, by_positive, by_negative = value * weight, by_positive * weight, by_negative * weight[:, None]
        self.total += value.sum()
        self._accumulate(part, target, negative, own, against, by_positive[:, None], by_negative)

    def _left_out(self, target: Tensor, negative: Tensor) -> Tensor:
        """Negatives ``[n, K]`` that are the target, or all but the target by their cosine."""
        ids = self.sample.row_ids
        out = ids[negative] == ids[target][:, None]
        self.hits += out.count_nonzero()
        if self.unit is None or self.sample.max_cosine is None:
            return out
        unit, others = self.unit[target], self.unit[negative]
        cosine = unit @ others.t() if self.shared else torch.einsum("nd,nkd->nk", unit, others)
        return out | (cosine > self.sample.max_cosine)

    def _accumulate(
        self,
        part: slice,
        target: Tensor,
        negative: Tensor,
        own: Tensor,
        against: Tensor,
        positive: Tensor,
        error: Tensor,
    ) -> None:
        """Add a chunk's gradients; derivatives by the logits: positive ``[n, 1]``, error ``[n, K]``."""
        hidden = self.hidden[part]
        if self.grad_hidden is not None:
            from_negatives = error @ against if self.shared else torch.einsum("nk,nkd->nd", error, against)
            self.grad_hidden[part] = positive * own + from_negatives
        if self.grad_rows is not None:
            self.grad_rows.index_add_(0, target, positive * hidden)
            if self.grad_common is not None:
                self.grad_common.addmm_(error.t(), hidden)
            else:
                spread = error[:, :, None] * hidden[:, None, :]  # [n, K, D]
                self.grad_rows.index_add_(0, negative.flatten(), spread.flatten(0, 1))
        if self.grad_bias is not None:
            self.grad_bias.index_add_(0, target, positive.squeeze(1))
            places = negative.expand_as(error)
            self.grad_bias.index_add_(0, places.flatten(), error.flatten())

    def finish(self) -> None:
        """Hand the gradients of the common negatives to their rows."""
        if self.grad_rows is not None and self.grad_common is not None:
            self.grad_rows.index_add_(0, self.sample.negatives, self.grad_common)

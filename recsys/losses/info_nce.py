"""InfoNCE: the targets of the batch, and of the other ranks' batches, are each other's negatives."""

from typing import Any

import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.losses.base import DEFAULT_CHUNK_SIZE, LossOutput
from recsys.losses.checks import check_inputs
from recsys.losses.sampled import check_sample
from recsys.losses.sampled_softmax import SampledSoftmax


class InfoNCE(SampledSoftmax):
    """``-log(exp(s_t) / sum_j exp(s_j))`` over the distinct items j of all ranks' batches.

    van den Oord et al. 2018, eq. 4. When to use: item vectors are dear (a language model computes them), or contrastive
    training with cosine scores: give vectors of length 1 and hidden states divided by a temperature (`CatalogueHead`
    does, with ``similarity="cosine"``). It has no logQ: popular items, which are in most batches, are pushed down;
    where that hurts, take `SampledSoftmax` with `InBatch`.

    cross_rank: under torch.distributed, the rows of all ranks are gathered, with their gradients: the gradients that
        the ranks' losses give to a row add up on the rank that owns it. All ranks must call the loss together.
    max_cosine: a row whose cosine to the target's own row is above it counts as the same item and is left out.
    """

    def __init__(
        self, cross_rank: bool = True, max_cosine: float | None = None, chunk_size: int = DEFAULT_CHUNK_SIZE
    ) -> None:
        super().__init__(False, chunk_size)
        if max_cosine is not None and not 0 < max_cosine <= 1:
            raise ConfigError(f"max_cosine ({max_cosine}) must be above 0 and at most 1")
        self.cross_rank = cross_rank
        self.max_cosine = max_cosine

    def forward(
        self,
        hidden: Tensor,
        rows: Tensor,
        targets: Tensor,
        row_ids: Tensor,
        negatives: Tensor | None = None,
        log_counts: Tensor | None = None,
        bias: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> LossOutput:
        """Loss of this rank's positions; arguments and result as in `SampledLoss`.

        hidden: ``[P, D]``; rows: ``[V', D]``; targets: ``[P]``; row_ids: ``[V']``; negatives: ``[K]`` places among
        this rank's rows that stand against all positions (of all ranks), None: all of them.
        """
        check_inputs(hidden, rows, targets, bias, weights, 0)
        if negatives is not None:
            check_sample(rows, row_ids, targets, negatives, log_counts)
        if self.cross_rank and _num_ranks() > 1:
            offered = torch.arange(len(rows), device=rows.device) if negatives is None else negatives
            extra = rows if bias is None else torch.cat([rows, bias[:, None].to(rows.dtype)], dim=1)
            sizes = _sizes(len(rows), rows.device)
            offset = sum(sizes[: torch.distributed.get_rank()])
            everyone = _Gather.apply(extra, sizes)  # [sum of V', D (+ 1)]
            rows = everyone[:, : rows.shape[1]]
            bias = None if bias is None else everyone[:, -1]
            row_ids = gather_rows(row_ids, sizes)
            negatives = gather_rows(offered + offset, _sizes(len(offered), rows.device))
            targets = targets + offset
        elif negatives is None:
            negatives = torch.arange(len(rows), device=rows.device)
        negatives = negatives[_first_of_each(row_ids[negatives])]
        return self._loss_of(hidden, rows, targets, row_ids, negatives, None, bias, weights, self.max_cosine)

    def extra_repr(self) -> str:
        """Settings shown by ``print(module)``."""
        return f"cross_rank={self.cross_rank}, max_cosine={self.max_cosine}, {super().extra_repr()}"


def gather_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    """The rows ``[V_r, ...]`` of all ranks, rank 0's first: ``[sum of sizes, ...]``; no gradient flows."""
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class _Gather(torch.autograd.Function):
    """`gather_rows`; what the ranks' losses say of a row is added up and goes back to its owner."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        return gather_rows(rows, sizes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous().clone()
        torch.distributed.all_reduce(grad)
        rank = torch.distributed.get_rank()
        start = sum(ctx.sizes[:rank])
        return grad[start : start + ctx.sizes[rank]], None


def _num_ranks() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def _sizes(size: int, device: torch.device) -> list[int]:
    """How many rows each rank has."""
    mine = torch.tensor([size], device=device)
    parts = [torch.empty_like(mine) for _ in range(_num_ranks())]
    torch.distributed.all_gather(parts, mine)
    return [int(part) for part in parts]


def _first_of_each(ids: Tensor) -> Tensor:
    """Places of the first row of each id: the same item of two ranks stands against a position once."""
    distinct, place = torch.unique(ids, return_inverse=True)
    at = torch.arange(len(ids), device=ids.device)
    return torch.full_like(distinct, len(ids)).scatter_reduce(0, place, at, "amin")

"""Time as an input: buckets of the gap to the previous event, and places on the circle of hours or weekdays."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from recsys.errors import InputError
from recsys.nn.embedding import id_embedding

Scale = Literal["log", "sqrt"]
PADDING_BUCKET = 0


def gap_buckets(gaps: Tensor, num_buckets: int, longest: float, scale: Scale = "log") -> Tensor:
    """Bucket 1 .. `num_buckets` of each gap; bucket 0 is left to padding.

    ``1 + floor(num_buckets * f(gap) / f(longest))`` with f = log(1 + x) or sqrt(x), the last bucket open above: the
    buckets are equally wide on that scale and all of 0 .. `longest` is spread over all of them.

    Args:
        gaps: ``[...]`` seconds, at least 0.
        num_buckets: n.
        longest: seconds at which the last bucket ends; what is longer falls into it too.
        scale: `log` where gaps spread over several orders of magnitude, `sqrt` where long ones should be told apart.

    Returns:
        int64 ``[...]``.
    """
    share = torch.log1p(gaps) / math.log1p(longest) if scale == "log" else torch.sqrt(gaps / longest)
    return 1 + (share * num_buckets).floor().clamp(0, num_buckets - 1).long()


class TimeGapEmbedding(nn.Module):
    """A learned vector for each bucket of the time since the previous event; padding has a bucket of its own.

    When to use: the effect of a gap is not a straight line (a pause of a night is no longer a pause); a bucket for each
    range learns any shape, where the MLP over the scaled number has to bend.

    Args:
        size: E.
        num_buckets: beside that of padding.
        longest: seconds at which the last bucket ends.
        scale: of the buckets, `log` or `sqrt`.
    """

    def __init__(self, size: int, num_buckets: int, longest: float, scale: Scale = "log") -> None:
        super().__init__()
        self.size = size
        self.num_buckets, self.longest, self.scale = num_buckets, longest, scale
        self.table = id_embedding(num_buckets + 1, size)

    def ids(self, gaps: Tensor, padding: Tensor) -> Tensor:
        """Buckets int64 ``[...]`` of gaps in seconds ``[...]``; padding (bool ``[...]``) has bucket 0.

        Raises InputError for a negative gap, which a scaled column has.
        """
        if not torch.compiler.is_compiling() and not bool((gaps >= 0).all()):
            fix = "give it as it is in the data: etl.continuous.<column>.transforms: []"
            raise InputError(f"a time gap of {float(gaps.min()):g} seconds is negative (a scaled column?); {fix}")
        return gap_buckets(gaps, self.num_buckets, self.longest, self.scale).masked_fill(padding, PADDING_BUCKET)

    def forward(self, ids: Tensor) -> Tensor:
        """Buckets ``[...]`` to vectors ``[..., E]``."""
        vectors: Tensor = self.table(ids)
        return vectors


def cyclic_table(cardinality: int, first_id: int, harmonics: int = 3) -> Tensor:
    """Points on a circle for the ids of hours or weekdays: float ``[cardinality, 2 * harmonics]``.

    Id ``first_id + n`` of P values has ``sin(2 pi k n / P), cos(2 pi k n / P)`` for k = 1 .. harmonics, so that the
    last value lies beside the first; the rows of reserved ids are zero.
    """
    period = cardinality - first_id
    angles = 2 * math.pi / period * torch.arange(period)[:, None] * torch.arange(1, harmonics + 1)  # [P, harmonics]
    table = torch.zeros(cardinality, 2 * harmonics)
    table[first_id:] = torch.cat((angles.sin(), angles.cos()), dim=1)
    return table

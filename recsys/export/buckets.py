"""Buckets on a logarithm's scale with the bounds that PyTorch's own logarithm gives, whose last digit others lack."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recsys.backbones.hstu import BASE, SECOND, time_bucket


def least_floats(bucket: Callable[[Tensor], Tensor], numbers: Tensor) -> Tensor:
    """Least float32 from 0 on whose bucket is at least each of `numbers` ``[n]``.

    Found by halving over the bit patterns of the numbers from 0 on, which are in the numbers' order.

    Args:
        bucket: from float32 ``[n]`` to buckets ``[n]``; never falls.
        numbers: above the bucket of 0, and reached.
    """
    low = torch.zeros_like(numbers, dtype=torch.int32)
    high = torch.full_like(low, torch.tensor(torch.finfo(torch.float32).max).view(torch.int32).item())
    while bool((high - low > 1).any()):
        middle = low + (high - low) // 2
        above = bucket(middle.view(torch.float32)) >= numbers
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high.view(torch.float32)


class ExportedTimeBuckets(nn.Module):
    """`recsys.backbones.hstu.time_bucket` for another library's logarithm: what it gives is corrected by the bounds."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        inner = least_floats(_bucket_of_seconds, torch.arange(1, number))
        ends = [torch.tensor([0.0]), inner, torch.tensor([torch.inf])]
        self.bounds = nn.Parameter(torch.cat(ends), requires_grad=False)  # [number + 1]

    def forward(self, times: Tensor) -> Tensor:
        """times ``[B, T]`` in microseconds to ``[B, T, T]``."""
        seconds = (times[:, :, None] - times[:, None, :]).abs().to(torch.float32) / SECOND
        near = time_bucket(times, self.number)
        return near + (seconds >= self.bounds[near + 1]).long() - (seconds < self.bounds[near]).long()


def _bucket_of_seconds(seconds: Tensor) -> Tensor:
    """Seconds ``[n]`` to buckets ``[n]`` as `time_bucket` has them, without its upper end."""
    return (seconds.clamp(min=1).log() / BASE).long()

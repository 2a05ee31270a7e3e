"""HSTU: attention without softmax, biased by distance in place and in time."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.backbones.base import Backbone

SECOND = 1_000_000  # microseconds
BASE = 0.301  # of the time buckets' logarithm: 63 of them reach over 5 years


class HSTU(Backbone):
    """Hierarchical sequential transduction units (Zhai et al. 2024, arXiv:2402.17152, equations 1 to 3).

    A layer is ``x + W_2 (norm(A V) * U)`` with ``U, V, Q, K = silu(W_1 norm(x))`` and
    ``A = silu(Q K^T + b_place + b_time) / N`` under the causal mask. N is the constant `max_length`, so that
    scores do not depend on padding. The authors' code takes the time from the event that is to be predicted; it is not
    known when serving, so here both times are those of events seen.

    When to use: where the time between events tells much, and on long histories; the ``[B, h, T, T]`` scores are held,
    so memory grows with the square of the length.

    Args:
        hidden_size: H.
        num_layers: layers.
        num_heads: h, must divide H.
        max_length: longest sequence.
        time_buckets: buckets of the time between two events: ``log(seconds) / 0.301``, the last one open; 0: no time.
        residual_dropout: on what enters W_2.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        max_length: int,
        time_buckets: int,
        residual_dropout: float,
    ) -> None:
        super().__init__(hidden_size, max_length)
        self.needs_times = time_buckets > 0
        self.time_buckets = time_buckets
        self.buckets: nn.Module = TimeBuckets(time_buckets)
        self.layers = nn.ModuleList(
            _Layer(hidden_size, num_heads, max_length, time_buckets, residual_dropout) for _ in range(num_layers)
        )

    def forward(self, vectors: Tensor, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """vectors ``[B, T, H]``, lengths ``[B]`` to hidden states ``[B, T, H]``; past a length they are undefined.

        times ``[B, T]``: int64 microseconds of the events, wanted where there are time buckets.
        """
        self.require_fit(vectors)
        buckets = None
        if self.needs_times:
            if times is None:
                raise ValueError("HSTU with time buckets wants times [B, T]")
            buckets = self.buckets(times)  # [B, T, T]
        states = vectors
        for layer in self.layers:
            states = layer(states, buckets)
        return states


class TimeBuckets(nn.Module):
    """`time_bucket` as a module, so that an export can put an equal one in its place."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, times: Tensor) -> Tensor:
        """times ``[B, T]`` to ``[B, T, T]``."""
        return time_bucket(times, self.number)


def time_bucket(times: Tensor, buckets: int) -> Tensor:
    """times ``[B, T]`` in microseconds to ``[B, T, T]``: the bucket of the seconds between events i and j."""
    seconds = (times[:, :, None] - times[:, None, :]).abs().to(torch.float32) / SECOND
    return (seconds.clamp(min=1).log() / BASE).long().clamp(max=buckets - 1)


class _Layer(nn.Module):
    def __init__(self, size: int, num_heads: int, max_length: int, time_buckets: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.max_length = num_heads, max_length
        self.norm = nn.LayerNorm(size)
        self.uvqk = nn.Linear(size, 4 * size)
        self.mixed_norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(size, size)
        self.place = nn.Parameter(torch.randn(max_length) * 0.02)
        self.time = nn.Parameter(torch.randn(time_buckets) * 0.02) if time_buckets else None

    def forward(self, x: Tensor, buckets: Tensor | None) -> Tensor:
        """x ``[B, T, H]``, buckets ``[B, T, T]`` to ``[B, T, H]``."""
        steps = x.shape[1]
        u, v, q, k = functional.silu(self.uvqk(self.norm(x))).chunk(4, dim=-1)  # [B, T, H] each
        v, q, k = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (v, q, k))  # [B, h, T, d]
        place = torch.arange(steps, device=x.device)
        distance = (place[:, None] - place[None, :]).clamp(min=0)  # [T, T]
        bias = self.place[distance]
        if self.time is not None and buckets is not None:
            bias = bias + self.time[buckets][:, None]  # [B, 1, T, T]
        scores = functional.silu(q @ k.transpose(-1, -2) + bias) / self.max_length  # [B, h, T, T]
        mixed = (scores.tril() @ v).transpose(1, 2).flatten(2)  # [B, T, H]
        out: Tensor = x + self.output(self.dropout(self.mixed_norm(mixed) * u))
        return out

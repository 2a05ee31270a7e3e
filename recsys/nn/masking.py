"""Which positions are predicted, and what the model may see of them. Pure functions of (ids, lengths, generator).

| masking | backbone | label positions | inputs |
|---|---|---|---|
| `causal` | causal (LLaMA, ...) | every position predicts the next event | unchanged: causality hides the label |
| `causal_last` | causal | the last but one position predicts the last event | unchanged |
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Masked(NamedTuple):
    """What a masking decides for a batch.

    `positions [P]` index the flattened ``[B * T]`` hidden states; `targets [P]` are ids; `input_mask [B, T]` marks
    inputs replaced by the learned mask vector; `replacement_ids [B, T]` and `attention_mask [B, T, T]` serve maskings
    that replace ids or order the attention.
    """

    positions: Tensor
    targets: Tensor
    input_mask: Tensor | None = None
    replacement_ids: Tensor | None = None
    attention_mask: Tensor | None = None


def causal(ids: Tensor, lengths: Tensor, generator: torch.Generator | None = None) -> Masked:
    """Every valid event but the first is predicted from those before it. ids ``[B, T]``, lengths ``[B]``."""
    batch, time = ids.shape
    steps = torch.arange(time - 1, device=ids.device)
    chosen = steps[None, :] < (lengths - 1)[:, None]  # [B, T - 1]
    rows = torch.arange(batch, device=ids.device)[:, None] * time
    return Masked(positions=(rows + steps)[chosen], targets=ids[:, 1:][chosen])


def causal_last(ids: Tensor, lengths: Tensor, generator: torch.Generator | None = None) -> Masked:
    """Only the last valid event is predicted. ids ``[B, T]``, lengths ``[B]``; sequences of one event have no label."""
    time = ids.shape[1]
    rows = torch.nonzero(lengths >= 2).squeeze(1)  # [P]
    last = lengths[rows] - 1
    return Masked(positions=rows * time + last - 1, targets=ids[rows, last])

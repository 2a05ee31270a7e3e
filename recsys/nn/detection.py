"""Telling replaced events from true ones."""

import torch
from torch import Tensor, nn
from torch.nn import functional

SCORES_AT_ONCE = 2**22
"""Scores that ids are drawn from at a time: 16 MiB in float32."""


class ReplacedDetector(nn.Module):
    """The second task of replaced-token detection: one linear unit over each event's state (ELECTRA, Clark 2020).

    When to use: with the masking `replaced`, which makes the events that it reads.

    Args:
        hidden_size: H.
        weight: of its loss beside the item's.
    """

    def __init__(self, hidden_size: int, weight: float) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        self.weight = weight

    def loss(self, hidden: Tensor, replaced: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross entropy summed over valid events, and how many they are.

        hidden ``[B, T, H]``, replaced bool ``[B, T]``, lengths ``[B]``.
        """
        valid = torch.arange(replaced.shape[1], device=replaced.device) < lengths[:, None]  # [B, T]
        logits = self.linear(hidden[valid]).squeeze(-1).float()  # [P]
        total = functional.binary_cross_entropy_with_logits(logits, replaced[valid].float(), reduction="sum")
        return total, lengths.sum()

    def extra_repr(self) -> str:
        """Settings shown by ``print(module)``."""
        return f"weight={self.weight}"


def draw_from_scores(scores: Tensor) -> Tensor:
    """Ids ``[P]``, each drawn from the softmax of its row of ``[P, V]`` with torch's own generator."""
    return torch.multinomial(scores.float().softmax(dim=-1), 1).squeeze(1)

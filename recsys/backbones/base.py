"""What every sequence model promises, and what it may ask for beside vectors and lengths."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from recsys.errors import InputError


class Backbone(nn.Module, ABC):
    """Base of the sequence models: ``(vectors [B, T, H], lengths [B]) -> hidden states [B, T, H]``.

    Padding stands on the right; hidden states past a length are undefined, those before it do not depend on how much
    padding there is or what it holds.

    Attributes:
        is_causal: hidden state t depends on the vectors 0 .. t alone. Those that see everything need a masking that
            hides what is predicted.
        needs_times: `forward` takes the keyword ``times [B, T]`` (int64 microseconds).
        extra_loss: set by `forward` while training: a loss of the model's own, weighted, as the mean over the
            batch's events; None where there is none.
        external: names of its state that stay with the pretrained model it adapts and are not saved with it.
        base: SHA-256 of that model's weights (`recsys.backbones.source.fingerprint`).

    Args:
        hidden_size: H.
        max_length: longest sequence.
    """

    is_causal: bool = True
    needs_times: bool = False
    extra_loss: Tensor | None = None
    external: frozenset[str] = frozenset()
    base: str | None = None

    def __init__(self, hidden_size: int, max_length: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.max_length = max_length

    @abstractmethod
    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """vectors ``[B, T, H]``, lengths ``[B]`` to hidden states ``[B, T, H]``; past a length they are undefined."""

    def pop_log(self) -> dict[str, float]:
        """Figures for the log since the last call; most models have none."""
        return {}

    def require_fit(self, vectors: Tensor) -> None:
        """Raise InputError where ``vectors [B, T, H]`` is longer than the positions."""
        steps = vectors.shape[1]
        if steps > self.max_length:
            raise InputError(
                f"a sequence of {steps} events, but the backbone has {self.max_length} positions; "
                f"give its newest {self.max_length}, or train with model.max_length={steps}"
            )


def valid(vectors: Tensor, lengths: Tensor) -> Tensor:
    """vectors ``[B, T, H]``, lengths ``[B]`` to bool ``[B, T]``: which timesteps are events and not padding."""
    return torch.arange(vectors.shape[1], device=vectors.device) < lengths.to(vectors.device)[:, None]

"""Generalised binary cross entropy: sampled negatives without over-confidence."""

from recsys.errors import ConfigError
from recsys.losses.base import DEFAULT_CHUNK_SIZE
from recsys.losses.bce import BCE


class GBCE(BCE):
    r"""`BCE` whose target has ``sigmoid(s_t)^beta`` in the place of ``sigmoid(s_t)``.

    Petrov and Macdonald 2023, "gSASRec": ``beta = a (t (1 - 1/a) + 1/a) = 1 - t (1 - a)``, where the
    sampling rate a is the share of the items that a position has as negatives and t calibrates: 0 is plain BCE, and
    with 1 the scores are probabilities of the full catalogue.

    When to use: a large catalogue, many (128 or more) uniform negatives; it needs no logQ. sampling_rate: a,
    `Uniform.rate`. calibration: t.
    """

    def __init__(self, sampling_rate: float, calibration: float = 0.75, chunk_size: int = DEFAULT_CHUNK_SIZE) -> None:
        super().__init__(chunk_size)
        if not 0 < sampling_rate <= 1:
            raise ConfigError(f"sampling_rate ({sampling_rate}) must be above 0 and at most 1")
        if not 0 <= calibration <= 1:
            raise ConfigError(f"calibration ({calibration}) must be at least 0 and at most 1")
        self.beta = 1 - calibration * (1 - sampling_rate)

    def extra_repr(self) -> str:
        """Settings shown by ``print(module)``."""
        return f"beta={self.beta}, {super().extra_repr()}"

"""Sum of the streams."""

import math
from collections.abc import Sequence

from torch import Tensor

from recsys.nn.fusion.base import Fusion, Stream, gather_sum


class SumFusion(Fusion):
    """The streams' sum over the square root of their number. No parameters.

    When to use: few streams, or when speed on a CPU counts most; the first thing to try on a small data set.
    """

    def prepare(self, place: int, values: Tensor) -> Tensor:
        """values ``[U, D]``, unchanged."""
        return values

    def mix(self, streams: Sequence[Stream]) -> Tensor:
        """N streams ``[U, D]`` with index ``[M]`` to ``[M, D]``."""
        return gather_sum(streams) / math.sqrt(len(streams))

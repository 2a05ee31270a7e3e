"""Lists of ids, one an event, in flat arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
OFFSETS = ".offsets"
"""Behind a column's name: where the lists of that column start."""


@dataclass(frozen=True)
class Bags:
    """A column whose value is a list.

    Attributes:
        values: ``[M]`` ids of all lists, one after the other.
        offsets: ``[N + 1]`` where each event's list starts, and the end of the last.
    """

    values: Array
    offsets: Array

    def take(self, events: Array, keep: Array | None = None) -> tuple[Array, Array]:
        """The lists of `events` ``[P]``, int64: ids ``[K]`` and offsets ``[P + 1]``.

        keep: bool ``[P]``; the others' lists are taken as empty (padding).
        """
        begin = np.take(self.offsets, events, mode="clip")
        sizes = np.take(self.offsets, np.minimum(events + 1, len(self.offsets) - 1), mode="clip") - begin
        if keep is not None:
            sizes = np.where(keep, sizes, 0)
        ends = np.cumsum(sizes, dtype=np.int64)
        offsets = np.concatenate((np.zeros(1, dtype=np.int64), ends))
        places = np.arange(int(offsets[-1])) + np.repeat(begin - offsets[:-1], sizes)
        return np.take(self.values, places).astype(np.int64), offsets

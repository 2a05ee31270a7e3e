"""Pages of mapped files that stay in this process's memory.

The system may take pages of a mapped file back, but does so only when memory is short. Until then random reads of a
large split make all of it resident: Linux maps up to 2 MiB around each page that is read. `Pages` hands them back, so
that what a process holds does not grow with the split. They stay in the system's file cache, where the next read finds
them.
"""

import mmap
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

KEPT = 1 << 30  # bytes of files that may become resident before pages are handed back; reading them again takes time
EVERY = 4  # readings between two looks at what is resident (some 15 microseconds each)
_STATM = Path("/proc/self/statm")


class Pages:
    """Hands the pages of mapped arrays back once more than `KEPT` bytes of files have become resident."""

    def __init__(self) -> None:
        self._readings = 0
        self._before = 0

    def note(self, arrays: Collection[npt.NDArray[Any]]) -> None:
        """Say that `arrays` (mapped or not) were read from."""
        if self._readings == 0:
            self._before = resident_file_bytes()
        self._readings += 1
        if self._readings % EVERY or sum(array.nbytes for array in arrays) <= KEPT:
            return
        if resident_file_bytes() - self._before > KEPT:
            for array in arrays:
                _hand_back(array)


def resident_file_bytes() -> int:
    """Resident pages of this process that belong to files; 0 where the system does not say (only Linux does)."""
    try:
        return int(_STATM.read_text().split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0


def _hand_back(array: npt.NDArray[Any]) -> None:
    file = array.base.base if isinstance(array.base, np.memmap) else None
    if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)  # of a file that is only read: nothing is lost

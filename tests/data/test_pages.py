"""What random reads of a mapped split leave in memory."""

import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from recsys.data import pages
from recsys.data.dataset import SequenceDataset, Windows
from tests.data.sequences import make_frame, write_dataset

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much of a file is resident")
LIMIT = 4 << 20


def write_big(folder: Path) -> np.ndarray:
    """An array of 32 MiB over a mapped file."""
    np.save(folder / "a.npy", np.arange(1 << 23, dtype=np.int32))
    return np.asarray(np.load(folder / "a.npy", mmap_mode="r"))


@LINUX
def test_what_was_read_is_handed_back_and_can_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages, "KEPT", LIMIT)
    big = write_big(tmp_path)
    kept = pages.Pages()
    kept.note([big])
    before = pages.resident_file_bytes()
    total = int(big.sum(dtype=np.int64))
    assert pages.resident_file_bytes() - before > big.nbytes // 2
    for _ in range(pages.EVERY):
        kept.note([big])
    assert pages.resident_file_bytes() - before < LIMIT
    assert int(big.sum(dtype=np.int64)) == total == (1 << 23) * ((1 << 23) - 1) // 2


@LINUX
def test_small_splits_and_arrays_in_memory_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    big = write_big(tmp_path)
    kept, before = pages.Pages(), pages.resident_file_bytes()
    big.sum()
    monkeypatch.setattr(pages, "KEPT", LIMIT)
    for _ in range(2 * pages.EVERY):
        kept.note([np.zeros(1 << 22)])  # nothing of it is mapped
    monkeypatch.setattr(pages, "KEPT", big.nbytes)
    for _ in range(2 * pages.EVERY):
        kept.note([big])
    assert pages.resident_file_bytes() - before > big.nbytes // 2


def test_a_split_gives_the_same_when_its_pages_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages, "KEPT", 0)
    handed: list[int] = []
    hand_back = pages._hand_back
    monkeypatch.setattr(pages, "_hand_back", lambda array: (handed.append(len(array)), hand_back(array)))
    growing = count()
    monkeypatch.setattr(pages, "resident_file_bytes", lambda: next(growing))
    frame = make_frame([5, 9, 3, 7])
    data = SequenceDataset.load(write_dataset(tmp_path, frame), "train")
    windows = Windows(np.arange(4), data.offsets[:-1], data.offsets[1:])
    for _ in range(3 * pages.EVERY):
        padded, lengths = data.gather(windows)
    assert handed == [len(data.items)] * len(data.columns) * 3  # after every fourth of twelve readings
    assert [padded["item_id"][row, :n].tolist() for row, n in enumerate(lengths)] == frame["item_id"].to_list()

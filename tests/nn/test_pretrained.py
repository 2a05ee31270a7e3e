"""A pretrained table is taken only where it fits the vocabulary."""

import numpy as np
import pytest
import torch

from recsys.errors import InputError
from recsys.nn.pretrained import load_table


def save(tmp_path, values):
    path = tmp_path / "text.npy"
    np.save(path, values)
    return path


def test_it_reads_the_rows_as_they_are(tmp_path):
    values = np.random.default_rng(0).normal(size=(6, 4))
    values[:3] = 0
    table = load_table(save(tmp_path, values), 6, 3)
    torch.testing.assert_close(table, torch.from_numpy(values).float())


def broken(row: int, value: float) -> np.ndarray:
    values = np.zeros((6, 4))
    values[row] = value
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((5, 4)), "has 5 rows, the vocabulary has 6 ids"),
        (np.zeros(6), r"expected floats of shape \[items, width\], found float64 \[6\]"),
        (np.zeros((6, 4), dtype=int), "found int64"),
        (broken(4, np.nan), "row 4 holds a value that is not finite"),
        (broken(2, 1.0), "rows 0 to 2 are reserved"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, values, message):
    with pytest.raises(InputError, match=message):
        load_table(save(tmp_path, values), 6, 3)


def test_files_that_are_no_arrays_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_table(tmp_path / "none.npy", 6, 3)
    pickled = tmp_path / "objects.npy"
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not a .npy array of numbers"):
        load_table(pickled, 6, 3)

"""Pretrained vectors of items (text embeddings) from a file, checked against the items they are meant for."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.errors import InputError


def load_table(path: Path, num_items: int, reserved: int) -> Tensor:
    """Read a ``.npy`` of shape ``[V, E]`` whose row n is the vector of item id n.

    Args:
        path: the file.
        num_items: V, reserved ids included.
        reserved: the first rows, which must be zero.

    Raises:
        InputError: no such file, not a two-dimensional array of finite numbers, another number of rows, vectors on
            reserved ids.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file (model.inputs.text_table)")
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a .npy array of numbers ({error})") from error
    if values.ndim != 2 or values.dtype.kind != "f":
        raise InputError(f"{path}: expected floats of shape [items, width], found {values.dtype} {list(values.shape)}")
    if len(values) != num_items:
        raise InputError(
            f"{path}: has {len(values)} rows, the vocabulary has {num_items} ids ({reserved} reserved); embed it again"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{path}: row {int(np.argwhere(~np.isfinite(values))[0, 0])} holds a value that is not finite")
    if values[:reserved].any():
        raise InputError(f"{path}: rows 0 to {reserved - 1} are reserved ids and must be zero")
    return torch.from_numpy(values.astype(np.float32))

"""What losses refuse before they start."""

import math

import torch
from torch import Tensor

from recsys.errors import ConfigError, InputError


def check_inputs(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    ignore_rows: int,
) -> None:
    """Raise InputError where the arguments of a loss over rows of a table do not fit together.

    A table without rows fits no targets: a sample of the rows for a batch without labels has none.
    """
    if hidden.dim() != 2 or table.dim() != 2 or hidden.shape[1] != table.shape[1]:
        raise InputError(f"hidden {list(hidden.shape)}, table {list(table.shape)} must be [P, D], [V, D]")
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise InputError(f"targets {list(targets.shape)} {targets.dtype} must be [{hidden.shape[0]}] int64")
    if bias is not None and bias.shape != table.shape[:1]:
        raise InputError(f"bias {list(bias.shape)} must be [{table.shape[0]}], one value a row of the table")
    if weights is not None and weights.shape != targets.shape:
        raise InputError(f"weights {list(weights.shape)} must be {list(targets.shape)}, one value a target")
    if weights is not None and weights.requires_grad:
        raise InputError("weights must be constants; pass weights.detach()")
    if 0 < table.shape[0] <= ignore_rows:
        raise InputError(f"ignore_rows ({ignore_rows}) leaves no row of a table of {table.shape[0]}")
    check_targets(targets, ignore_rows, table.shape[0])


def check_additions(ids: Tensor, values: Tensor, positions: int, rows: int) -> None:
    """Raise InputError where what is added does not fit P positions, or names no row of a table."""
    if ids.dim() != 2 or len(ids) != positions or ids.shape != values.shape or ids.dtype != torch.int64:
        shapes = f"ids {list(ids.shape)} {ids.dtype} and values {list(values.shape)}"
        raise InputError(f"additions: {shapes} must be [{positions}, S], ids int64")
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
        raise InputError(f"additions: an id is none of 0 .. {rows - 1}")


def check_targets(targets: Tensor, first: int, stop: int) -> None:
    """Raise InputError where a target is no id of ``first .. stop - 1``."""
    if targets.numel():
        low, high = (int(x) for x in torch.stack(torch.aminmax(targets)).tolist())
        if low < first or high >= stop:
            bad = low if low < first else high
            why = "is a reserved id" if 0 <= bad < first else "is out of range"
            raise InputError(f"target {bad} {why}; targets must lie in {first} .. {stop - 1}")


def check_fraction(name: str, value: float) -> None:
    """Raise ConfigError unless ``0 <= value < 1``."""
    if not (math.isfinite(value) and 0 <= value < 1):
        raise ConfigError(f"{name} ({value}) must be at least 0 and below 1")

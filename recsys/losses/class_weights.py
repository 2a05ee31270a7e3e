"""Weights of classes, for columns whose classes are far from even."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.errors import ConfigError


def inverse_frequency(counts: Tensor, first_id: int) -> Tensor:
    """Weights ``[V]`` by id: ``N / (C n_c)`` for a class seen n_c times, N the sum and C the number of classes seen.

    Every seen class has the same share of the loss, and the mean weight of a training label is 1, so that neither the
    learning rate nor the other tasks' weights need to change. When to use: few classes that all count alike, however
    rare; for a catalogue of items it makes rare ones too loud. Classes that were never seen weigh like those seen once,
    reserved ids nothing. The weight is the position's, by its target, label smoothing included.

    counts: ``[V]`` in train. Raises ConfigError where no class was seen.
    """
    counts = counts.double().clone()
    counts[:first_id] = 0
    seen = int((counts > 0).sum())
    if not seen:
        raise ConfigError("class_weights: no class has a count in train; give the weights as a list")
    weights = counts.sum() / (seen * counts.clamp(min=1))
    weights[:first_id] = 0
    return weights.float()


def given_weights(values: Sequence[float], column: str, num_ids: int, first_id: int) -> Tensor:
    """Weights ``[V]`` by id from a list of one value a class, in id order; ConfigError where the number differs.

    The loss is divided by the sum of its labels' weights, so that only their ratios matter.
    """
    if len(values) != num_ids - first_id:
        raise ConfigError(f"class_weights: {len(values)} values for the {num_ids - first_id} classes of '{column}'")
    if not any(value > 0 for value in values):
        raise ConfigError(f"class_weights: all {len(values)} values of '{column}' are 0")
    return torch.cat([torch.zeros(first_id), torch.tensor(list(values), dtype=torch.float32)])

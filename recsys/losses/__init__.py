"""Losses, one file each. All return `LossOutput(sum, count, parts)`; ``sum / count`` is the mean.

| target | situation | loss |
|---|---|---|
| item of a catalogue | first choice | `CrossEntropy` |
| item of a catalogue | over-confident model, noisy labels | `CrossEntropy(label_smoothing=0.1)` |
| item of a catalogue | very uneven item frequencies | `Focal(gamma=2.0)` |
| item of a catalogue | CPU or GPU with fast bf16, large catalogue | either, with ``dtype="bfloat16"`` |
| real value | standardised, few outliers | `MeanSquaredError` |
| real value | heavy tails | `Huber` |

Losses over a catalogue take ``(hidden [P, D], table [V, D], targets [P], bias [V], weights [P])`` and never
hold ``[P, V]`` logits; regression losses take ``(prediction, target, weights)``.
"""

from recsys.losses.base import CatalogueLoss, LossOutput
from recsys.losses.cross_entropy import CrossEntropy
from recsys.losses.focal import Focal
from recsys.losses.regression import Huber, MeanSquaredError

__all__ = ["CatalogueLoss", "CrossEntropy", "Focal", "Huber", "LossOutput", "MeanSquaredError"]

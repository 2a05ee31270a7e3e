"""Losses, one file each. All return `LossOutput(sum, count, parts)`; ``sum / count`` is the mean.

| target | situation | loss |
|---|---|---|
| item of a catalogue | first choice | `CrossEntropy` |
| item of a catalogue | over-confident model, noisy labels | `CrossEntropy(label_smoothing=0.1)` |
| item of a catalogue | very uneven item frequencies | `Focal(gamma=2.0)` |
| item of a catalogue | many wrong labels | `Tversky` |
| item of a catalogue | CPU or GPU with fast bf16, large catalogue | any of these, with ``dtype="bfloat16"`` |
| item of a catalogue | from some 100,000 items on | `SampledSoftmax`, with a sampler of `negatives` |
| item of a catalogue | as before, many uniform negatives | `GBCE` |
| item of a catalogue | to reproduce models trained so (SASRec) | `BCE` |
| item of a catalogue | computed item vectors, contrastive training, several ranks | `InfoNCE` |
| class | classes that all count alike, however rare | any of these, weighted by `inverse_frequency` |
| one of two classes | | `BinaryCrossEntropy` |
| real value | standardised, few outliers | `MeanSquaredError` |
| real value | heavy tails | `Huber` |
| several of these at once | losses of different size | `UncertaintyWeights` |
| (router of a mixture of experts) | always | `load_balance` |

Losses over a catalogue take ``(hidden [P, D], table [V, D], targets [P], bias [V], weights [P])`` and never
hold ``[P, V]`` logits; sampled losses take ``(hidden [P, D], rows [V', D], targets [P], row_ids [V'],
negatives [K] or [P, K])``, the last three as places among the rows and their ids; the others take
``(prediction, target, weights)``.
"""

from recsys.losses.base import CatalogueLoss, LossOutput
from recsys.losses.bce import BCE
from recsys.losses.binary import BinaryCrossEntropy
from recsys.losses.class_weights import given_weights, inverse_frequency
from recsys.losses.cross_entropy import CrossEntropy
from recsys.losses.focal import Focal
from recsys.losses.gbce import GBCE
from recsys.losses.info_nce import InfoNCE
from recsys.losses.load_balance import LoadBalance, load_balance
from recsys.losses.regression import Huber, MeanSquaredError
from recsys.losses.sampled import SampledLoss
from recsys.losses.sampled_softmax import SampledSoftmax
from recsys.losses.tversky import Tversky
from recsys.losses.uncertainty import UncertaintyWeights

__all__ = [
    "BCE",
    "GBCE",
    "BinaryCrossEntropy",
    "CatalogueLoss",
    "CrossEntropy",
    "Focal",
    "Huber",
    "InfoNCE",
    "LoadBalance",
    "LossOutput",
    "MeanSquaredError",
    "SampledLoss",
    "SampledSoftmax",
    "Tversky",
    "UncertaintyWeights",
    "given_weights",
    "inverse_frequency",
    "load_balance",
]

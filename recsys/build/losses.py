"""Names of losses and samplers to modules."""

from collections.abc import Callable

from torch import Tensor, nn

from recsys.config import LossConfig, NegativesConfig
from recsys.errors import ConfigError
from recsys.losses import (
    BCE,
    GBCE,
    BinaryCrossEntropy,
    CatalogueLoss,
    CrossEntropy,
    Focal,
    Huber,
    InfoNCE,
    MeanSquaredError,
    SampledLoss,
    SampledSoftmax,
    Tversky,
)
from recsys.losses.negatives import InBatch, Mixed, Popularity, Sampler, Uniform

Counts = Callable[[], Tensor]
"""Gives the counts ``[V]`` of a column's ids in train, or raises ConfigError where they are not known."""


def build_catalogue_loss(config: LossConfig, reserved: int) -> CatalogueLoss:
    """A loss over all ids; the first `reserved` are outside the softmax."""
    match config.name:
        case "focal":
            return Focal(gamma=config.gamma, dtype=config.dtype, ignore_rows=reserved)
        case "cross_entropy":
            return CrossEntropy(label_smoothing=config.label_smoothing, dtype=config.dtype, ignore_rows=reserved)
        case "tversky":
            return Tversky(config.alpha, config.beta, config.exponent, dtype=config.dtype, ignore_rows=reserved)
        case _:
            raise ConfigError(f"loss '{config.name}' is none over all classes; use cross_entropy, focal or tversky")


def build_class_loss(
    config: LossConfig, num_ids: int, reserved: int, counts: Counts
) -> tuple[CatalogueLoss | SampledLoss, Sampler | None]:
    """A loss over ids ``reserved .. num_ids - 1``, and what draws its negatives where it is a sampled one."""
    match config.name:
        case "sampled_softmax":
            return SampledSoftmax(config.log_q), build_sampler(config.negatives, num_ids, reserved, counts)
        case "bce":
            return BCE(), build_sampler(config.negatives, num_ids, reserved, counts)
        case "gbce":
            sampler = Uniform(num_ids, reserved, config.negatives.num, config.negatives.per_position)
            return GBCE(sampler.rate, config.calibration), sampler
        case "info_nce":
            return InfoNCE(config.cross_rank, config.max_cosine), None
        case _:
            return build_catalogue_loss(config, reserved), None


def build_sampler(config: NegativesConfig, num_ids: int, reserved: int, counts: Counts) -> Sampler:
    """What draws negatives from the ids ``reserved .. num_ids - 1``."""
    match config.name:
        case "uniform":
            return Uniform(num_ids, reserved, config.num, config.per_position)
        case "popularity":
            return Popularity(counts(), reserved, config.num, config.power)
        case "in_batch":
            return InBatch(counts(), reserved, config.num)
        case "mixed":
            uniform = max(1, round(config.num * config.uniform_share))
            taken = InBatch(counts(), reserved, max(1, config.num - uniform))
            return Mixed(taken, Uniform(num_ids, reserved, uniform))


def build_value_loss(config: LossConfig) -> nn.Module:
    """A loss of one number a position."""
    match config.name:
        case "mse":
            return MeanSquaredError()
        case "huber":
            return Huber(config.delta)
        case "binary_cross_entropy":
            return BinaryCrossEntropy(config.positive_weight)
        case _:
            raise ConfigError(f"loss '{config.name}' is none of one number; use mse, huber or binary_cross_entropy")

"""Names of losses and samplers to modules, with the settings given."""

import pytest
import torch

from recsys.build.losses import build_class_loss, build_sampler, build_value_loss
from recsys.config import LossConfig, NegativesConfig
from recsys.errors import ConfigError
from recsys.losses import BCE, GBCE, BinaryCrossEntropy, CrossEntropy, Huber, InfoNCE, MeanSquaredError, Tversky
from recsys.losses import SampledSoftmax as Softmax
from recsys.losses.negatives import InBatch, Mixed, Popularity, Uniform

COUNTS = torch.tensor([0, 0, 0, *range(20, 0, -1)])


def make(**settings: object):
    return build_class_loss(LossConfig.model_validate(settings), 23, 3, lambda: COUNTS)


def test_losses_over_all_classes():
    loss, sampler = make(name="tversky", alpha=0.3, beta=0.9, exponent=1.5, dtype="bfloat16")
    assert isinstance(loss, Tversky) and sampler is None
    assert (loss.alpha, loss.beta, loss.exponent, loss.dtype, loss.ignore_rows) == (0.3, 0.9, 1.5, "bfloat16", 3)
    loss, sampler = make(name="cross_entropy", label_smoothing=0.1)
    assert isinstance(loss, CrossEntropy) and (loss.label_smoothing, sampler) == (0.1, None)


def test_sampled_losses():
    loss, sampler = make(name="sampled_softmax", log_q=False, negatives={"num": 7})
    assert isinstance(loss, Softmax) and not loss.uses_log_counts
    assert isinstance(sampler, Uniform) and (sampler.size, sampler.first_id, sampler.num_ids) == (7, 3, 23)
    loss, sampler = make(name="bce", negatives={"num": 4, "per_position": True})
    assert type(loss) is BCE and sampler.per_position
    loss, sampler = make(name="gbce", calibration=0.5, negatives={"num": 5})
    assert isinstance(loss, GBCE) and loss.beta == pytest.approx(1 - 0.5 * (1 - 5 / 20))
    loss, sampler = make(name="gbce", calibration=0.5, negatives={"num": 5, "per_position": True})
    assert loss.beta == pytest.approx(1 - 0.5 * (1 - 5 / 19))
    loss, sampler = make(name="info_nce", cross_rank=False, max_cosine=0.9)
    assert isinstance(loss, InfoNCE) and (loss.cross_rank, loss.max_cosine, sampler) == (False, 0.9, None)


def test_samplers():
    def build(**settings: object):
        return build_sampler(NegativesConfig.model_validate(settings), 23, 3, lambda: COUNTS)

    popular = build(name="popularity", num=4, power=0.5)
    assert isinstance(popular, Popularity)
    torch.testing.assert_close(popular.shares[3] / popular.shares[4], torch.tensor((20 / 19) ** 0.5).double())
    batch = build(name="in_batch", num=4)
    assert isinstance(batch, InBatch) and batch.num_negatives == 4
    mixed = build(name="mixed", num=8, uniform_share=0.25)
    assert isinstance(mixed, Mixed) and isinstance(mixed.first, InBatch) and isinstance(mixed.second, Uniform)
    assert (mixed.first.num_negatives, mixed.second.size) == (6, 2)


def test_losses_of_one_number():
    for name, kind in (("mse", MeanSquaredError), ("huber", Huber), ("binary_cross_entropy", BinaryCrossEntropy)):
        assert isinstance(build_value_loss(LossConfig.model_validate({"name": name})), kind)
    assert build_value_loss(LossConfig(name="huber", delta=2.5)).delta == 2.5
    assert build_value_loss(LossConfig(name="binary_cross_entropy", positive_weight=4.0)).positive_weight == 4


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="30 negatives are more than the 20 items"):
        make(name="sampled_softmax", negatives={"num": 30})
    with pytest.raises(ConfigError, match="loss 'mse' is none over all classes"):
        make(name="mse")
    with pytest.raises(ConfigError, match="loss 'focal' is none of one number"):
        build_value_loss(LossConfig())

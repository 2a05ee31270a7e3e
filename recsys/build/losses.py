"""Names of losses to modules."""

from recsys.config import LossConfig
from recsys.losses import CatalogueLoss, CrossEntropy, Focal


def build_catalogue_loss(config: LossConfig, reserved: int) -> CatalogueLoss:
    """A loss over ids; the first `reserved` are outside the softmax."""
    match config.name:
        case "focal":
            return Focal(gamma=config.gamma, dtype=config.dtype, ignore_rows=reserved)
        case "cross_entropy":
            return CrossEntropy(label_smoothing=config.label_smoothing, dtype=config.dtype, ignore_rows=reserved)

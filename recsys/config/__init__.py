"""Configuration of a run: strict, typed, read from YAML, overridden by ``key=value``.

An unknown key is an error that names the nearest known one. Units stand beside each field.
"""

from recsys.config.backbone import BackboneConfig
from recsys.config.base import (
    Count,
    Finite,
    Probability,
    Share,
    StrictModel,
    override,
    parse,
    read_yaml,
    require_divisor,
)
from recsys.config.etl import (
    BucketiseConfig,
    CategoricalConfig,
    ChunkConfig,
    ContinuousConfig,
    EtlConfig,
    SplitConfig,
    TimeConfig,
    TimeFeature,
    Transform,
)
from recsys.config.inputs import InputsConfig
from recsys.config.losses import AuxiliaryConfig, LossConfig, NegativesConfig
from recsys.config.masking import MaskedConfig
from recsys.config.model import ModelConfig
from recsys.config.peft import PeftConfig
from recsys.config.run import RunConfig, load_config, save_config
from recsys.config.training import EvaluationConfig, TrainingConfig

__all__ = [
    "AuxiliaryConfig",
    "BackboneConfig",
    "BucketiseConfig",
    "CategoricalConfig",
    "ChunkConfig",
    "ContinuousConfig",
    "Count",
    "EtlConfig",
    "EvaluationConfig",
    "Finite",
    "InputsConfig",
    "LossConfig",
    "MaskedConfig",
    "ModelConfig",
    "NegativesConfig",
    "PeftConfig",
    "Probability",
    "RunConfig",
    "Share",
    "SplitConfig",
    "StrictModel",
    "TimeConfig",
    "TimeFeature",
    "TrainingConfig",
    "Transform",
    "load_config",
    "override",
    "parse",
    "read_yaml",
    "require_divisor",
    "save_config",
]

"""Names of backbones to modules."""

from torch import nn

from recsys.backbones.hf import LlamaBackbone
from recsys.config import BackboneConfig


def build_backbone(config: BackboneConfig, max_length: int) -> nn.Module:
    """The module from ``([B, T, H], lengths [B])`` to ``[B, T, H]``."""
    match config.name:
        case "llama":
            return LlamaBackbone(
                hidden_size=config.hidden_size,
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                num_kv_heads=config.num_kv_heads or config.num_heads,
                intermediate_size=config.intermediate_size or 4 * config.hidden_size,
                max_length=max_length,
                rope_theta=config.rope_theta,
                attention_dropout=config.attention_dropout,
                residual_dropout=config.residual_dropout,
            )

"""Sequence models of `transformers`, fed with vectors instead of ids."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaModel


class LlamaBackbone(nn.Module):
    """LLaMA decoder (RMSNorm, SwiGLU, grouped-query attention, rotary positions) over ``[B, T, H]`` vectors.

    Padding stands on the right, so under causal attention no valid event ever sees it: scores do not depend on the
    amount of padding, and attention takes its causal kernel instead of an explicit ``[B, 1, T, T]`` mask.

    Args:
        hidden_size: H.
        num_layers: decoder layers.
        num_heads: query heads; must divide H.
        num_kv_heads: key and value heads; must divide `num_heads`.
        intermediate_size: width of the SwiGLU.
        max_length: longest sequence.
        rope_theta: base of the rotary frequencies.
        attention_dropout: on attention weights.
        residual_dropout: on each block's output, before it is added to the residual stream.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        intermediate_size: int,
        max_length: int,
        rope_theta: float,
        attention_dropout: float,
        residual_dropout: float,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        config = LlamaConfig(
            vocab_size=1,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            num_key_value_heads=num_kv_heads,
            max_position_embeddings=max_length,
            rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
            attention_dropout=attention_dropout,
            use_cache=False,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
        self.model = LlamaModel(config)
        self.model.embed_tokens = nn.Identity()  # vectors come in; an unused table would be trained and saved
        if residual_dropout:
            for layer in self.model.layers:
                layer.self_attn.register_forward_hook(_DropAttentionOutput(residual_dropout))
                layer.mlp.register_forward_hook(_DropOutput(residual_dropout))

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """vectors ``[B, T, H]``, lengths ``[B]`` to hidden states ``[B, T, H]``; past a length they are undefined."""
        hidden: Tensor = self.model(inputs_embeds=vectors).last_hidden_state
        return hidden


class _DropOutput:
    """Forward hook: dropout on a block's output while it trains (LLaMA has none of its own)."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return functional.dropout(output, self.p, module.training)


class _DropAttentionOutput(_DropOutput):
    """The same for attention blocks, which return (output, weights)."""

    def __call__(  # type: ignore[override]
        self, module: nn.Module, arguments: tuple[Tensor, ...], output: tuple[Tensor, torch.Tensor | None]
    ) -> tuple[Tensor, torch.Tensor | None]:
        return functional.dropout(output[0], self.p, module.training), output[1]

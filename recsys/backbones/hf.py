"""Sequence models of `transformers`, fed with vectors instead of ids."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from recsys.backbones.base import Backbone, valid
from recsys.errors import ConfigError


class Transformer(Backbone):
    """A decoder (LLaMA, Qwen3, GPT-2) or an encoder (BERT) over ``[B, T, H]`` vectors.

    A causal model gets no mask: padding stands on the right, so no valid event ever sees it, and attention takes its
    causal kernel instead of an explicit ``[B, 1, T, T]`` mask. A bidirectional one gets the valid events.

    When to use: LLaMA or Qwen3 as the strong causal default, GPT-2 for learned positions, BERT with masked events.

    Args:
        model: of `transformers`, without a head; its embedding table and pooler are taken out, since an unused table
            would be trained and saved.
        max_length: longest sequence.
        is_causal: whether `model` is.
        residual_dropout: on the output of each layer's `self_attn` and `mlp`, for models that have no dropout of their
            own there (LLaMA, Qwen3, Mixtral).
    """

    def __init__(
        self, model: PreTrainedModel, *, max_length: int, is_causal: bool = True, residual_dropout: float = 0.0
    ) -> None:
        super().__init__(model.config.hidden_size, max_length)
        self.model = take_out_embeddings(model)
        self.is_causal = is_causal
        if residual_dropout:
            for layer in self.model.layers:
                layer.self_attn.register_forward_hook(_DropAttentionOutput(residual_dropout))
                layer.mlp.register_forward_hook(_DropOutput(residual_dropout))

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """vectors ``[B, T, H]``, lengths ``[B]`` to hidden states ``[B, T, H]``; past a length they are undefined."""
        self.require_fit(vectors)
        mask = None if self.is_causal else valid(vectors, lengths)  # [B, T]
        hidden: Tensor = self.model(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
        return hidden


def take_out_embeddings(model: PreTrainedModel) -> PreTrainedModel:
    """The model without what vectors have no use for: the table of its vocabulary and the pooler."""
    model.set_input_embeddings(nn.Identity())
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def probe(model: PreTrainedModel) -> bool:
    """Whether a model of any architecture is causal, measured; parameters that vectors never reach are frozen.

    A row of four vectors goes through, and again with another last one; a causal model's first three states stay.

    Raises:
        ConfigError: the model takes no vectors, or gives no ``[B, T, H]`` states back.
    """
    name, size = model.config.model_type, model.config.hidden_size
    vectors = torch.linspace(-1, 1, 8 * size, dtype=model.dtype, device=model.device).view(2, 4, size)
    vectors[1, :3] = vectors[0, :3]
    was_training = model.training
    try:
        hidden = model.eval()(inputs_embeds=vectors).last_hidden_state
    except (TypeError, ValueError, AttributeError) as error:
        first = str(error).partition("\n")[0]
        raise ConfigError(f"model.backbone: '{name}' cannot be fed with vectors alone ({first}); use another") from error
    if hidden.shape != vectors.shape:
        raise ConfigError(f"model.backbone: '{name}' gives states {list(hidden.shape)} for vectors {list(vectors.shape)}")
    reached = torch.autograd.grad(hidden.sum(), list(model.parameters()), allow_unused=True)
    for parameter, gradient in zip(model.parameters(), reached, strict=True):
        parameter.requires_grad_(gradient is not None)
    model.train(was_training)
    return bool(torch.equal(hidden[0, :3], hidden[1, :3]))


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

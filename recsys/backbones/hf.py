"""Sequence models of `transformers`, fed with vectors instead of ids."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from recsys.backbones.base import Backbone, valid
from recsys.errors import ConfigError, one_line


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


def probe(model: PreTrainedModel, steps: int) -> bool:
    """Whether a model of any architecture is causal, measured; parameters that vectors never reach are frozen.

    A row of `steps` (at least 2) vectors goes through, and again with another last one; the other states of a causal
    model stay.

    Raises:
        ConfigError: the model takes no vectors, or not so many, or gives no ``[B, T, H]`` states back.
    """
    name, size = model.config.model_type, model.config.hidden_size
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, steps, size, generator=generator).to(model.device, model.dtype)
    vectors[1, :-1] = vectors[0, :-1]
    was_training = model.training
    try:
        with torch.enable_grad():
            hidden = model.eval()(inputs_embeds=vectors).last_hidden_state
    except (IndexError, RuntimeError) as error:  # what torch raises where a table of positions ends
        fix = f"lower model.max_length or choose another ({one_line(error)})"
        raise ConfigError(f"model.backbone: this {name} cannot read {steps} vectors; {fix}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"model.backbone: '{name}' takes no vectors alone ({one_line(error)}); use another"
        ) from error
    if hidden.shape != vectors.shape:
        shapes = f"{list(vectors.shape)} to {list(hidden.shape)}"
        raise ConfigError(f"model.backbone: '{name}' turns vectors {shapes}; use one that keeps their shape")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        reached = torch.autograd.grad(hidden.sum(), trained, allow_unused=True)
    for parameter, gradient in zip(trained, reached, strict=True):
        parameter.requires_grad_(gradient is not None)
    model.train(was_training)
    return bool(torch.allclose(hidden[0, :-1], hidden[1, :-1], rtol=1e-5, atol=1e-6))


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

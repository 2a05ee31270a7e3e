"""Mixtral: a LLaMA-like decoder whose feed-forward block is a mixture of experts."""

import torch
from torch import Tensor
from transformers import MixtralModel

from recsys.backbones.base import valid
from recsys.backbones.hf import Transformer
from recsys.losses.load_balance import load_balance


class Mixtral(Transformer):
    """Mixtral decoder (Jiang et al. 2024); padding neither counts in the router's loss nor in the expert load.

    When to use: as LLaMA, with more parameters at the same cost an event; worth it for large data.

    Args:
        model: of `transformers`.
        max_length: longest sequence.
        residual_dropout: on the output of each attention and expert block.
        router_loss: coefficient of the load-balancing loss (0.001 in the document).
    """

    model: MixtralModel

    def __init__(
        self, model: MixtralModel, *, max_length: int, residual_dropout: float = 0.0, router_loss: float = 0.001
    ) -> None:
        super().__init__(model, max_length=max_length, residual_dropout=residual_dropout)
        self.router_loss = router_loss
        self.top_k = int(model.config.num_experts_per_tok)
        self._balance: list[Tensor] = []  # [1 + E] of each batch: loss and load

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """vectors ``[B, T, H]``, lengths ``[B]`` to hidden states ``[B, T, H]``; past a length they are undefined."""
        self.require_fit(vectors)
        output = self.model(inputs_embeds=vectors, output_router_logits=self.training)
        self.extra_loss = None
        if self.training:
            balance = load_balance(output.router_logits, self.top_k, valid(vectors, lengths))
            self.extra_loss = self.router_loss * balance.loss
            self._balance.append(torch.cat((balance.loss.detach()[None], balance.load)))
        hidden: Tensor = output.last_hidden_state
        return hidden

    def pop_log(self) -> dict[str, float]:
        """Means since the last call: the router's loss (k where all is even) and each expert's share of the load."""
        if not self._balance:
            return {}
        loss, *load = torch.stack(self._balance).double().mean(dim=0).tolist()
        self._balance = []
        return {"router_loss": loss, **{f"expert_{expert}_load": share for expert, share in enumerate(load)}}

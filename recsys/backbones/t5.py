"""T5: an encoder over the masked sequence and a decoder that reconstructs it."""

import torch
from torch import Tensor, nn
from transformers import T5Model

from recsys.backbones.base import Backbone, valid


class T5(Backbone):
    """T5 encoder-decoder (Raffel et al. 2020) as arXiv:2504.05319 uses it, with masked events.

    The encoder reads the masked sequence. The decoder reads a learned start vector and the same sequence shifted by
    one, so its state t has seen events 0 .. t - 1 directly and all the others through the encoder; what is masked is
    hidden from both. Training and inference take the same path.

    When to use: with masked events, where both what came before and what came after tell; twice the cost of BERT.

    Args:
        model: of `transformers`.
        max_length: longest sequence.
    """

    is_causal = False

    def __init__(self, model: T5Model, *, max_length: int) -> None:
        super().__init__(model.config.d_model, max_length)
        self.model = model
        for part in (model.encoder, model.decoder):
            part.set_input_embeddings(nn.Identity())
        model.shared = nn.Identity()  # vectors come in; an unused table would be trained and saved
        self.start = nn.Parameter(torch.randn(self.hidden_size) * 0.02)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """vectors ``[B, T, H]``, lengths ``[B]`` to hidden states ``[B, T, H]``; past a length they are undefined."""
        self.require_fit(vectors)
        start = self.start.to(vectors.dtype).expand(vectors.shape[0], 1, -1)  # [B, 1, H]
        shifted = torch.cat((start, vectors[:, :-1]), dim=1)  # [B, T, H]
        mask = valid(vectors, lengths)  # [B, T]; the decoder's own padding is on the right and never seen
        output = self.model(inputs_embeds=vectors, attention_mask=mask, decoder_inputs_embeds=shifted)
        hidden: Tensor = output.last_hidden_state
        return hidden

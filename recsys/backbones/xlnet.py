"""XLNet: bidirectional attention over relative positions, with a second stream that predicts in any order."""

import torch
from torch import Tensor, nn
from transformers import XLNetModel

from recsys.backbones.base import Backbone, valid


class XLNet(Backbone):
    """XLNet (Yang et al. 2019, arXiv:1906.08237).

    Without `attention_mask` it is an encoder with relative positions (for masked events). With one, the states come
    from the query stream: state i knows its place and the events that ``attention_mask[i]`` shows, never its own.

    When to use: with permutation LM, which learns from every event in the context of any others; about three times
    BERT's cost, and it holds ``[B, h, T, T]`` scores.

    Args:
        model: of `transformers`.
        max_length: longest sequence.
        query_stream: whether it will be given `attention_mask`; the start vector of that stream is left out otherwise,
            since an unused one would be saved.
    """

    is_causal = False
    is_two_stream = True

    def __init__(self, model: XLNetModel, *, max_length: int, query_stream: bool) -> None:
        super().__init__(model.config.d_model, max_length)
        self.model = model
        model.set_input_embeddings(nn.Identity())
        self.query_stream = query_stream
        if not query_stream:
            del model.mask_emb
        for layer in model.layer:  # segments: vectors have none
            del layer.rel_attn.seg_embed, layer.rel_attn.r_s_bias
            layer.rel_attn.seg_embed = layer.rel_attn.r_s_bias = None

    def forward(self, vectors: Tensor, lengths: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """vectors ``[B, T, H]``, lengths ``[B]`` to hidden states ``[B, T, H]``; past a length they are undefined.

        attention_mask: bool ``[B, T, T]``, whether event i may see event j; with `query_stream` only.
        """
        self.require_fit(vectors)
        steps = vectors.shape[1]
        shown = valid(vectors, lengths)  # [B, T]
        if attention_mask is None:
            padding = (~shown).to(vectors.dtype)
            hidden: Tensor = self.model(inputs_embeds=vectors, input_mask=padding, use_mems=False).last_hidden_state
            return hidden
        if not self.query_stream:
            raise ValueError("XLNet without a query stream takes no attention_mask")
        hides = (~(attention_mask & shown[:, None, :])).to(vectors.dtype)  # [B, T, T]
        every = torch.eye(steps, dtype=vectors.dtype, device=vectors.device).expand(vectors.shape[0], -1, -1)
        output = self.model(inputs_embeds=vectors, perm_mask=hides, target_mapping=every, use_mems=False)
        queried: Tensor = output.last_hidden_state
        return queried

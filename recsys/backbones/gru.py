"""GRU: a recurrent network, the baseline before attention."""

from torch import Tensor, nn

from recsys.backbones.base import Backbone


class GRU(Backbone):
    """GRU4Rec's sequence model (Hidasi et al. 2016, arXiv:1511.06939): gated recurrent units in layers, then a norm.

    The norm is ours: states of a GRU begin small, and with them as they are three layers learned no more than how
    popular items are (docs/results.md).

    When to use: as a baseline, and where sequences are short; its time grows with the length only, step by step.

    Args:
        hidden_size: H.
        num_layers: layers.
        max_length: longest sequence.
        residual_dropout: between layers.
    """

    def __init__(self, *, hidden_size: int, num_layers: int, max_length: int, residual_dropout: float) -> None:
        super().__init__(hidden_size, max_length)
        between = residual_dropout if num_layers > 1 else 0.0  # with one layer there is no place for it
        self.gru = nn.GRU(hidden_size, hidden_size, num_layers, batch_first=True, dropout=between)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """vectors ``[B, T, H]``, lengths ``[B]`` to hidden states ``[B, T, H]``; past a length they are undefined."""
        self.require_fit(vectors)
        hidden: Tensor = self.norm(self.gru(vectors)[0])
        return hidden

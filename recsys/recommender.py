"""The model: inputs, backbone, heads. Knows nothing of files, trainers or configuration."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.errors import TrainingError
from recsys.heads import CatalogueHead, RealHead
from recsys.inputs import SequenceInputs


@dataclass
class RecommenderOutput:
    """Weighted loss of a batch, and each head's detached sum and count for the log."""

    loss: Tensor
    sums: dict[str, Tensor]
    counts: dict[str, Tensor]


class Recommender(nn.Module):
    """Next-event model over fused inputs.

    Args:
        inputs: columns to ``[B, T, H]``.
        backbone: ``([B, T, H], lengths [B])`` to hidden states ``[B, T, H]``; causal.
        heads: by column; the item column's head is the main one.
        weights: weight of each head's loss.
        item: name of the item column.
    """

    def __init__(
        self,
        *,
        inputs: SequenceInputs,
        backbone: nn.Module,
        heads: Mapping[str, CatalogueHead | RealHead],
        weights: Mapping[str, float],
        item: str,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)
        self.weights = dict(weights)
        self.item = item

    def forward(self, batch: Mapping[str, Tensor], counts: Mapping[str, float] | None = None) -> RecommenderOutput:
        """Loss of a batch: the sum over heads of ``weight * (loss sum / count)``.

        Args:
            batch: ``inputs.* [B, T]``, lengths ``[B]``, ``labels.<head>.positions [P]`` and ``.targets [P]``.
            counts: label counts to normalise by (over accumulation and ranks); those of the batch by default.
        """
        batch = batch if isinstance(batch, Batch) else Batch(batch)
        hidden = self.hidden(batch).flatten(0, 1)  # [B * T, H]
        total = hidden.new_zeros(())
        sums: dict[str, Tensor] = {}
        seen: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            positions, targets = batch.labels(name)
            embedding = self.inputs.item_table() if name == self.item else None
            output = head.loss(hidden[positions], targets, embedding)  # type: ignore[operator]
            count = output.count if counts is None else torch.as_tensor(counts[name], device=hidden.device)
            total = total + self.weights[name] * output.sum / count.clamp(min=1)
            sums[name], seen[name] = output.sum.detach(), output.count.detach()
        if not torch.isfinite(total.detach()):
            rows = batch.row_id.tolist()
            raise TrainingError(
                f"loss is {float(total.detach())} on dataset rows {rows[:20]}; lower training.learning_rate"
            )
        return RecommenderOutput(total, sums, seen)

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states ``[B, T, H]``; what stands past a sequence's length is undefined."""
        states: Tensor = self.backbone(self.inputs(batch.inputs), batch.lengths)
        return states

    def item_scores(self, hidden: Tensor) -> Tensor:
        """Scores ``[P, V]`` of every item for hidden states ``[P, H]``; reserved ids are -inf."""
        head = self.heads[self.item]
        assert isinstance(head, CatalogueHead)
        return head.scores(hidden, self.inputs.item_table())

"""Quality on the validation split while training: the protocol's figures over the positions that come cheap.

Every sequence's first window is scored: all of its positions, from `scored_from` on where the split has it. Positions
beyond `max_length`, which each need a window of their own, are left to `recsys.evaluation` (but for the first that is
scored, where that one lies beyond), which gives the figures to report. Of a model that predicts from a hidden event
behind a history every position would need a window of its own: each sequence's last event is scored.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.data.collate import Collator, Masking, iterate
from recsys.data.dataset import SequenceDataset
from recsys.data.windows import evaluation_windows
from recsys.heads import CatalogueHead
from recsys.metrics import ndcg_at_k, recall_at_k
from recsys.nn.masking import causal
from recsys.recommender import Recommender

SCORES_AT_ONCE = 2**23
"""Scores held at once (32 MiB in fp32)."""


@dataclass(frozen=True)
class Validator:
    """Measures a model on a split; rank r of W measures every W-th window and the sums are added up.

    Attributes:
        dataset: the validation split.
        max_length: events of a window, as in training.
        batch_size: windows at a time.
        masking: a causal one, which gives the targets.
    """

    dataset: SequenceDataset
    max_length: int
    batch_size: int
    masking: Masking = causal

    @torch.no_grad()
    def __call__(self, model: Recommender, rank: int = 0, ranks: int = 1) -> dict[str, float]:
        """Mean item loss over known targets, and recall@10 and ndcg@10 over all targets (unknown ones are misses)."""
        scored = "first" if model.rule.every_position else "last"
        windows = evaluation_windows(self.dataset, self.max_length, scored)[rank::ranks]
        head = model.heads[model.item]
        assert isinstance(head, CatalogueHead)
        collate = Collator(self.dataset, [model.item], self.masking, unknown_targets=True)
        device = next(model.parameters()).device
        sums = torch.zeros(5, dtype=torch.float64)  # loss, labels or their weights, recall, ndcg, targets
        training = model.training
        model.eval()
        for _, batch in iterate(collate, windows, self.batch_size):
            batch = batch.to(device)
            positions, targets = batch.labels(model.item)
            states = model.predictive(model.inputs(batch.inputs), batch.lengths, batch.get("times"))  # [B, T, H]
            hidden = states.flatten(0, 1)[positions]  # [P, H]
            history = model.histories(batch.inputs[model.item], positions)  # [P, T]
            known = targets >= head.reserved
            seen = None if history is None else history[known]
            loss = head.loss(hidden[known], targets[known], model.inputs.item_table(), seen)
            ranking = pessimistic_ranks(model, hidden, targets, history).cpu().numpy()
            sums += torch.tensor(
                [
                    float(loss.sum),
                    float(loss.count),
                    recall_at_k(ranking, 10).sum(),
                    ndcg_at_k(ranking, 10).sum(),
                    len(ranking),
                ],
                dtype=torch.float64,
            )
        model.train(training)
        if ranks > 1:
            sums = sums.to(device)
            torch.distributed.all_reduce(sums)
        loss_sum, loss_count, recall, ndcg, count = sums.tolist()
        return {
            "loss": loss_sum / (loss_count or 1.0),
            "recall@10": recall / max(count, 1.0),
            "ndcg@10": ndcg / max(count, 1.0),
        }


def pessimistic_ranks(model: Recommender, hidden: Tensor, targets: Tensor, history: Tensor | None = None) -> Tensor:
    """Rank ``[P]`` of each target among all items: the items that score at least as high; 0 for unknown targets.

    hidden ``[P, H]``, targets ``[P]``, history as `Recommender.item_scores` takes it.
    A score that is NaN beats nothing, so its target has rank 0, a miss.
    """
    head = model.heads[model.item]
    assert isinstance(head, CatalogueHead)
    rows = max(1, SCORES_AT_ONCE // int(head.table(model.inputs.item_table()).shape[0]))
    ranks = []
    for at in range(0, len(targets), rows):
        part = slice(at, at + rows)
        wanted = targets[part]
        scores = model.item_scores(hidden[part], None if history is None else history[part])  # [n, V]
        own = scores.gather(1, wanted[:, None])
        ranks.append(torch.where(wanted >= head.reserved, (scores >= own).sum(dim=1), 0))
    return torch.cat(ranks) if ranks else targets

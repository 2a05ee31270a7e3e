"""Full logits over the whole table, and the sampled losses written out over them: the slow way, by autograd."""

import torch
from torch import Tensor
from torch.nn import functional


def full_logits(hidden: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
    logits = hidden @ rows.T
    return logits if bias is None else logits + bias


def plain_loss(name: str, logits: Tensor, ids: Tensor, target: Tensor, negatives: Tensor, **options: object) -> Tensor:
    """Losses ``[P]``, one position and one negative after the other; target, negatives are columns of the logits."""
    values = []
    for p in range(len(target)):
        own = logits[p, target[p]]
        mine = negatives if negatives.dim() == 1 else negatives[p]
        counts = options.get("log_counts")
        shift = None if counts is None else (counts if negatives.dim() == 1 else counts[p])
        kept = [k for k in range(len(mine)) if ids[mine[k]] != ids[target[p]]]
        scores = [logits[p, mine[k]] - (0 if shift is None else shift[k]) for k in kept]
        if name == "softmax":
            values.append(-torch.log_softmax(torch.stack([own, *scores]), 0)[0])
        else:
            beta = options["beta"]
            terms = [-beta * functional.logsigmoid(own), *(-torch.log(1 - torch.sigmoid(s)) for s in scores)]
            values.append(torch.stack(terms).mean())
    return torch.stack(values)

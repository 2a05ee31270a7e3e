"""What a history holds already: which items, how many events ago, and what that is worth.

Some logs repeat themselves and some never do (nobody buys a book twice), and a model whose input and output table are
one cannot say so: the item most like the last one is the last one itself. A learned score by age can.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


def histories(items: Tensor, rows: Tensor, steps: Tensor) -> Tensor:
    """The ids of each history, newest last, each once, at its latest place: ``[P, T]``, 0 elsewhere.

    items ``[B, T]`` ids; rows, steps ``[P]``: a history is what stands in ``items[row]`` up to `step`. So what stands
    in column c is ``T - c`` events old, the newest event being 1.
    """
    time = items.shape[1]
    place = torch.arange(time, device=items.device)
    again = (items[:, :, None] == items[:, None, :]) & (place[:, None] < place)  # [B, T, T]
    following = torch.where(again, place, time).amin(2)  # [B, T], where the same item stands next
    at = steps[:, None] - place.flip(0)  # [P, T]
    flat = (rows[:, None] * time + at.clamp(min=0)).flatten()
    found = items.flatten()[flat].view(at.shape)
    latest = following.flatten()[flat].view(at.shape) > steps[:, None]
    return torch.where((at >= 0) & latest, found, 0)


class RepeatBias(nn.Module):
    """A learned score by age, one for each doubling of it: 1, 2, 3 to 4, 5 to 8, ... events ago.

    Args:
        max_length: the greatest age; what is older counts as this old.
    """

    group: Tensor

    def __init__(self, max_length: int) -> None:
        super().__init__()
        groups = [(age - 1).bit_length() for age in range(1, max_length + 1)]
        self.register_buffer("group", torch.tensor(groups), persistent=False)
        self.weight = nn.Parameter(torch.zeros(groups[-1] + 1))

    def forward(self, history: Tensor) -> Tensor:
        """What each place of histories ``[P, T]`` adds to its item's score, ``[P, T]``."""
        time, known = history.shape[1], len(self.group)
        group = functional.pad(self.group[:time], (0, max(0, time - known)), value=int(self.weight.shape[0]) - 1)
        return self.weight[group.flip(0)].expand(history.shape)

"""Which items stand against the target in a sampled loss. Reserved ids are never drawn.

| sampler | draws | logQ of an item | when to use |
|---|---|---|---|
| `Uniform` | every item alike | ``n / C`` | first choice; gBCE needs it |
| `Popularity` | by ``count^power`` in train, with replacement | ``n q_i`` | popular items must be told apart |
| `InBatch` | the other positions' targets | ``n q_i`` | item vectors are dear (computed by a model) |
| `Mixed` | two of these together | the sum of both | in-batch alone would hardly ever draw rare items |

The rule for accidental hits: a negative that is the position's own target is left out of that position's loss (the
loss does it, for every sampler, and counts them); `Uniform` a position never draws it in the first place. Another
position's target is a negative like any other.

``log_counts`` is the logarithm of how often an item is expected among the negatives. Draws come from the generator
given, or torch's global one, whose state the trainer seeds and saves, so that a resumed run draws what it would have.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError


class Negatives(NamedTuple):
    """Ids ``[K]`` for all positions, or ``[P, K]``, and the log of their expected number, of the same shape."""

    ids: Tensor
    log_counts: Tensor


class Sampler(nn.Module, ABC):
    """Base of the samplers over the ids ``first_id .. num_ids - 1``.

    num_negatives: how many are drawn. All raise ConfigError where there are fewer items.
    """

    def __init__(self, num_ids: int, first_id: int) -> None:
        super().__init__()
        self.num_ids, self.first_id = num_ids, first_id

    @abstractmethod
    def forward(self, targets: Tensor, generator: torch.Generator | None = None) -> Negatives:
        """Targets ``[P]`` (ids) to `Negatives` on their device."""


class SingleSampler(Sampler):
    """Base of the samplers that draw in one way."""

    def __init__(self, num_ids: int, first_id: int, num_negatives: int | None) -> None:
        super().__init__(num_ids, first_id)
        self.num_negatives = num_negatives
        require_items(1 if num_negatives is None else num_negatives, num_ids - first_id)

    @abstractmethod
    def draw(self, targets: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Ids ``[K]`` or ``[P, K]`` for positions with targets ``[P]``."""

    @abstractmethod
    def log_counts(self, ids: Tensor, drawn: int) -> Tensor:
        """Log of the expected number of each of `ids` (any shape) among `drawn` negatives."""

    def forward(self, targets: Tensor, generator: torch.Generator | None = None) -> Negatives:
        """Targets ``[P]`` (ids) to `Negatives` on their device."""
        ids = self.draw(targets, generator)
        return Negatives(ids, self.log_counts(ids, ids.shape[-1]))

    def extra_repr(self) -> str:
        """Settings shown by ``print(module)``."""
        return f"num_negatives={self.num_negatives}"


class Uniform(SingleSampler):
    """Every item alike: one set of distinct items for all positions, or draws of its own for each position.

    per_position: each position draws, with replacement, from all items but its target. It costs P times the rows of
        the table; one set for all costs one matrix product.
    """

    def __init__(self, num_ids: int, first_id: int, num_negatives: int, per_position: bool = False) -> None:
        super().__init__(num_ids, first_id, num_negatives)
        self.size = num_negatives
        self.per_position = per_position
        self.items = num_ids - first_id
        if per_position:
            require_items(num_negatives, self.items - 1, "other than the target")

    @property
    def rate(self) -> float:
        """Share of the items (but the target, where each position draws) that a set of negatives holds."""
        return self.size / (self.items - 1 if self.per_position else self.items)

    def draw(self, targets: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``[K]`` distinct ids, or ``[P, K]`` ids other than the targets."""
        if not self.per_position:
            return self.first_id + _distinct(self.items, self.size, targets.device, generator)
        shape = (len(targets), self.size)
        others = torch.randint(self.items - 1, shape, device=targets.device, generator=generator) + self.first_id
        return others + (others >= targets[:, None])

    def log_counts(self, ids: Tensor, drawn: int) -> Tensor:
        """``log(n / C)``, with C - 1 in the place of C where each position draws."""
        return torch.full(ids.shape, math.log(self.rate), device=ids.device)


class Popularity(SingleSampler):
    """By ``count^power`` in train, with replacement; items of count 0 are never drawn.

    counts: ``[V]``, by id. power: 1 draws by popularity, 0.75 is word2vec's (Mikolov et al. 2013), 0 is uniform over
    the items that were seen.
    """

    shares: Tensor
    cumulated: Tensor

    def __init__(self, counts: Tensor, first_id: int, num_negatives: int, power: float = 1.0) -> None:
        super().__init__(len(counts), first_id, num_negatives)
        self.size = num_negatives
        shares = _shares(counts, first_id, power)
        require_items(num_negatives, int((shares > 0).sum()), "with a count")
        self.register_buffer("shares", shares, persistent=False)
        self.register_buffer("cumulated", shares.cumsum(0), persistent=False)

    def draw(self, targets: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``[K]`` ids, found by bisection in the cumulated shares."""
        place = torch.rand(self.size, device=targets.device, dtype=torch.float64, generator=generator)
        # right=True steps over items of share 0; a product below 1 keeps the last place inside.
        return torch.searchsorted(self.cumulated, place * self.cumulated[-1], right=True)

    def log_counts(self, ids: Tensor, drawn: int) -> Tensor:
        """``log(n q_i)``."""
        return (self.shares[ids].log() + math.log(drawn)).float()


class InBatch(SingleSampler):
    """The targets of the batch's positions, or of `num_negatives` of them taken at random.

    counts: ``[V]`` in train, for logQ; an item that is missing there counts as seen once.
    num_negatives: at most so many; None: all.
    """

    shares: Tensor

    def __init__(self, counts: Tensor, first_id: int, num_negatives: int | None = None) -> None:
        super().__init__(len(counts), first_id, None)
        if num_negatives is not None and num_negatives < 1:
            raise ConfigError(f"negatives ({num_negatives}) must be at least 1")
        self.num_negatives = num_negatives  # positions, which may be more than there are items
        self.register_buffer("shares", _shares(counts.clamp(min=1), first_id, 1.0), persistent=False)

    def draw(self, targets: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``[min(P, n)]`` ids."""
        if self.num_negatives is None or self.num_negatives >= len(targets):
            return targets
        return targets[_distinct(len(targets), self.num_negatives, targets.device, generator)]

    def log_counts(self, ids: Tensor, drawn: int) -> Tensor:
        """``log(n q_i)``, q the train shares (Yi et al. 2019); of no position, nothing is expected."""
        return (self.shares[ids].log() + math.log(max(drawn, 1))).float()


class Mixed(Sampler):
    """The draws of two samplers together (Yang et al. 2020, mixed negative sampling: in-batch and uniform).

    An item's expected number is the sum of both, whichever drew it. Both must draw one set for all positions.
    """

    def __init__(self, first: SingleSampler, second: SingleSampler) -> None:
        super().__init__(first.num_ids, first.first_id)
        if (first.num_ids, first.first_id) != (second.num_ids, second.first_id):
            raise ConfigError(f"samplers over {first.num_ids} and {second.num_ids} ids cannot be mixed")
        if any(isinstance(s, Uniform) and s.per_position for s in (first, second)):
            raise ConfigError("negatives that each position draws for itself cannot be mixed")
        self.first, self.second = first, second

    def forward(self, targets: Tensor, generator: torch.Generator | None = None) -> Negatives:
        """Targets ``[P]`` (ids) to `Negatives`, those of the first sampler first."""
        one, two = self.first.draw(targets, generator), self.second.draw(targets, generator)
        ids = torch.cat([one, two])
        parts = self.first.log_counts(ids, len(one)), self.second.log_counts(ids, len(two))
        return Negatives(ids, torch.logaddexp(*parts))


def require_items(wanted: int, items: int, which: str = "") -> None:
    """Raise ConfigError where more negatives are wanted than there are items."""
    if wanted < 1:
        raise ConfigError(f"negatives ({wanted}) must be at least 1")
    if wanted > items:
        raise ConfigError(f"{wanted} negatives are more than the {items} items{which and ' ' + which}; take fewer")


def _distinct(whole: int, n: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """``[n]`` distinct numbers below `whole`, every set alike, without holding `whole` numbers where n is small."""
    if 4 * n >= whole:
        return torch.randperm(whole, device=device, generator=generator)[:n]
    found = torch.zeros(0, dtype=torch.int64, device=device)
    while len(found) < n:
        more = torch.randint(whole, (n + n // 8 + 8,), device=device, generator=generator)
        found = _first_seen(torch.cat([found, more]))
    return found[:n]


def _first_seen(values: Tensor) -> Tensor:
    """The distinct values in the order of their first appearance; cutting a sorted list would favour low ids."""
    distinct, place = torch.unique(values, return_inverse=True)
    at = torch.arange(len(values), device=values.device)
    first = torch.full_like(distinct, len(values)).scatter_reduce(0, place, at, "amin")
    return values[first.sort().values]


def _shares(counts: Tensor, first_id: int, power: float) -> Tensor:
    """``[V]`` float64 shares that sum to 1; 0 for reserved ids and items of count 0."""
    if not (math.isfinite(power) and power >= 0):
        raise ConfigError(f"power ({power}) must be a finite number of at least 0")
    if counts.dim() != 1 or (counts < 0).any():
        raise ConfigError(f"counts {list(counts.shape)} must be [V], none below 0")
    counts = counts.double()
    shares = torch.where(counts > 0, counts**power, 0.0)
    shares[:first_id] = 0
    if not shares.sum() > 0:
        raise ConfigError("no item has a count; popularity needs the train counts of the item table")
    return shares / shares.sum()

"""Which positions are predicted, and what the model may see of them. Pure functions of (ids, lengths, generator).

Causal maskings hide nothing: the backbone never looks ahead, so the state of a position may predict any later event,
and the last event of a window is label only. The others hide what they predict: behind the mask vector that the model
learns, or, in permutation LM, by the order of the attention. Such a model predicts what follows a history from the
state of a hidden event behind it. `RULES` says which backbones each masking fits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Reads = Literal["causal", "bidirectional", "two_stream"]
Draw = Callable[[Tensor, torch.Generator | None], Tensor]
"""From events ``[P]`` to as many ids that may stand in their place."""


class Masked(NamedTuple):
    """What a masking decides for a batch of ids ``[B, T]``.

    Attributes:
        positions: ``[P]`` index into the flattened ``[B * T]`` hidden states that predict.
        targets: ``[P]`` ids.
        input_mask: bool ``[B, T]``, the inputs whose vector the learned mask vector replaces.
        replacement_ids: ``[B, T]``, the ids with a drawn one at every masked input (replaced-token detection).
        attention_mask: bool ``[B, T, T]``, whether event i may see event j.
        events: ``[P]`` index into the flattened ids of the events that are predicted.
    """

    positions: Tensor
    targets: Tensor
    input_mask: Tensor | None = None
    replacement_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    events: Tensor | None = None


@dataclass(frozen=True)
class Rule:
    """What a masking asks of the model.

    Attributes:
        fits: the backbones, by how they read, that a masking leaks nothing to and can be learnt by.
        mask_vector: whether hidden inputs are replaced by a vector that the model learns.
        predicts: the label of a position, for people.
        hides: how the label is kept from the model, for people.
    """

    fits: tuple[Reads, ...]
    mask_vector: bool
    predicts: str
    hides: str

    @property
    def every_position(self) -> bool:
        """Whether each position's state predicts what follows it; if not, a hidden event must stand behind it."""
        return self.fits == ("causal",)


CAUSAL: tuple[Reads, ...] = ("causal",)
BOTH_WAYS: tuple[Reads, ...] = ("bidirectional", "two_stream")
RULES: dict[str, Rule] = {
    "causal": Rule(CAUSAL, False, "the next event, at every position", "causality"),
    "causal_last": Rule(CAUSAL, False, "the last event, from the one before it", "causality"),
    "final_value": Rule(CAUSAL, False, "the window's last event, at every position", "causality"),
    "next_occurrence": Rule(CAUSAL, False, "the next event among chosen items, at every position", "causality"),
    "mlm": Rule(BOTH_WAYS, True, "hidden events, drawn one by one", "the mask vector"),
    "span": Rule(BOTH_WAYS, True, "hidden events, drawn in runs", "the mask vector"),
    "replaced": Rule(
        BOTH_WAYS, True, "hidden events; then of every event whether it was replaced", "the mask vector, drawn ids"
    ),
    "permutation": Rule(("two_stream",), False, "hidden events, in a random order", "the attention's order"),
}


def reads(backbone: nn.Module) -> Reads:
    """How a backbone reads, by its attributes `is_causal` and, where it has one, `is_two_stream`."""
    if backbone.is_causal:
        return "causal"
    return "two_stream" if getattr(backbone, "is_two_stream", False) else "bidirectional"


def fitting(kind: Reads) -> list[str]:
    """The maskings that fit backbones which read so."""
    return [name for name, rule in RULES.items() if kind in rule.fits]


# Causal maskings.


def causal(ids: Tensor, lengths: Tensor, generator: torch.Generator | None = None) -> Masked:
    """Every valid event but the first is predicted from those before it. ids ``[B, T]``, lengths ``[B]``.

    When to use: the default of causal backbones; most labels for the cost of a forward pass.
    """
    following = torch.arange(1, ids.shape[1], device=ids.device).expand(len(ids), -1)  # [B, T - 1]
    return _ahead(ids, following, following < lengths[:, None])


def causal_last(ids: Tensor, lengths: Tensor, generator: torch.Generator | None = None) -> Masked:
    """Only the last valid event is predicted. ids ``[B, T]``, lengths ``[B]``; sequences of one event have no label.

    When to use: to follow the document's protocol (specs/1, 10.1).
    """
    steps = torch.arange(ids.shape[1] - 1, device=ids.device)
    following = steps.expand(len(ids), -1) + 1
    return _ahead(ids, following, following == lengths[:, None] - 1)


def final_value(ids: Tensor, lengths: Tensor, generator: torch.Generator | None = None) -> Masked:
    """Every valid event but the last predicts the last one. ids ``[B, T]``, lengths ``[B]``.

    When to use: what a sequence ends in matters (an outcome, a purchase), and how early it can be told.
    Source: sequifier's objective of that name.
    """
    steps = torch.arange(ids.shape[1] - 1, device=ids.device)
    last = (lengths[:, None] - 1).expand(-1, len(steps))
    return _ahead(ids, last, steps < last)


def next_occurrence(
    ids: Tensor, lengths: Tensor, generator: torch.Generator | None = None, *, wanted: Tensor
) -> Masked:
    """Every position predicts the first later event whose item is one of `wanted`; without one it has no label.

    When to use: few items matter among many (errors, purchases, a milestone), and the question is which comes first.
    Source: sequifier's objective of that name. ids ``[B, T]``, lengths ``[B]``, wanted ``[W]`` ids.
    """
    time = ids.shape[1]
    steps = torch.arange(time, device=ids.device)
    hits = torch.isin(ids, wanted) & (steps < lengths[:, None])
    place = torch.where(hits, steps, time)  # [B, T]
    first = place.flip(1).cummin(dim=1).values.flip(1)  # the first hit at or after each step
    return _ahead(ids, first[:, 1:], first[:, 1:] < time)


def _ahead(ids: Tensor, step: Tensor, chosen: Tensor) -> Masked:
    """Labels ``[B, T - 1]``: position t predicts the event at ``step[:, t]`` where it is chosen."""
    rows = torch.arange(len(ids), device=ids.device)[:, None] * ids.shape[1]
    events = (rows + step)[chosen]
    steps = torch.arange(ids.shape[1] - 1, device=ids.device)
    return Masked(positions=(rows + steps)[chosen], targets=ids.flatten()[events], events=events)


# Maskings that hide what they predict.


def mlm(
    ids: Tensor,
    lengths: Tensor,
    generator: torch.Generator | None = None,
    *,
    probability: float = 0.2,
    last_probability: float = 0.0,
) -> Masked:
    """Masked LM: each event is hidden with `probability`, in every row at least one and never all.

    When to use: the default of bidirectional backbones (BERT: Devlin et al. 2019; BERT4Rec: Sun et al. 2019).

    Args:
        ids: ``[B, T]``; rows of one event have no label.
        lengths: ``[B]``.
        generator: of the draws; torch's own where None.
        probability: above 0, below 1.
        last_probability: share of rows in which the last event alone is hidden, as it is when the model is asked for
            what follows a history (BERT4Rec 3.6).
    """
    valid = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]  # [B, T]
    noise = _noise(ids.shape, generator, ids.device)
    chosen = _some(valid & (noise < probability), noise, lengths)
    return _hidden(ids, _or_last(chosen, lengths, last_probability, generator))


def span(
    ids: Tensor,
    lengths: Tensor,
    generator: torch.Generator | None = None,
    *,
    probability: float = 0.2,
    mean_span: float = 3.0,
    last_probability: float = 0.0,
) -> Masked:
    """Runs of events are hidden: their lengths geometric with `mean_span`, in all a share of `probability`.

    When to use: neighbours that give an event away (repeats, fixed workflows) make single hidden events too easy
    (SpanBERT: Joshi et al. 2020). At least one event and never all of a row; arguments as in `mlm`.
    """
    chosen = _runs(ids, lengths, generator, probability, mean_span)
    return _hidden(ids, _or_last(chosen, lengths, last_probability, generator))


def permutation(
    ids: Tensor,
    lengths: Tensor,
    generator: torch.Generator | None = None,
    *,
    probability: float = 0.2,
    mean_span: float = 3.0,
    last_probability: float = 0.0,
) -> Masked:
    """Permutation LM: runs of events are predicted one after the other in a random order (XLNet: Yang et al. 2019).

    An event sees all those that are not predicted, and a predicted one those predicted before it too, never itself.
    When to use: with XLNet, whose second stream predicts from `attention_mask`. Arguments as in `span`.
    """
    chosen = _runs(ids, lengths, generator, probability, mean_span)
    chosen = _or_last(chosen, lengths, last_probability, generator)
    order = _noise(ids.shape, generator, ids.device).masked_fill(~chosen, -1.0)  # context comes before all targets
    valid = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    earlier = order[:, None, :] < order[:, :, None]  # [B, i, j]: j comes before i
    visible = valid[:, None, :] & (~chosen[:, None, :] | earlier)
    return _hidden(ids, chosen)._replace(input_mask=None, attention_mask=visible)


def replaced(
    ids: Tensor,
    lengths: Tensor,
    generator: torch.Generator | None = None,
    *,
    draw: Draw | None = None,
    probability: float = 0.2,
    last_probability: float = 0.0,
) -> Masked:
    """Replaced-token detection: `mlm`, then drawn ids take the hidden places and each event is told true or drawn.

    When to use: a label at every event and not at the hidden ones only (ELECTRA: Clark et al. 2020). A drawn id that
    happens to be the true one counts as true.

    Args:
        ids, lengths, generator, probability, last_probability: as in `mlm`.
        draw: gives ids for hidden events (see `uniform_draw`, `popularity_draw`); None: `replacement_ids` is None too,
            and the model draws from its own scores.
    """
    masked = mlm(ids, lengths, generator, probability=probability, last_probability=last_probability)
    if draw is None:
        return masked
    assert masked.input_mask is not None
    drawn = ids.masked_scatter(masked.input_mask, draw(masked.targets, generator))
    return masked._replace(replacement_ids=drawn)


def uniform_draw(reserved: int, num_ids: int) -> Draw:
    """Every id from `reserved` to ``num_ids - 1`` alike."""

    def draw(events: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.randint(reserved, num_ids, events.shape, generator=generator, device=events.device)

    return draw


def popularity_draw(counts: Tensor) -> Draw:
    """Each id by its count ``[V]``; ids of count 0 (the reserved ones) never."""
    upto = counts.double().cumsum(0)

    def draw(events: Tensor, generator: torch.Generator | None) -> Tensor:
        at = _noise(events.shape, generator, events.device, torch.float64) * upto[-1]
        return torch.searchsorted(upto.to(events.device), at, right=True)

    return draw


def _hidden(ids: Tensor, chosen: Tensor) -> Masked:
    """Each chosen event is predicted at its own place."""
    events = chosen.flatten().nonzero().squeeze(1)
    return Masked(positions=events, targets=ids.flatten()[events], input_mask=chosen, events=events)


def _noise(
    shape: torch.Size, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Uniform numbers of [0, 1)."""
    return torch.rand(shape, generator=generator, device=device, dtype=dtype)


def _runs(
    ids: Tensor, lengths: Tensor, generator: torch.Generator | None, probability: float, mean_span: float
) -> Tensor:
    """Bool ``[B, T]``: runs that start anywhere alike and may overlap, so dense that `probability` is covered."""
    steps = torch.arange(ids.shape[1], device=ids.device)
    valid = steps < lengths[:, None]
    noise = _noise(ids.shape, generator, ids.device)
    long = torch.ones_like(noise)
    if mean_span > 1:  # geometric from 1 on, by its inverse distribution function
        uniform = _noise(ids.shape, generator, ids.device).clamp(min=1e-12)
        long = torch.ceil(uniform.log() / math.log1p(-1 / mean_span)).clamp(min=1)
    starts = noise < 1 - (1 - probability) ** (1 / mean_span)
    starts |= ~(starts & valid).any(dim=1, keepdim=True) & (steps == _first_valid_minimum(noise, valid))
    reach = torch.where(starts & valid, steps + long, torch.zeros_like(long)).cummax(dim=1).values
    return _some(valid & (reach > steps), noise, lengths)


def _some(chosen: Tensor, noise: Tensor, lengths: Tensor) -> Tensor:
    """At least one and never all of a row's events: the one of least noise is added, that of most is taken out."""
    steps = torch.arange(chosen.shape[1], device=chosen.device)
    valid = steps < lengths[:, None]
    none = ~chosen.any(dim=1, keepdim=True)
    chosen = chosen | (none & (steps == _first_valid_minimum(noise, valid)))
    every = (chosen.sum(dim=1) == lengths)[:, None]
    return chosen & ~(every & (steps == _first_valid_minimum(-noise, valid))) & (lengths >= 2)[:, None]


def _first_valid_minimum(noise: Tensor, valid: Tensor) -> Tensor:
    """``[B, 1]`` where a row's least valid number stands."""
    return noise.masked_fill(~valid, 2.0).argmin(dim=1, keepdim=True)


def _or_last(chosen: Tensor, lengths: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """In a share of the rows of at least two events, their last event and no other."""
    if not share:
        return chosen
    last = torch.arange(chosen.shape[1], device=chosen.device) == lengths[:, None] - 1
    rows = _noise(chosen.shape[:1], generator, chosen.device)[:, None] < share
    return torch.where(rows & (lengths >= 2)[:, None], last, chosen)

"""The model: inputs, backbone, heads; which of its state is its own. Knows nothing of trainers or configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.errors import InputError, RunError, TrainingError
from recsys.heads import CatalogueHead, RealHead
from recsys.inputs import SequenceInputs
from recsys.losses import UncertaintyWeights
from recsys.nn.detection import SCORES_AT_ONCE, ReplacedDetector, draw_from_scores
from recsys.nn.masking import RULES
from recsys.nn.repeats import histories

EVENTS = "events"
"""Key of the number of events among the counts of labels."""

WEIGHTS = ".weights"
"""Behind a head's name, the key of the sum of its labels' class weights; no head has a dot in its name."""

BASE = "base"
"""Key, beside the tensors of a model that adapts a pretrained one, of the SHA-256 of that one's weights."""

DETECTOR = "masking.replaced"
"""Name of the detector's loss and count among those of the heads."""


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
        backbone: ``([B, T, H], lengths [B])`` to hidden states ``[B, T, H]``; one of two streams takes an
            `attention_mask` bool ``[B, T, T]`` too and then gives the states of the stream that does not see itself.
        heads: by column; the item column's head is the main one.
        weights: weight of each head's loss.
        task_weights: learned ones in their place.
        item: name of the item column.
        masking: name of the masking that it learns by; its `Rule` says how labels are kept from the model.
        mask_size: H where that rule asks for a mask vector.
        detector: the second task of the masking `replaced`.
    """

    def __init__(
        self,
        *,
        inputs: SequenceInputs,
        backbone: nn.Module,
        heads: Mapping[str, CatalogueHead | RealHead],
        weights: Mapping[str, float],
        task_weights: UncertaintyWeights | None = None,
        item: str,
        masking: str = "causal",
        mask_size: int = 0,
        detector: ReplacedDetector | None = None,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)
        self.weights = dict(weights)
        self.task_weights = task_weights
        self.item = item
        self.masking = masking
        self.rule = RULES[masking]
        self.mask_vector = nn.Parameter(torch.randn(mask_size) * 0.02) if self.rule.mask_vector else None
        self.detector = detector

    def forward(self, batch: Mapping[str, Tensor], counts: Mapping[str, float] | None = None) -> RecommenderOutput:
        """Loss of a batch: the sum over heads of ``weight * (loss sum / count)``, as `LossOutput` counts.

        Args:
            batch: ``inputs.* [B, T]``, lengths ``[B]``, ``labels.<head>.positions [P]`` and ``.targets [P]``, and what
                the masking hides.
            counts: `label_counts` to normalise by, summed over accumulation and ranks; those of the batch by default.
        """
        batch = batch if isinstance(batch, Batch) else Batch(batch)
        hidden = self.hidden(batch).flatten(0, 1)  # [B * T, H]
        total = hidden.new_zeros(())
        sums: dict[str, Tensor] = {}
        seen: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            positions, targets = batch.labels(name)
            context = self.head_context(batch.inputs[name], positions) if name == self.item else ()
            output = head.loss(hidden.index_select(0, positions), targets, *context)  # type: ignore[operator]
            count = output.count if counts is None else torch.as_tensor(counts[self.count_name(name)]).to(output.count)
            count = torch.where(count > 0, count, 1)  # a sum of weights may be any positive number
            if self.task_weights is None:
                total = total + self.weights[name] * output.sum / count
            else:
                total = total + self.task_weights(name, output.sum / count, output.count / count)
            sums[name], seen[name] = output.sum.detach(), output.count.detach()
        extra = getattr(self.backbone, "extra_loss", None)  # a mean over events, of the pass that the heads read
        if extra is not None:
            number = batch.lengths.sum()
            count = number if counts is None else torch.as_tensor(counts[EVENTS], device=hidden.device)
            total = total + extra * number / count.clamp(min=1)
        if self.detector is not None:
            lost, number = self._detect(batch, hidden, self.detector)
            count = number if counts is None else torch.as_tensor(counts[EVENTS], device=hidden.device)
            total = total + self.detector.weight * lost / count.clamp(min=1)
            sums[DETECTOR], seen[DETECTOR] = lost.detach(), number
        if not torch.isfinite(total.detach()):
            raise TrainingError(self._not_finite(batch, float(total.detach())))
        return RecommenderOutput(total, sums, seen)

    def label_counts(self, batch: Batch) -> dict[str, float]:
        """How many labels each head has in a batch, and how many events it has, for `counts` of `forward`.

        Of a head with class weights also their sum over its labels, which its loss is divided by.
        """
        counts = {name: float(batch.num_labels(name)) for name in self.heads}
        for name, head in self.heads.items():
            weights = head.label_weights(batch.labels(name)[1]) if isinstance(head, CatalogueHead) else None
            if weights is not None:
                counts[f"{name}{WEIGHTS}"] = float(weights.sum())
        return {**counts, EVENTS: float(batch.lengths.sum())}

    def count_name(self, name: str) -> str:
        """Key of what a head's loss is divided by among `label_counts`."""
        weighted = getattr(self.heads[name], "class_weights", None) is not None
        return f"{name}{WEIGHTS}" if weighted else name

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states ``[B, T, H]`` of a masked batch; what stands past a sequence's length is undefined.

        Raises:
            InputError: the model learns by hiding events, and the batch hides none: its states have seen the labels.
        """
        mask, attention = batch.get("input_mask"), batch.get("attention_mask")
        if not self.rule.every_position and mask is None and attention is None:
            raise InputError(
                f"a model of masking '{self.masking}' reads batches that this masking made; the state that predicts "
                "what follows a history is given by `Recommender.predictive`"
            )
        vectors = self.inputs(batch.inputs, lengths=batch.lengths)
        return self.encode(vectors, batch.lengths, mask, attention, batch.get("times"))

    def encode(
        self,
        vectors: Tensor,
        lengths: Tensor,
        input_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        times: Tensor | None = None,
    ) -> Tensor:
        """Hidden states ``[B, T, H]`` of fused vectors ``[B, T, H]``, of which bool ``[B, T]`` are hidden.

        `attention_mask` bool ``[B, T, T]`` says which event sees which, to a backbone of two streams; `times`
        ``[B, T]`` in microseconds goes to one that `needs_times`.
        """
        if input_mask is not None:
            assert self.mask_vector is not None
            vectors = torch.where(input_mask[..., None], self.mask_vector.to(vectors.dtype), vectors)
        more = {} if attention_mask is None else {"attention_mask": attention_mask}
        if getattr(self.backbone, "needs_times", False):
            if times is None:
                raise InputError("the model reads the times of events; load its sequences with times=True")
            more["times"] = times
        states: Tensor = self.backbone(vectors, lengths, **more)
        return states

    def predictive(self, vectors: Tensor, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """States ``[B, T, H]`` of fused vectors ``[B, T, H]``; that at ``lengths - 1`` predicts what follows a history.

        A causal model's states before it predict what follows the events before it. Any other model is given a hidden
        event behind each history, and its other states are undefined.
        """
        if self.rule.every_position:
            return self.encode(vectors, lengths, times=times)
        batch, time, size = vectors.shape
        steps = torch.arange(time + 1, device=vectors.device)
        longer = torch.cat([vectors, vectors.new_zeros(batch, 1, size)], dim=1)  # [B, T + 1, H]
        if self.mask_vector is not None:
            return self.encode(longer, lengths + 1, input_mask=steps == lengths[:, None])[:, 1:]
        known = (steps < lengths[:, None])[:, None, :].expand(-1, time + 1, -1)  # [B, T + 1, T + 1]
        return self.encode(longer, lengths + 1, attention_mask=known)[:, 1:]

    def _detect(self, batch: Batch, hidden: Tensor, detector: ReplacedDetector) -> tuple[Tensor, Tensor]:
        """Sum and count of the loss of telling true events from replaced ones. hidden ``[B * T, H]``."""
        ids, mask = batch.inputs[self.item], batch["input_mask"]  # [B, T]
        drawn = batch.get("replacement_ids")
        if drawn is None:
            drawn = ids.masked_scatter(mask, self._draw(hidden.detach()[mask.flatten()]))
        vectors = self.inputs({**batch.inputs, self.item: drawn}, lengths=batch.lengths)
        return detector.loss(self.encode(vectors, batch.lengths), drawn != ids, batch.lengths)

    @torch.no_grad()
    def _draw(self, hidden: Tensor) -> Tensor:
        """Items ``[P]`` by their probabilities at hidden states ``[P, H]``."""
        head = self.heads[self.item]
        assert isinstance(head, CatalogueHead)
        rows = max(1, SCORES_AT_ONCE // int(head.table(self.inputs.item_table()).shape[0]))
        return torch.cat([draw_from_scores(self.item_scores(part)) for part in hidden.split(rows)])

    def _not_finite(self, batch: Batch, loss: float) -> str:
        rows = batch.row_id.tolist()
        named = f"{rows[:20]}" if len(rows) <= 20 else f"{rows[:20]} and {len(rows) - 20} more"
        broken = [n for n, v in batch.inputs.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
        fix = f"input column '{broken[0]}' is not finite there" if broken else "lower training.learning_rate"
        return f"loss is {loss} on dataset rows {named}; {fix}"

    def head_context(self, items: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the item head reads beside the states at flat `positions` ``[P]`` of items ``[B, T]``."""
        return self.inputs.item_table(), self.histories(items, positions)

    def histories(self, items: Tensor, positions: Tensor) -> Tensor | None:
        """The history ``[P, T]`` of each flat position of items ``[B, T]``, where the item head wants it."""
        if not self.scores_repeats:
            return None
        time = items.shape[1]
        return histories(items, positions // time, positions % time)

    @property
    def scores_repeats(self) -> bool:
        """Whether scores depend on what a history holds, so that `item_scores` wants histories."""
        return getattr(self.heads[self.item], "repeats", None) is not None

    def item_scores(self, hidden: Tensor, history: Tensor | None = None) -> Tensor:
        """Scores ``[P, V]`` of every item for hidden states ``[P, H]``; reserved ids are -inf.

        history ``[P, T]`` (`histories`) where the model `scores_repeats`.
        """
        head = self.heads[self.item]
        assert isinstance(head, CatalogueHead)
        return head.scores(hidden, self.inputs.item_table(), history)


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """The state that is saved with a model: all of it but what stays with a pretrained model that it adapts."""
    external: frozenset[str] = getattr(getattr(model, "backbone", None), "external", frozenset())
    return {name: t for name, t in model.state_dict().items() if name.removeprefix("backbone.") not in external}


def base_of(model: nn.Module) -> str | None:
    """SHA-256 of the pretrained weights without which `own_state` is not the whole model; None where it is."""
    base: str | None = getattr(getattr(model, "backbone", None), "base", None)
    return base


def read_weights(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Tensors of a safetensors file, and the SHA-256 of the pretrained weights that they adapt, if they do."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(BASE)  # noqa: SIM118


def require_base(model: nn.Module, base: str | None, source: object) -> None:
    """Raise RunError unless weights read from `source`, which say that they adapt `base`, belong on this model."""
    own = base_of(model)
    if base == own:
        return
    if base is None or own is None:
        held = "a whole model, and adapters are" if base is None else "adapters alone, and a whole model is"
        raise RunError(f"{source}: holds {held} asked for; use the configuration that it was trained with")
    raise RunError(
        f"{source}: adapts pretrained weights of SHA-256 {base[:12]}…, and those of model.backbone.pretrained have "
        f"{own[:12]}…; name the folder or file that it was trained on"
    )

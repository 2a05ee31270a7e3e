"""Names of maskings to functions, and whether they fit a backbone."""

from functools import partial

import polars as pl
import torch
from torch import Tensor, nn

from recsys.config import MaskedConfig, ModelConfig
from recsys.data.collate import Masking
from recsys.errors import ConfigError, nearest
from recsys.nn import masking
from recsys.nn.detection import ReplacedDetector
from recsys.nn.masking import RULES, fitting, reads
from recsys.schema import Column


def build_masking(
    name: str, settings: MaskedConfig | None = None, item: Column | None = None, items: pl.DataFrame | None = None
) -> Masking:
    """The function that hides events and labels positions in training.

    Args:
        name: one of `RULES`.
        settings: the section `model.masked`.
        item: the item column; for `replaced` with drawn ids and `next_occurrence`.
        items: the workflow's item table; for the same.
    """
    chosen = settings or MaskedConfig()
    share, last = chosen.probability, chosen.last_probability
    match name:
        case "causal":
            return masking.causal
        case "causal_last":
            return masking.causal_last
        case "final_value":
            return masking.final_value
        case "next_occurrence":
            return partial(masking.next_occurrence, wanted=_wanted(chosen, items))
        case "mlm":
            return partial(masking.mlm, probability=share, last_probability=last)
        case "span":
            return partial(masking.span, mean_span=chosen.mean_span, probability=share, last_probability=last)
        case "permutation":
            return partial(masking.permutation, mean_span=chosen.mean_span, probability=share, last_probability=last)
        case "replaced":
            return partial(masking.replaced, draw=_draw(chosen, item, items), probability=share, last_probability=last)
        case _:
            raise ConfigError(f"model.masking: unknown '{name}'{nearest(name, RULES)}")


def validation_masking(name: str, training: Masking) -> Masking:
    """The causal masking whose labels validation measures, beside the one of training."""
    return training if name in ("final_value", "next_occurrence") else masking.causal


def build_detector(config: ModelConfig) -> ReplacedDetector | None:
    """The second task of replaced-token detection."""
    if config.masking != "replaced":
        return None
    return ReplacedDetector(config.backbone.hidden_size, config.masked.replaced_weight)


def positions_of(config: ModelConfig) -> int:
    """How many vectors the backbone reads at most: a history, and the hidden event behind it where there is one."""
    return config.max_length + (0 if RULES[config.masking].every_position else 1)


def require_fit(config: ModelConfig, backbone: nn.Module) -> None:
    """Raise ConfigError where the backbone would see the labels that the masking asks for, or could not be asked."""
    kind = reads(backbone)
    if kind in RULES[config.masking].fits:
        return
    why = {
        "causal": "sees no later event, so hiding events teaches it little",
        "bidirectional": "sees later events too, so it would read the label or lacks the second stream",
        "two_stream": "sees later events too, so it would read the label",
    }[kind]
    raise ConfigError(
        f"model.masking: '{config.masking}' does not fit backbone '{config.backbone.name}', which {why}; "
        f"it takes {', '.join(fitting(kind))}"
    )


def _wanted(settings: MaskedConfig, items: pl.DataFrame | None) -> Tensor:
    """Ids ``[W]`` of the items that are waited for."""
    if not settings.items:
        raise ConfigError("model.masked.items: masking 'next_occurrence' needs the names of the items to wait for")
    assert items is not None
    ids = dict(zip(items["item_id"].to_list(), items["id"].to_list(), strict=True))
    for name in settings.items:
        if name not in ids:
            known = [known for known in ids if known is not None]
            raise ConfigError(f"model.masked.items: the data have no item '{name}'{nearest(name, known[:10_000])}")
    wanted = [ids[name] for name in settings.items]
    if not items["count"].gather(wanted).sum():
        raise ConfigError("model.masked.items: training never saw any of them, so there is nothing to predict")
    return torch.tensor(wanted)


def _draw(settings: MaskedConfig, item: Column | None, items: pl.DataFrame | None) -> masking.Draw | None:
    """What draws ids before the model sees a batch; None where the model draws them itself."""
    match settings.replacements:
        case "model":
            return None
        case "uniform":
            assert item is not None
            return masking.uniform_draw(item.first_id, item.num_ids())
        case "popularity":
            assert items is not None
            return masking.popularity_draw(torch.from_numpy(items["count"].to_numpy().astype("int64")))

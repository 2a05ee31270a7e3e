"""A run's memory on a graphics card before anything is trained: the plan as a table, and what would make it fit."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from peft_ext.cards import card_bytes, size_text
from recsys.config import CategoricalConfig, EtlConfig, RunConfig, SplitConfig, override, parse
from recsys.errors import ConfigError, InputError, RecsysError, one_line
from recsys.schema import CLASSIFICATION, INTERVAL, ITEM_ID, LOG_GAP, MERGE_COUNT, TARGET

if TYPE_CHECKING:
    from peft_ext.memory import Memory
    from recsys.training.memory_plan import Planner

USED = 0.92
"""Share of a card that a plan may fill; the rest is for the driver, the libraries and the allocator's gaps."""
ITEMS, CLASSES, TARGETS = 4000, 20, 90
"""What is assumed of a catalogue that nobody gave."""
SESSIONS = 8
"""At least so many sessions are assumed: as many as show a batch's tensors."""
PARTS = {
    "gradients": "one number for each that is trained",
    "optimizer": "two moments of each that is trained",
    "activations": "kept for the backward pass",
    "working": "beside them at the busiest moment",
}


@dataclass(frozen=True)
class Card:
    """A card's name, as it was given, and its bytes."""

    name: str
    size: int

    @property
    def room(self) -> int:
        """Bytes that a plan may fill."""
        return int(USED * self.size)


def show(data: Path | None, config: RunConfig, card: str | None, items: int | None = None) -> None:
    """Print the memory of training `config` on a dataset; nothing is left on disk.

    Args:
        data: sequence dataset; None: one is assumed, as the configuration would read it.
        config: of the run; the weights of its backbone need not be there.
        card: as `peft_ext.cards.card_bytes` takes it; None: this machine's, or no verdict where it has none.
        items: how many there are in a dataset that is assumed; None: `ITEMS`.

    Raises:
        ConfigError: an unknown card, or a model that cannot be planned.
        InputError: the dataset lacks something.
    """
    found = find_card(card)
    if data is not None:
        _show(data, config, found)
        return
    items = items or ITEMS
    print(f"no --data: {items:,} items assumed (--items), of {CLASSES} classifications and {TARGETS} targets")
    with tempfile.TemporaryDirectory(prefix="plan.") as folder:
        _show(assumed(config, items, Path(folder) / "data"), config, found)


def assumed(config: RunConfig, items: int, out: Path) -> Path:
    """Write a dataset in which each item occurs, with the columns that a configuration reads; returns `out`.

    Raises:
        InputError: the configuration reads what cannot be assumed, such as a given vocabulary.
    """
    from recsys.etl import preprocess

    length = max(2, config.model.max_length)
    sessions = max(SESSIONS, -(-items // length))
    place = pl.int_range(sessions * length)
    values = [_values(name, config.etl, place // length).alias(name) for name in _columns(config.etl)]
    names = "item " + (place % items).cast(pl.String)
    events = pl.select(*values, session_id=(place // length).cast(pl.String), item_id=names, timestamp=place)
    ids = pl.int_range(items)
    commands = pl.select(
        item_id="item " + ids.cast(pl.String),
        classification=(ids % CLASSES).cast(pl.String),
        target=(ids % TARGETS).cast(pl.String),
    )
    own = config.etl.categorical.get("item_id", CategoricalConfig())
    whole = own.model_copy(update={"min_count": 1, "top_k": None})  # each item occurs a few times alone
    changes = {"min_length": 1, "newest": None, "chunk": None}
    etl = config.etl.model_copy(update=changes | {"categorical": {**config.etl.categorical, "item_id": whole}})
    try:
        preprocess(events, RunConfig(split=SplitConfig(rule="none", into="train"), etl=etl), out, commands=commands)
    except (RecsysError, OSError) as error:
        raise InputError(f"no --data: {one_line(error)}; give --data DIR") from error
    return out


def _columns(etl: EtlConfig) -> list[str]:
    """Columns of the events that a configuration asks for, beside those that are there anyway."""
    given = (ITEM_ID, CLASSIFICATION, TARGET, INTERVAL, LOG_GAP)
    named = (*etl.categorical, *etl.continuous, *etl.bucketise, *(etl.text or []))
    left_out = {*given, *etl.optional} - {MERGE_COUNT}
    return [name for name in dict.fromkeys(named) if name not in left_out]


def _values(name: str, etl: EtlConfig, session: pl.Expr) -> pl.Expr:
    """What an assumed column holds: the number of the session, as the kind of column asks."""
    if name in etl.categorical and etl.categorical[name].multi_valued:
        return pl.concat_list(session.cast(pl.String))
    return session.cast(pl.String if name in etl.categorical or name in (etl.text or []) else pl.Float64)


def _show(data: Path, config: RunConfig, found: Card | None) -> None:
    from recsys.training.memory_plan import Planner

    planner = Planner(data, config)
    plan = planner.plan(config, gpu=True)
    print("\n".join(table(config, plan)))
    if found is None:
        print("no card given; --card 24GiB or a name as A100-80GB says whether it fits")
    elif plan.total <= found.room:
        spare = size_text(found.room - plan.total)
        print(f"fits on {found.name} ({size_text(found.size)}, of which {USED:.0%} are counted on): {spare} to spare")
    else:
        missing = size_text(plan.total - found.room)
        print(f"does not fit on {found.name} ({size_text(found.size)}, of which {USED:.0%} are counted on): ", end="")
        print(f"{missing} too much")
        print("\n".join(advice(planner, config, plan, found)))


def find_card(text: str | None) -> Card | None:
    """The card that a flag names, or this machine's first; None where there is none.

    Raises:
        ConfigError: no such card; lists those that are known.
    """
    if text is not None:
        try:
            return Card(text, card_bytes(text))
        except ValueError as error:
            raise ConfigError(str(error)) from error
    import torch

    if not torch.cuda.is_available():
        return None
    return Card(torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory)


def table(config: RunConfig, plan: "Memory") -> list[str]:
    """The lines of a plan."""
    by_type = ", ".join(f"{kind} {size_text(size)}" for kind, size in plan.weights.items())
    rows = [("weights", plan.all_weights, by_type)]
    rows += [(name, getattr(plan, name), what) for name, what in PARTS.items()]
    rows += [("total", plan.total, "at the busiest moment of a step")]
    share = plan.trainable / max(1, plan.parameters)
    return [
        f"memory plan: {_described(config)}",
        f"{'parameters':<12}{plan.parameters:>15,}   {plan.trainable:,} of them are trained ({share:.2%})",
        *(f"{name:<12}{size_text(size):>15}   {what}" for name, size, what in rows),
    ]


def _described(config: RunConfig) -> str:
    from recsys.build import settle

    model, training = config.model, config.training
    backbone, peft = settle(model).backbone, model.peft
    frozen = "" if peft.method == "none" else f", {peft.method}"
    frozen += f" of rank {peft.r}" if peft.adapts else ""
    frozen += "" if peft.quantization == "none" else f" on {peft.quantization}"
    frozen += ", gradient checkpointing" if peft.gradient_checkpointing else ""
    precision = "bfloat16" if training.precision == "auto" else training.precision
    return (
        f"{backbone.name}, {backbone.num_layers} layers, width {backbone.hidden_size}{frozen}; "
        f"{training.batch_size} sequences of {model.max_length} events in {precision} on a GPU"
    )


def advice(planner: "Planner", config: RunConfig, plan: "Memory", card: Card) -> list[str]:
    """What would make a plan fit: each change that is enough, and the largest batch; else all changes together."""
    found, least = [], (config, "", plan)
    for settings in _changes(config):
        changed = _with(config, settings)
        smaller, text = planner.plan(changed, gpu=True), " ".join(settings)
        least = min(least, (changed, f"{text} ", smaller), key=lambda entry: entry[2].total)
        if smaller.total <= card.room:
            found.append(f"  {text}: {size_text(smaller.total)}")
    batch, text = _largest_batch(planner, config, plan, card), ""
    if batch is None and not found:
        batch, text = _largest_batch(planner, least[0], least[2], card), least[1]
    if batch is not None:
        size, total = batch
        steps = config.training.batch_size * config.training.accumulation // size
        found.append(f"  {text}training.batch_size={size} training.accumulation={steps}: {size_text(total)}")
    if not found:
        one = size_text(_total(planner, least[0], 1))
        return [f"no setting makes it fit: one sequence alone takes {one}; take a larger card or a smaller backbone"]
    return ["what would make it fit (--set):", *found]


def _changes(config: RunConfig) -> list[list[str]]:
    """Settings, alone and together, that save memory and that the run has not got."""
    peft, found = config.model.peft, []
    if peft.freezes and not peft.gradient_checkpointing:
        found.append(["model.peft.gradient_checkpointing=true"])
    if peft.freezes and peft.quantization == "none":
        method = ["model.peft.method=qlora"] if peft.method == "lora" else []
        found.append([*method, "model.peft.quantization=nf4"])
    if config.training.optimizer == "adamw" and not peft.freezes:
        found.append(["training.optimizer=adamw_8bit"])
    return [*found, [setting for alone in found for setting in alone]] if len(found) > 1 else found


def _with(config: RunConfig, settings: list[str]) -> RunConfig:
    return parse(RunConfig, override(config.model_dump(mode="json", exclude_unset=True), settings), "--set")


def _largest_batch(planner: "Planner", config: RunConfig, plan: "Memory", card: Card) -> tuple[int, int] | None:
    """The most sequences that fit and divide those of a step, and their total; None where not even one does.

    Memory grows evenly with the batch, so two plans tell where the limit is, and a third makes sure.
    """
    size, room = config.training.batch_size, card.room
    least = _total(planner, config, 1)
    if least > room or size == 1:
        return None
    whole = size * config.training.accumulation
    slope = (plan.total - least) / (size - 1)
    fitting = min(size - 1, 1 + int((room - least) / max(slope, 1)))
    for batch in range(fitting, 1, -1):
        if whole % batch == 0 and (total := _total(planner, config, batch)) <= room:
            return batch, total
    return 1, least


def _total(planner: "Planner", config: RunConfig, batch_size: int) -> int:
    training = config.training.model_copy(update={"batch_size": batch_size})
    return planner.plan(config.model_copy(update={"training": training}), gpu=True).total

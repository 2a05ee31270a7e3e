"""Starting from a trained run's weights, on a dataset whose ids are the run's or extend them.

An embedding table grows: rows of old ids are the run's, rows of new ids stay as the fresh model drew them. Every other
parameter is the run's; the optimizer starts anew.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from recsys.errors import RunError, SchemaError
from recsys.etl.fitted import Fitted
from recsys.etl.storage import load
from recsys.recommender import Recommender, own_state, read_weights, require_base
from recsys.run_directory import RunDirectory
from recsys.runtime import note
from recsys.schema import FIRST_ID, HOUR, WEEKDAY

FIX = "make the data with `recsys preprocess --extend RUN` (new items) or `--workflow RUN`"
GIVEN = {"inputs.attributes": "other attributes", "inputs.pretrained.table": "another text vector"}
"""Buffers that the data give: rows of old ids must say what they said to the run."""


def start_from(model: Recommender, run: Path, dataset: Path) -> None:
    """Copy the weights of `run` into `model`, which was built for `dataset`.

    Raises:
        SchemaError: an id of the run means something else in the dataset; names the column and the first such id.
        RunError: the run has no weights, or the model is of another shape; names the tensor.
    """
    directory = RunDirectory(run)
    weights = directory.require(directory.weights)
    old, new = load(directory.workflow), load(dataset / "workflow")
    require_extension(old, new, run, dataset)
    tensors, base = read_weights(weights)
    require_base(model, base, weights)
    copy_weights(model, tensors, growing(old), run)


def require_extension(old: Fitted, new: Fitted, run: object, dataset: object) -> None:
    """Raise SchemaError unless every id of `old` means the same in `new`. Other statistics are only noted."""
    for name, vocabulary in old.vocabularies.items():
        if name not in new.vocabularies:
            raise SchemaError(f"{dataset}: column '{name}' is missing, which {run} was trained with; {FIX}")
        other = new.vocabularies[name]
        theirs, ours = vocabulary.values.to_list(), other.values.to_list()
        for place, value in enumerate(theirs):
            if place >= len(ours) or ours[place] != value:
                found = repr(ours[place]) if place < len(ours) else "no value"
                where = f"{dataset}: column '{name}', id {FIRST_ID + place}"
                raise SchemaError(f"{where}: {found} here, {value!r} in {run}; {FIX}")
        buckets = vocabulary.hash_buckets, other.hash_buckets
        if buckets[0] != buckets[1] or (buckets[0] and len(ours) > len(theirs)):
            sizes = f"{len(ours)} values and {buckets[1]} hash buckets here, {len(theirs)} and {buckets[0]} in {run}"
            raise SchemaError(f"{dataset}: column '{name}': {sizes}; {FIX}")
    zones = old.config.time.zone, new.config.time.zone
    for name in (HOUR, WEEKDAY):
        if name in old.plan.time and zones[0] != zones[1]:
            raise SchemaError(f"{dataset}: column '{name}' is in {zones[1]} here, in {zones[0]} in {run}; {FIX}")
    for name, scaling in old.scalings.items():
        if name not in new.scalings:
            raise SchemaError(f"{dataset}: column '{name}' is missing, which {run} was trained with; {FIX}")
        mine = new.scalings[name]
        if list(mine.transforms) != list(scaling.transforms):
            both = f"{' '.join(mine.transforms) or 'as it is'} here, {' '.join(scaling.transforms) or 'as it is'}"
            raise SchemaError(f"{dataset}: column '{name}' is {both} in {run}; {FIX}")
        if (mine.mean, mine.std) != (scaling.mean, scaling.std):
            moved = f"mean {scaling.mean:g} to {mine.mean:g}, std {scaling.std:g} to {mine.std:g}"
            note(f"column '{name}': other statistics than {run} was trained with ({moved})")


def growing(old: Fitted) -> dict[str, int]:
    """Number of the run's ids, by each tensor of a model that has one row an id."""
    rows: dict[str, int] = {}
    for name, vocabulary in old.vocabularies.items():
        tables = ("inputs.embeddings.{}", "inputs.event_bags.{}.table", "inputs.item_bags.{}.values.table")
        for table in (*tables, "inputs.context.tables.{}", "heads.{}"):
            rows |= dict.fromkeys(
                (f"{table.format(name)}.weight", f"{table.format(name)}.bias"), vocabulary.cardinality
            )
    items = old.items.height
    lists = [f"inputs.item_bags.{name}.bags" for name in old.plan.item_categorical if name in old.plan.multi_valued]
    return rows | dict.fromkeys((*GIVEN, *lists), items)


def copy_weights(model: nn.Module, tensors: dict[str, Tensor], rows: dict[str, int], run: object) -> None:
    """Copy `tensors` into `model`; those named in `rows` have so many rows and may have more in the model."""
    own = own_state(model)
    lists = {name for name in own if name.startswith("inputs.item_bags.") and name.endswith(".bags")}
    tensors = {name: _widened(t, own[name]) if name in lists else t for name, t in tensors.items()}
    for name in [*own, *tensors]:
        if name not in own or name not in tensors:
            where = "this model" if name in own else "the run"
            raise RunError(f"{run}: another model: tensor '{name}' is only in {where}; {_SAME}")
        theirs, ours = tensors[name].shape, own[name].shape
        grows = name in rows and theirs[1:] == ours[1:] and theirs[0] <= ours[0]
        if theirs != ours and not grows:
            raise RunError(f"{run}: another model: tensor '{name}' is {list(theirs)} there, {list(ours)} here; {_SAME}")
        if name in GIVEN or name in lists:
            _require_same_rows(name, tensors[name], own[name], run)
    with torch.no_grad():
        for name, tensor in tensors.items():
            target = own[name][: len(tensor)] if tensor.ndim else own[name]
            target.copy_(tensor)


_LISTS = "other attributes"
_SAME = "give the run's own configuration (--config RUN/config.yaml)"


def _require_same_rows(name: str, theirs: Tensor, ours: Tensor, run: object) -> None:
    """Old items must have the attributes and vectors that the run learnt with (vectors up to rounding)."""
    equal = torch.isclose(theirs.double(), ours[: len(theirs)].double(), rtol=1e-3, atol=1e-4).all(dim=1)
    if not equal.all():
        item = int((~equal).nonzero()[0])
        raise RunError(f"{run}: item id {item} has {GIVEN.get(name, _LISTS)} in the data than in the run; {FIX}")


def _widened(lists: Tensor, like: Tensor) -> Tensor:
    """Lists of ids ``[V, L]`` filled up with padding to the width of `like`: new items may have longer ones."""
    return nn.functional.pad(lists, (0, max(0, like.shape[1] - lists.shape[1])))

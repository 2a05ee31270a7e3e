"""Extending a fitted workflow by new events: ids that exist stay, new values come after them.

::

    new = Extension(Workflow.load(run)).fit(new_events, commands)     # or: preprocess(..., blank=Extension(...))

What a trained model has learnt of an id or a number so keeps its meaning:

| column | extended |
|---|---|
| categorical | old ids stay; new values follow by descending count in the new events, ties by value |
| with a vocabulary file or hash buckets | as it was: the file fixes the values, the buckets have the ids behind them |
| hour, weekday, bucketise | as they were, boundaries included |
| continuous | mean and standard deviation as they were, unless asked for over old and new events together |
| items | attributes and text of old items as they were; those of new items from the commands |

`min_count` and `top_k` apply to the new values alone. Counts are those of the old events plus those of the new ones.
A value that train knew too rarely for an id of its own is new; the old events that held it stay counted as unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import polars as pl

from recsys.config import EtlConfig, RunConfig
from recsys.errors import ConfigError, InputError, missing_column
from recsys.etl.columns import check_names
from recsys.etl.drift import Shape, read_shape
from recsys.etl.fitted import Ancestor, Fitted
from recsys.etl.fitting import check_scalings, not_kept
from recsys.etl.lists import LISTS, count_list_values, encode_lists, weighted_ids
from recsys.etl.operators import COUNT, Moments, Scaling, Vocabulary, count_values
from recsys.etl.plan import Counts, Plan, bucket_name, check_commands
from recsys.etl.storage import WORKFLOW_FILE, fingerprint, workflow_folder
from recsys.etl.workflow import Workflow
from recsys.runtime import sha256_file
from recsys.schema import FIRST_ID, ITEM_ID, NULL_ID

FREE = ("min_length", "newest", "chunk", "optional")  # of `etl`: may differ from the parent's
_NONE = pl.DataFrame(schema={"value": pl.String, COUNT: pl.Int64})
FREE_OF_COLUMN = ("min_count", "top_k")  # of one categorical column, for its new values


class Extension(Workflow):
    """A workflow whose fit extends `parent`, which stays as it is.

    Args:
        parent: a fitted workflow.
        config: a run's configuration. Its `etl` section is used where it was written down (else the parent's): it
            may differ in `min_count`, `top_k`, `min_length`, `newest` and `chunk`, in nothing that gives ids or
            numbers their meaning.
        refit_statistics: mean and standard deviation over old and new events, instead of the old ones.
        sha256: of the parent's workflow.json; None: as `save` would write it.
        shape: of the sessions that the parent was fitted on, for the drift report.

    Raises:
        ConfigError: `config` names other columns or transforms than the parent has; names the first difference.
    """

    def __init__(
        self,
        parent: Workflow,
        config: RunConfig | None = None,
        *,
        refit_statistics: bool = False,
        sha256: str | None = None,
        shape: Shape | None = None,
    ) -> None:
        etl = parent.config
        if config is not None and "etl" in config.model_fields_set:
            _check_same(parent.config, config.etl)
            etl = config.etl
        super().__init__(etl, parent.seed)
        self.parent = parent.fitted
        self.shape = shape
        self._refit = refit_statistics
        self._sha256 = sha256 or fingerprint(self.parent)
        self._notes: list[str] = []

    @classmethod
    def of(cls, folder: Path, config: RunConfig | None = None, *, refit_statistics: bool = False) -> Self:
        """Of a saved workflow: its folder, or the dataset or run that holds it."""
        found = workflow_folder(Path(folder))
        sha256 = sha256_file(found / WORKFLOW_FILE)
        parent, shape = Workflow.load(found), read_shape(found)
        return cls(parent, config, refit_statistics=refit_statistics, sha256=sha256, shape=shape)

    @property
    def warnings(self) -> list[str]:
        """As of a workflow, and old items that the commands now describe otherwise."""
        return [*super().warnings, *self._notes]

    def begin(self, columns: Sequence[str], commands: pl.DataFrame | None = None, source: object = "events") -> Self:
        """Take the parent's columns. InputError names one that events or commands lack."""
        check_names(columns, source)
        plan = self.parent.plan
        for name in plan.required:
            if name not in columns:
                raise missing_column(source, name, columns)
        for name in (*plan.item_categorical, *plan.item_text):
            if commands is None or name not in commands.columns:
                fix = "new items would have none; give a folder with events/ and commands.parquet"
                raise InputError(f"{source}: no attribute '{name}' of the items, which the workflow has; {fix}")
        self._plan, self._counts = plan, Counts()
        return self

    def finish(self, commands: pl.DataFrame | None = None, source: object = "commands") -> Self:
        """End the fit: the parent's ids, then new ones, from what was added."""
        if not self._counts.rows:
            raise InputError("no training events: the training split is empty, so there is nothing to extend by")
        commands = None if commands is None else check_commands(commands, source, self.plan, self.config)
        made = extend(
            self.parent, self._counts, commands, self.config, refit_statistics=self._refit, sha256=self._sha256
        )
        self._fitted = made
        self._notes = [] if commands is None else changed_attributes(self.parent, commands)
        return self


def extend(
    parent: Fitted,
    counts: Counts,
    commands: pl.DataFrame | None = None,
    config: EtlConfig | None = None,
    *,
    refit_statistics: bool = False,
    sha256: str | None = None,
) -> Fitted:
    """`parent` and what new training events add to it (see the module).

    Args:
        counts: of the new events, by the parent's plan.
        commands: attributes of the items, as `plan.check_commands` gives them.
        config: the parent's, with another `min_count`, `top_k`, `min_length`, `newest` or `chunk`.
        sha256: of the parent's workflow.json; None: as it would be written.
    """
    config, plan, old = config or parent.config, parent.plan, parent.vocabularies
    vocabularies = {}
    for name in plan.event_categorical:
        dropped = not_kept(commands) if name == ITEM_ID else []
        vocabularies[name] = _extended(config, name, old[name], counts.values.get(name, _NONE), dropped)
    for name in (*plan.time, *(bucket_name(b) for b in plan.bucketised)):
        vocabularies[name] = old[name].counted(parent.class_counts(counts, name))
    items = _items(parent, vocabularies[ITEM_ID], commands)
    for name in plan.item_categorical:
        vocabularies[name], items = _attribute(parent, config, name, items)
    scalings = dict(parent.scalings)
    for name in plan.continuous:
        scalings[name] = _scaling(parent, name, counts.moments.get(name, Moments()), refit_statistics)
    check_scalings(scalings)
    sizes = {name: vocabulary.cardinality for name, vocabulary in old.items()}
    ancestry = [*parent.ancestry, Ancestor(sha256 or fingerprint(parent), sizes)]
    return Fitted(config, parent.seed, plan, vocabularies, scalings, items, parent.buckets, ancestry)


def changed_attributes(parent: Fitted, commands: pl.DataFrame) -> list[str]:
    """One line a column in which `commands` describes items of `parent` otherwise than `parent` does."""
    lines = []
    for name in parent.plan.item_categorical:
        vocabulary = parent.vocabularies[name]
        encoder = encode_lists(vocabulary, name) if name in parent.plan.multi_valued else vocabulary.encode(name)
        now = commands.select(ITEM_ID, encoder.alias("now"))
        both = parent.items.slice(FIRST_ID).select(ITEM_ID, name).join(now, on=ITEM_ID)
        changed = both.filter(pl.col(name) != pl.col("now"))
        if changed.height:
            first = changed[ITEM_ID][0]
            lines.append(f"column '{name}': {changed.height} old items (such as {first!r}) keep what they had before")
    return lines


def _extended(config: EtlConfig, name: str, old: Vocabulary, counts: pl.DataFrame, dropped: list[str]) -> Vocabulary:
    column = config.categorical[name]
    if column.vocabulary is not None:
        return old.counted(counts)
    return old.extended(counts, column.min_count, dropped, top_k=column.top_k)


def _items(parent: Fitted, vocabulary: Vocabulary, commands: pl.DataFrame | None) -> pl.DataFrame:
    """Old items with ids of their attributes, new ones with values (null ids), counts of both added up.

    Columns ``<attribute>:new`` hold the values of new items; `_attribute` turns them into ids.
    """
    plan, size = parent.plan, len(parent.vocabularies[ITEM_ID].values)
    counts = [0, vocabulary.null_count, vocabulary.oov_count, *vocabulary.counts]
    old = parent.items.with_columns(pl.Series(COUNT, counts[: parent.items.height], dtype=pl.Int64))
    fresh = pl.DataFrame(
        {ITEM_ID: vocabulary.values.slice(size), COUNT: vocabulary.counts.slice(size)},
        schema={ITEM_ID: pl.String, COUNT: pl.Int64},
    ).with_columns(pl.int_range(FIRST_ID + size, vocabulary.cardinality, dtype=pl.Int32, eager=True).alias("id"))
    wanted = [*plan.item_categorical, *plan.item_text]
    if wanted:
        if commands is None:
            commands = pl.DataFrame(schema={name: _kind(plan, name) for name in [ITEM_ID, *wanted]})
        extra = commands.select(
            pl.col(ITEM_ID),
            *(pl.col(name).cast(_kind(plan, name)).alias(f"{name}:new") for name in plan.item_categorical),
            *(pl.col(name).cast(pl.String) for name in plan.item_text),
        )
        fresh = fresh.join(extra, on=ITEM_ID, how="left", maintain_order="left")
    return pl.concat([old, fresh], how="diagonal")


def _kind(plan: Plan, name: str) -> pl.DataType | type[pl.DataType]:
    """Of an attribute's values."""
    return LISTS if name in plan.multi_valued else pl.String


def _attribute(parent: Fitted, config: EtlConfig, name: str, items: pl.DataFrame) -> tuple[Vocabulary, pl.DataFrame]:
    """Extend an attribute of the items by the new ones' values, weighted by their counts, and number it."""
    old, height = parent.vocabularies[name], parent.items.height
    fresh = items.slice(height)
    added = (items[COUNT].head(height) - parent.items[COUNT]).slice(FIRST_ID)  # new events of old items
    ids, is_list = parent.items[name].slice(FIRST_ID), name in parent.plan.multi_valued
    if is_list:
        ids, added = weighted_ids(ids, added)
    values = pl.Series("value", old.decode(), dtype=pl.String).gather(ids)
    unnamed = values.is_null() & (ids != NULL_ID)  # unknown or in a hash bucket: no value to count under
    counts = pl.concat(
        [
            count_values(values.filter(~unnamed), added.filter(~unnamed)),
            (count_list_values if is_list else count_values)(fresh[f"{name}:new"], fresh[COUNT]),
        ]
    )
    counts = counts.group_by("value").agg(pl.col(COUNT).sum())
    made = _extended(config, name, old, counts, [])
    made = replace(made, oov_count=made.oov_count + int(added.filter(unnamed).sum()))
    encoder = encode_lists(made, name) if is_list else made.encode(name)
    encoded = fresh.select(pl.col(f"{name}:new").alias(name)).select(encoder).to_series()
    column = pl.concat([items[name].head(height), encoded]).alias(name)
    return made, items.with_columns(column).drop(f"{name}:new")


def _scaling(parent: Fitted, name: str, moments: Moments, refit: bool) -> Scaling:
    old = parent.scalings[name]
    if not refit:
        missing, infinite = old.missing + moments.missing, old.infinite + moments.infinite
        return replace(old, missing=missing, infinite=infinite)
    known = parent.rows - old.missing
    before = Moments(known, old.mean, old.std**2 * known, old.missing, old.infinite)
    return Scaling.fit(old.transforms, before.merge(moments))


def _check_same(parent: EtlConfig, config: EtlConfig) -> None:
    """Raise ConfigError where ids or numbers would mean something else than in the parent."""
    theirs, ours = _meaning(parent), _meaning(config)
    for section in theirs:
        found = _first_difference(theirs[section], ours[section], f"etl.{section}")
        if found:
            fix = "an extension keeps the columns: take the `etl` section of the old configuration, or leave it out"
            raise ConfigError(f"{found}; {fix}")


def _meaning(config: EtlConfig) -> dict[str, Any]:
    values = {name: value for name, value in config.model_dump(mode="json").items() if name not in FREE}
    columns = values["categorical"].items()
    values["categorical"] = {
        name: {key: value for key, value in column.items() if key not in FREE_OF_COLUMN} for name, column in columns
    }
    return values


def _first_difference(theirs: object, ours: object, where: str) -> str | None:
    if not isinstance(theirs, Mapping) or not isinstance(ours, Mapping):
        return None if theirs == ours else f"{where} is {theirs!r} in the workflow to extend and {ours!r} here"
    for key in theirs:
        if key not in ours:
            return f"{where}.{key} is in the workflow to extend and not here"
        found = _first_difference(theirs[key], ours[key], f"{where}.{key}")
        if found:
            return found
    extra = [key for key in ours if key not in theirs]
    return f"{where}.{extra[0]} is here and not in the workflow to extend" if extra else None

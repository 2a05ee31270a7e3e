"""All that a fitted workflow is, and what can be read off it: schema, description, warnings."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from recsys.config import EtlConfig
from recsys.etl.lists import encode_lists
from recsys.etl.operators import COUNT, Buckets, Scaling, Vocabulary, label_counts, time_id
from recsys.etl.plan import Counts, Plan, bucket_name
from recsys.schema import ITEM_ID, NULL_ID, OOV_ID, TIMESTAMP, Column, Kind, Schema, Scope, Tag


def vocabulary_file(column: str) -> str:
    """Name of the file that holds the values of `column`, in id order."""
    return f"unique.{column}.parquet"


@dataclass(frozen=True)
class Ancestor:
    """A workflow that was extended: SHA-256 of its workflow.json, and how many ids each column had."""

    sha256: str
    cardinalities: dict[str, int]


@dataclass(frozen=True)
class Fitted:
    """Vocabularies of all categorical columns, scalings of all continuous ones, buckets by column of numbers."""

    config: EtlConfig
    seed: int
    plan: Plan
    vocabularies: dict[str, Vocabulary]
    scalings: dict[str, Scaling]
    items: pl.DataFrame
    buckets: dict[str, Buckets] = field(default_factory=dict)
    ancestry: list[Ancestor] = field(default_factory=list)  # oldest first; empty: fitted anew

    @property
    def rows(self) -> int:
        """Events that were fitted on, an extended workflow's included."""
        item = self.vocabularies[ITEM_ID]
        return item.null_count + item.oov_count + int(item.counts.sum())

    def class_counts(self, counts: Counts, name: str) -> pl.DataFrame:
        """Counts of the values of an event-scope categorical column, quantile buckets by the boundaries fitted here."""
        for source, buckets in self.buckets.items():
            if bucket_name(source) == name and source in counts.numbers:
                return label_counts(counts.numbers[source], buckets)
        return counts.values.get(name, pl.DataFrame(schema={"value": pl.String, COUNT: pl.Int64}))

    def id_counts(self, name: str) -> list[float]:
        """How often each id of a categorical column occurs in train (values of lists count one by one).

        What has no id of its own is shared out evenly over the hash buckets, where there are some.
        """
        vocabulary = self.vocabularies[name]
        shared = vocabulary.hash_buckets
        tail = [vocabulary.oov_count / shared] * shared if shared else []
        return [0.0, vocabulary.null_count, 0.0 if shared else vocabulary.oov_count, *vocabulary.counts, *tail]

    def id_encoders(self) -> list[pl.Expr]:
        """Prepared classes to ids (Int32), under their names in the sequences."""
        lists = self.plan.event_lists
        encoders = [self.vocabularies[n].encode(n) for n in self.plan.event_categorical if n not in lists]
        return encoders + [encode_lists(self.vocabularies[name], name) for name in lists]

    def number_encoders(self) -> list[pl.Expr]:
        """Prepared times and numbers to ids (Int32) and scaled numbers (Float32), by their names in the sequences."""
        plan = self.plan
        encoders = [time_id(name, self.config.time.zone) for name in plan.time]
        encoders += [self.buckets[name].encode(name, bucket_name(name)) for name in plan.bucketised]
        return encoders + [self.scalings[name].apply(name) for name in plan.continuous]

    @property
    def schema(self) -> Schema:
        """Columns of the sequences and of `items`."""
        plan, once = self.plan, self.plan.of_sequences
        columns = [self._categorical(name, Scope.EVENT) for name in plan.event_categorical]
        columns += [self._categorical(name, Scope.EVENT, source=TIMESTAMP) for name in plan.time]
        for name in plan.bucketised:
            boundaries = list(self.buckets[name].boundaries)
            columns.append(self._categorical(bucket_name(name), Scope.EVENT, source=name, boundaries=boundaries))
        columns += [self._categorical(name, Scope.ITEM) for name in plan.item_categorical]
        for name in plan.continuous:
            scaling = self.scalings[name]
            statistics = {t: 1.0 for t in scaling.transforms} | {"mean": scaling.mean, "std": scaling.std}
            more: dict[str, Any] = {"scope": Scope.SEQUENCE, "tags": [Tag.CONTEXT]} if name in once else {}
            columns.append(Column(name=name, kind=Kind.CONTINUOUS, dtype="float32", statistics=statistics, **more))
        for scope, names in ((Scope.EVENT, plan.event_text), (Scope.ITEM, plan.item_text)):
            columns += [Column(name=name, kind=Kind.TEXT, scope=scope, dtype="string") for name in names]
        return Schema(columns=columns)

    def describe(self) -> pl.DataFrame:
        """One row a column: kind, scope, number of ids, rows of train without a (known) value, statistics."""
        rows: list[dict[str, object]] = []
        for column in self.schema.columns:
            vocabulary = self.vocabularies.get(column.name)
            scaling = self.scalings.get(column.name)
            row: dict[str, object] = {"column": column.name, "kind": column.kind.value}
            row |= {"scope": column.scope.value, "ids": column.cardinality, "source": column.source}
            if vocabulary:
                row |= {"null": vocabulary.null_count, "out_of_vocabulary": vocabulary.oov_count}
                row |= {"hash_buckets": vocabulary.hash_buckets, "boundaries": column.boundaries}
                place = vocabulary.counts.arg_max() if vocabulary.counts.sum() else None
                row["most_frequent"] = None if place is None else vocabulary.values[place]
            if scaling:
                row |= {"transforms": " ".join(scaling.transforms), "mean": scaling.mean, "std": scaling.std}
                row |= {"null": scaling.missing, "infinite": scaling.infinite}
            rows.append(row)
        return pl.DataFrame(rows, schema=_DESCRIPTION)

    def warnings(self) -> Iterator[str]:
        """What a person should know before training on it."""
        for name, scaling in self.scalings.items():
            if scaling.infinite:
                yield f"column '{name}' has {scaling.infinite} infinite values in train; they are taken as missing"
            if scaling.is_constant and "zscore" in scaling.transforms:
                yield f"column '{name}' has one value in train; its z-score is 0 everywhere"
        for name, vocabulary in self.vocabularies.items():
            if not vocabulary.counts.sum() and vocabulary.hash_buckets == 0:
                yield f"column '{name}' has no known value in train; every id is {NULL_ID} or {OOV_ID}"
        for name, buckets in self.buckets.items():
            wanted, made = self.config.bucketise[name].quantiles, len(buckets.boundaries) + 1
            if wanted is not None and made < wanted:
                yield f"column '{name}' has too few values in train for {wanted} buckets; {made} are made"

    def _categorical(
        self, name: str, scope: Scope, source: str | None = None, boundaries: list[float] | None = None
    ) -> Column:
        vocabulary, once = self.vocabularies[name], name in self.plan.of_sequences
        return Column(
            name=name,
            kind=Kind.CATEGORICAL,
            scope=Scope.SEQUENCE if once else scope,
            tags=[Tag.ITEM_ID] if name == ITEM_ID else [Tag.CONTEXT] if once else [],
            dtype="int32",
            cardinality=vocabulary.cardinality,
            hash_buckets=vocabulary.hash_buckets,
            multi_valued=name in self.plan.multi_valued,
            old_cardinality=self.ancestry[-1].cardinalities.get(name) if self.ancestry else None,
            source=source,
            boundaries=boundaries,
            vocabulary=vocabulary_file(name),
            vocabulary_sha256=vocabulary.sha256,
        )


_DESCRIPTION: dict[str, pl.DataType | type[pl.DataType]] = {
    "column": pl.String,
    "kind": pl.String,
    "scope": pl.String,
    "source": pl.String,
    "ids": pl.Int64,
    "null": pl.Int64,
    "out_of_vocabulary": pl.Int64,
    "infinite": pl.Int64,
    "hash_buckets": pl.Int64,
    "boundaries": pl.List(pl.Float64),
    "most_frequent": pl.String,
    "transforms": pl.String,
    "mean": pl.Float64,
    "std": pl.Float64,
}

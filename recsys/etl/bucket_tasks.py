"""What is done to one bucket of events: collect its groups, count its training events, write its sequences.

Each is a function of (`Shared`, one path or task) that can be run again, in any order and in any process.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from recsys.config import ChunkConfig
from recsys.errors import InputError
from recsys.etl.drift import Measured
from recsys.etl.fitted import Fitted
from recsys.etl.grouping import CHUNK, Sequences, in_time_order
from recsys.etl.leakage import FirstPoints, Leakage, Owners
from recsys.etl.occurrences import GROUP, Pairs
from recsys.etl.plan import Counts
from recsys.etl.split import SPLIT, SPLITS
from recsys.etl.split_sequences import SequenceSplit
from recsys.etl.spread import Buckets
from recsys.etl.users import ORIGIN
from recsys.etl.windows import chunk_column
from recsys.etl.workflow import Workflow
from recsys.schema import ITEM_ID, SESSION_ID, TIMESTAMP, USER_ID

_SPLIT_NAMES = pl.Enum(SPLITS)


@dataclass(frozen=True)
class Marker:
    """Which split owns each event.

    Attributes:
        by: the column whose values are the groups.
        assignment: columns `group` and `split`; None before the groups are assigned, and with `cut` or `into`.
        cut: a rule inside sequences.
        into: the split of all.
        pieces: groups are the pieces that sessions are cut into (the document's protocol).
        seed: of the lengths of the pieces.
    """

    by: str
    assignment: pl.DataFrame | None = None
    cut: SequenceSplit | None = None
    into: str | None = None
    pieces: ChunkConfig | None = None
    seed: int = 0

    def cut_pieces(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Add the column `chunk` where groups are pieces: the paper cuts first and splits the pieces."""
        if self.pieces is None:
            return frame
        return frame.with_columns(chunk_column(frame[SESSION_ID], self.pieces, self.seed))

    def groups(self, frame: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
        """Place of each event's group (UInt32) among the names of groups (String).

        Rows without a user share the group ``""``, so that none of them can leak.
        """
        if self.pieces is not None:
            new = pl.struct(SESSION_ID, CHUNK).rle_id().alias(GROUP)
            places = frame.select(new).to_series()
            heads = frame.filter(places != places.shift(1).fill_null(pl.lit(1 << 31)))
            piece = pl.concat_str([pl.col(SESSION_ID).cast(pl.String), pl.col(CHUNK).cast(pl.String)], separator="#")
            return places, heads.select(piece).to_series()
        column = frame[self.by]
        assert isinstance(column.dtype, pl.Enum)
        names = column.dtype.categories
        places = column.to_physical().cast(pl.UInt32)
        if places.null_count():
            places, names = places.fill_null(len(names)), pl.concat([names, pl.Series([""])])
        return places, names

    def mark(self, frame: pl.DataFrame, source: str) -> pl.DataFrame:
        """Add the column `split` (Enum) to events of whole sessions in order of time.

        Raises:
            InputError: a group has no split.
        """
        if self.cut is not None:
            return self.cut.mark(frame).with_columns(pl.col(SPLIT).cast(_SPLIT_NAMES))
        if self.into is not None:
            return frame.with_columns(pl.lit(self.into, dtype=_SPLIT_NAMES).alias(SPLIT))
        frame = self.cut_pieces(frame)
        places, names = self.groups(frame)
        assert self.assignment is not None
        known = names.alias(GROUP).to_frame().join(self.assignment, on=GROUP, how="left", maintain_order="left")
        split = known[SPLIT].cast(_SPLIT_NAMES).gather(places).alias(SPLIT)
        if split.null_count():
            lost = names[int(places.filter(split.is_null())[0])]
            raise InputError(f"{source}: splits.parquet has no row for {self.by} '{lost}'; clean anew")
        return frame.with_columns(split)


@dataclass(frozen=True)
class Shared:
    """What all tasks of one run know."""

    buckets: Buckets
    workflow: Workflow
    marker: Marker
    folder: Path  # of the dataset
    is_merged: bool = False  # sequences are users, whose sessions were brought together
    firsts: FirstPoints | None = None
    reference: Fitted | None = None  # what the events are compared with

    def prepared(self, sorted_rows: pl.DataFrame) -> pl.DataFrame:
        """The rows of one bucket, sorted by session and time, with what is derived of the times, marked."""
        frame = self.workflow.complete(sorted_rows, self.buckets.name)
        return self.marker.mark(frame, self.buckets.name)

    def plain(self, frame: pl.DataFrame) -> pl.DataFrame:
        """What the workflow takes: classes as text, unless it is ours."""
        if self.workflow.engine == "polars":
            return frame
        return frame.with_columns(pl.col(self.workflow.plan.event_categorical).cast(pl.String))

    def owners(self, frame: pl.DataFrame) -> Owners:
        """How the leakage report names sequences and groups."""
        return Owners.of(frame.columns, CHUNK if CHUNK in frame.columns else None)


def groups_and_items(shared: Shared, path: Path) -> Pairs:
    """The pairs of group and item that occur in one bucket."""
    frame = shared.buckets.load(path, [SESSION_ID, shared.marker.by, ITEM_ID, TIMESTAMP])
    if shared.marker.pieces is not None:
        frame = shared.marker.cut_pieces(in_time_order(frame))
    places, names = shared.marker.groups(frame)
    items = frame[ITEM_ID]
    assert isinstance(items.dtype, pl.Enum)
    seen = np.zeros(len(names), dtype=bool)
    seen[places.to_numpy()] = True
    if not seen.all():  # a file may name a session that no row of it bears
        places = pl.Series((np.cumsum(seen) - 1)[places.to_numpy()])
    return Pairs.distinct(names.filter(pl.Series(seen)), items.dtype.categories, places, items.to_physical())


@dataclass(frozen=True)
class Counted:
    """What one bucket adds to the fit, and the first points of its groups."""

    counts: Counts
    firsts: FirstPoints


def count_training(shared: Shared, path: Path) -> Counted:
    """Count the training events of one bucket where a workflow is to be fitted; keeps the bucket sorted."""
    rows = in_time_order(shared.buckets.load(path), shared.workflow.device)
    shared.buckets.save_sorted(path, rows)
    frame = shared.prepared(rows)
    firsts = FirstPoints.of(frame, shared.owners(frame))
    if shared.workflow.is_fitted:
        return Counted(Counts(), firsts)
    return Counted(shared.workflow.count(shared.plain(frame.filter(pl.col(SPLIT) == SPLITS[0]))), firsts)


@dataclass
class Tally:
    """What became of one split's events; those that a sequence holds as mere context count apart."""

    groups: int = 0
    events_in: int = 0
    events_out: int = 0
    sequences: int = 0
    dropped_events: dict[str, int] = field(default_factory=dict)
    dropped_sequences: dict[str, int] = field(default_factory=dict)
    noted_events: dict[str, int] = field(default_factory=dict)  # kept, see `Sequences.noted`; context counts too
    context_events: int = 0

    @classmethod
    def of(cls, made: Sequences, context: int = 0) -> "Tally":
        """Of what was made of one bucket, of whose events `context` belong to other splits."""
        rows_in, rows_out = made.rows_in - context, made.rows_out - context
        dropped = (dict(made.dropped_rows), dict(made.dropped_sequences), dict(made.noted))
        return cls(0, rows_in, rows_out, made.frame.height, *dropped, context)

    def add(self, other: "Tally") -> None:
        """Count another bucket's."""
        self.events_in += other.events_in
        self.events_out += other.events_out
        self.sequences += other.sequences
        self.context_events += other.context_events
        merge_numbers(self.dropped_events, other.dropped_events)
        merge_numbers(self.dropped_sequences, other.dropped_sequences)
        merge_numbers(self.noted_events, other.noted_events)


def merge_numbers(total: dict[str, int], more: dict[str, int]) -> None:
    """Add `more` to `total`, reason by reason."""
    for reason, number in more.items():
        total[reason] = total.get(reason, 0) + number


@dataclass(frozen=True)
class Written:
    """What came of one bucket: counts, and the columns of each split's sequences."""

    tallies: dict[str, Tally]
    leakage: Leakage
    measured: Measured
    cut: SequenceSplit | None
    empty: dict[str, pl.DataFrame]


def bucket_file(folder: Path, split: str, path: Path) -> Path:
    """Where the sequences that `split` has of the bucket `path` are written."""
    return folder / split / f"{path.stem}.parquet"


def write_sequences(shared: Shared, path: Path) -> Written:
    """Write the sequences of one bucket that `count_training` has sorted, a file a split that has any."""
    frame = shared.prepared(shared.buckets.load_sorted(path))
    leakage = Leakage(shared.owners(frame), shared.firsts or FirstPoints())
    leakage.add(frame)
    cut = None if shared.marker.cut is None else shared.marker.cut.blank()
    if cut is not None:
        cut.count(frame)
    tallies, empty = {}, {}
    for name in SPLITS:
        made, tallies[name] = _sequences(shared, frame, name, leakage)
        empty[name] = made.clear()
        file = bucket_file(shared.folder, name, path)
        if made.height:
            made.write_parquet(file, compression="zstd", compression_level=1)  # half the time of 3, a tenth larger
    return Written(tallies, leakage, Measured.of(frame, shared.reference), cut, empty)


def _sequences(shared: Shared, frame: pl.DataFrame, name: str, leakage: Leakage) -> tuple[pl.DataFrame, Tally]:
    """What one split makes of a bucket."""
    own, cut = pl.col(SPLIT) == name, shared.marker.cut
    rows = frame.filter(own) if cut is None else cut.rows(frame, name)
    leakage.add_sequences(name, rows)
    is_training = name == SPLITS[0]
    made = shared.workflow.sequences(shared.plain(rows.drop(SPLIT, ORIGIN, strict=False)), training=is_training)
    text = made.frame.with_columns(pl.col(n).cast(pl.String) for n in (SESSION_ID, USER_ID) if n in made.frame.columns)
    if is_training:
        leakage.add_train(text)
    if cut is None or is_training:
        return text, Tally.of(made)
    starts = cut.scored_from(rows, name).with_columns(pl.col(SESSION_ID).cast(pl.String))
    context = rows.height - int(rows.select(own.sum()).item())
    return text.join(starts, on=SESSION_ID, how="left", maintain_order="left"), Tally.of(made, context)

"""New events, or raw logs, to the sequences that a run's model reads."""

import csv
import gzip
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.cleaning.funnel import Funnel
from recsys.cleaning.pipeline import clean_logs
from recsys.cleaning.profile import Profile, load_profile
from recsys.cleaning.rules import Rules
from recsys.cleaning.sessions import key_column
from recsys.cleaning.sources import LogReader
from recsys.cleaning.streams import DEFAULT_MAX_BYTES
from recsys.data.dataset import SequenceDataset
from recsys.errors import InputError, missing_column
from recsys.etl import open_events
from recsys.etl.context import VaryingContext, locate
from recsys.etl.events import REQUIRED, SUFFIXES
from recsys.inference.run import LoadedRun
from recsys.runtime import note
from recsys.schema import SESSION_ID


@dataclass(frozen=True)
class NewSequences:
    """Sequences of new data.

    Attributes:
        dataset: the sequences.
        emptied: what a raw log names and cleaning left without an event, by unit: `session`, or `user` where the log
            has no sessions (`session` then counts those that come from gaps).
    """

    dataset: SequenceDataset
    emptied: dict[str, int] = field(default_factory=dict)


def read_sequences(
    run: LoadedRun, events: Path | str | pl.DataFrame, max_bytes: int = DEFAULT_MAX_BYTES
) -> NewSequences:
    """Sequences of new data, transformed as the run's training data were; values unknown to it get id 2.

    What cleaning left without an event is said in one line on standard error.

    Args:
        run: whose workflow (and, for raw logs, whose cleaning) is applied.
        events: a folder that cleaning wrote, a table with session_id, item_id and timestamp (file, folder of files
            or frame), or a raw log, which goes through the same cleaning as the run's training data.
        max_bytes: cap on the decompressed size of a raw log.

    Raises:
        InputError: neither of these; a column that the run reads is missing; no event is left.
    """
    given = events if isinstance(events, pl.DataFrame) else Path(events)
    if isinstance(given, Path) and not given.exists():
        raise InputError(f"{given}: no such file or folder")
    if isinstance(given, Path) and (given / "schema.json").is_file():
        raise InputError(f"{given}: is a sequence dataset; give the events or logs that it was made of")
    name = "events" if isinstance(given, pl.DataFrame) else str(given)
    found = given.columns if isinstance(given, pl.DataFrame) else _table_columns(given)
    emptied: dict[str, int] = {}
    if found is None or not set(REQUIRED) <= set(found):
        given, emptied = _clean(run, given, found, max_bytes)
    frame = _transform(run, given, name)
    if not frame.height:
        raise InputError(f"{name}: no event in it")
    if emptied:
        counts = " and ".join(f"{number:,} {unit}{'s' * (number != 1)}" for unit, number in emptied.items())
        note(f"{name}: cleaning left no event of {counts}, which have no sequence")
    times = run.config.model.backbone.needs_times
    return NewSequences(SequenceDataset.from_frame(frame, run.schema, run.workflow.items, times), emptied)


def _transform(run: LoadedRun, events: Path | pl.DataFrame, name: str) -> pl.DataFrame:
    plan = run.workflow.plan
    if isinstance(events, pl.DataFrame):  # a workflow's constituents are no feature, and no plain column either
        events = events.select(c for c in plan.read(events.columns) if c in events.columns)
    with tempfile.TemporaryDirectory(prefix="recsys.") as work:
        opened = open_events(events)
        for column in plan.required:
            if column not in opened.columns:
                error = missing_column(name, column, opened.columns)
                if column not in plan.context:
                    raise error
                raise InputError(
                    f"{error}; the run reads one value of it a session: add it, empty where it is not known"
                )
        wanted = plan.read(opened.columns)
        forms = plan.list_forms(run.workflow.config)
        buckets = opened.spread(Path(work), wanted, plan.numbers, plan.event_text, forms)
        try:
            frames = [run.workflow.transform(part) for part in buckets.frames()]
        except VaryingContext as error:
            raise locate(opened, error) from None
    return pl.concat(frames)


def _clean(
    run: LoadedRun, logs: Path | pl.DataFrame, columns: list[str] | None, max_bytes: int
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Events of a raw log, cleaned as the run's training data were, and what of it was emptied.

    `columns`: of a table that is none of events.
    """
    folder = run.directory.cleaning
    profile = folder / "profile.yaml"
    if isinstance(logs, Path) and profile.is_file():
        return _clean_log(logs, load_profile(profile), Rules.load(folder), max_bytes)
    name = logs if isinstance(logs, Path) else "events"
    if columns is not None:
        raise missing_column(name, next(c for c in REQUIRED if c not in columns), columns)
    raise InputError(
        f"{name}: not a table of events ({', '.join(REQUIRED)}), and {run.path} holds no cleaning/ for raw logs"
    )


def _clean_log(logs: Path, profile: Profile, rules: Rules, max_bytes: int) -> tuple[pl.DataFrame, dict[str, int]]:
    key = key_column(profile)
    keys: list[pl.Series] = []

    def noted() -> Iterator[pl.DataFrame]:
        for frame in LogReader(logs, profile, max_bytes).frames():
            keys.append(frame[key].drop_nulls().unique())
            yield frame

    funnel = Funnel()
    events = clean_logs(noted(), profile, rules, funnel=funnel, source=str(logs))
    emptied = {key.removesuffix("_id"): pl.concat(keys).n_unique() - events[key].n_unique()}
    if key != SESSION_ID:
        emptied["session"] = funnel.stages["sessions"].facts["sessions"] - events[SESSION_ID].n_unique()
    return events, {unit: number for unit, number in emptied.items() if number}


def _table_columns(path: Path) -> list[str] | None:
    """Columns of an events folder, or of the (first) table; None where there is no table that could be one."""
    if (path / "events").is_dir():
        return list(REQUIRED)
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.name.endswith(SUFFIXES))
    if not files or not files[0].name.endswith(SUFFIXES):
        return None
    return _header(files[0])


def _header(file: Path) -> list[str] | None:
    """Column names; None where they cannot be read, which whoever reads the file in full then explains."""
    try:
        if file.suffix == ".parquet":
            return list(pq.read_schema(file).names)
        opener = gzip.open if file.suffix == ".gz" else open
        with opener(file, "rt", encoding="utf-8-sig", errors="replace", newline="") as stream:
            return next(csv.reader(stream), None)
    except (pa.ArrowException, OSError, EOFError, csv.Error):
        return None

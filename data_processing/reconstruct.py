"""Stage 1 of the data processing: raw logs to the true sequence of events.

Reads, keeps categories, drops noise, forms sessions, undoes what was undone, collapses repeats. Writes a folder that
`data_processing.filter` finishes. Memory does not grow with the size of the log.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import polars as pl

from data_processing.parts import REPORT_FILE, add_workers, given_workers, refuse_inside, stage_parser, write_json
from recsys.buckets import LOOP, Workers
from recsys.cleaning.funnel import Funnel
from recsys.cleaning.parser import CLOCK, KIND
from recsys.cleaning.pipeline import select_rows
from recsys.cleaning.profile import Profile, load_profile
from recsys.cleaning.sessions import HASH, add_hash, clean_sessions, key_column
from recsys.cleaning.sources import LogReader
from recsys.cleaning.spill import ROWS_A_GROUP, Spill, Spilled, fine_buckets
from recsys.cleaning.streams import DEFAULT_MAX_BYTES, Budget, Role
from recsys.config import save_config
from recsys.runtime import atomic_folder, command_line, gigabytes, progress
from recsys.schema import ARGUMENTS, CATEGORY, ITEM_ID, MERGE_COUNT, SESSION_ID, TIMESTAMP, USER_ID

LISTED = 200  # file names in a report
BYTES_A_TASK = 1 << 28  # of log files that one worker reads in one go, at most (or one file)
GROUPS_FILE, METADATA_FILE = "users.parquet", "metadata.parquet"


def reconstruct(
    logs: Path,
    profile: Profile,
    out: Path,
    *,
    overwrite: bool = False,
    max_bytes: int = DEFAULT_MAX_BYTES,
    metadata: Path | None = None,
    rows_a_part: int = ROWS_A_GROUP,
    workers: Workers = LOOP,
) -> dict[str, Any]:
    """Clean `logs` into the folder `out` (appears by rename) and return its report.

    Writes ``events/part-*.parquet``, ``cleaning/profile.yaml``, ``report.json``, and where they exist
    ``users.parquet`` (every user of the raw log) and ``metadata.parquet`` (what is known about commands).
    The events depend neither on `rows_a_part`, which bounds memory, nor on `workers`.

    Raises:
        InputError: unreadable input, or no event is left.
    """
    refuse_inside(out, logs)
    with atomic_folder(out, replace=overwrite, markers=(REPORT_FILE,)) as work:
        reader = LogReader(logs, profile, max_bytes, metadata)
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            read = _read_all(reader, Path(scratch), workers)
            funnel = read.funnel
            funnel.require_rows(logs)
            _write_events(read, profile, work / "events", rows_a_part, workers)
        funnel.require_rows(logs)
        report = {"source": str(logs), "profile": profile.name, **_input_report(read), "stages": funnel.to_list()}
        _write_rest(work, profile, read, report)
    return report


@dataclass(frozen=True)
class _ReadTask:
    """Read some files of a log and spill what carries a command."""

    logs: Path
    profile: Profile
    max_bytes: int
    files: list[tuple[Path, Role]]
    folder: Path
    fine: int


@dataclass
class _Read:
    """What reading found; that of several tasks is joined in their order."""

    spilled: Spilled
    funnel: Funnel
    users: pl.Series
    columns: set[str]
    files: dict[str, int]
    skipped: list[str]
    bytes: int
    metadata: list[pl.DataFrame]


def _read_all(reader: LogReader, scratch: Path, workers: Workers) -> _Read:
    files = reader.list_files()
    shares = [files] if workers.engine == "loop" else _share_out(files)
    fine = fine_buckets(reader.size())
    tasks = []
    for number, share in enumerate(shares):
        folder = scratch / f"{number:05d}"
        folder.mkdir()
        tasks.append(_ReadTask(reader.path, reader.profile, reader.budget.limit, share, folder, fine))
    found = reduce(_joined, workers.run(_read_task, tasks))
    found.skipped = [*reader.skipped, *found.skipped]
    Budget(reader.budget.limit).spend(found.bytes, str(reader.path))
    if reader.reads_metadata_beside or not found.metadata:
        reader.read_metadata_beside()
        found.metadata = [] if reader.metadata is None else [reader.metadata]
    return found


def _share_out(files: list[tuple[Path, Role]]) -> list[list[tuple[Path, Role]]]:
    shares: list[list[tuple[Path, Role]]] = []
    room = 0
    for path, role in files:
        size = path.stat().st_size
        if size > room:
            shares.append([])
            room = BYTES_A_TASK
        shares[-1].append((path, role))
        room -= size
    return shares


def _read_task(task: _ReadTask) -> _Read:
    profile = task.profile
    reader = LogReader(task.logs, profile, task.max_bytes, files=task.files)
    spill = Spill(task.folder, _spill_schema(profile), task.fine)
    funnel, users = Funnel(), _Users()
    for frame in reader.frames():
        users.add(frame)
        spill.add(add_hash(select_rows(frame, profile, funnel), profile))
    return _Read(
        spilled=spill.finish(),
        funnel=funnel,
        users=users.found(),
        columns=reader.columns,
        files=reader.files,
        skipped=reader.skipped,
        bytes=reader.budget.used,
        metadata=[] if reader.metadata is None else [reader.metadata],
    )


def _joined(first: _Read, then: _Read) -> _Read:
    first.funnel.merge(then.funnel)
    return _Read(
        first.spilled + then.spilled,
        first.funnel,
        pl.concat([first.users, then.users]).unique(),
        first.columns | then.columns,
        first.files | then.files,
        first.skipped + then.skipped,
        first.bytes + then.bytes,
        first.metadata + then.metadata,
    )


def _spill_schema(profile: Profile) -> dict[str, pl.DataType]:
    schema: dict[str, pl.DataType] = {key_column(profile): pl.String(), ITEM_ID: pl.String(), KIND: pl.UInt8()}
    if profile.columns.user:
        schema[USER_ID] = pl.String()
    if profile.columns.category:
        schema[CATEGORY] = pl.String()
    if profile.grammar == "shell":
        schema[ARGUMENTS] = pl.String()
    schema |= dict.fromkeys(profile.columns.keep, pl.String())
    if any("<clock>" in (form.pattern or "") for form in profile.times):
        schema[CLOCK] = pl.Int64()
    return {**schema, TIMESTAMP: pl.Int64(), HASH: pl.UInt32()}


@dataclass(frozen=True)
class _CleanTask:
    """Clean the sessions of some fine buckets and write them as one part."""

    spilled: Spilled
    limits: tuple[int, int]
    profile: Profile
    columns: list[str]
    path: Path


def _write_events(read: _Read, profile: Profile, folder: Path, rows_a_part: int, workers: Workers) -> None:
    folder.mkdir()
    present = read.columns | {SESSION_ID, ITEM_ID, MERGE_COUNT, ARGUMENTS}
    columns = [c for c in profile.event_columns if c in present]
    tasks = [
        _CleanTask(read.spilled, limits, profile, columns, folder / f"part-{number:05d}.parquet")
        for number, limits in enumerate(read.spilled.ranges(rows_a_part))
    ]
    for found in progress(workers.run(_clean_task, tasks), "clean", total=len(tasks), unit="part"):
        read.funnel.merge(found)


def _clean_task(task: _CleanTask) -> Funnel:
    funnel = Funnel()
    rows = task.spilled.read(*task.limits)
    if rows is not None:
        events = clean_sessions(rows, task.profile, funnel).select(task.columns)
        if events.height:
            events.write_parquet(task.path)
    return funnel


def _input_report(read: _Read) -> dict[str, Any]:
    return {
        "input": {
            "files": len(read.files),
            "rows": dict(list(read.files.items())[:LISTED]),
            "skipped": len(read.skipped),
            "skipped_names": read.skipped[:LISTED],
            "decompressed_bytes": read.bytes,
        }
    }


def _write_rest(work: Path, profile: Profile, read: _Read, report: dict[str, Any]) -> None:
    (work / "cleaning").mkdir()
    save_config(profile, work / "cleaning" / "profile.yaml")
    if USER_ID in read.columns:
        read.users.sort().to_frame(USER_ID).write_parquet(work / GROUPS_FILE)
    if read.metadata:
        pl.concat(read.metadata, how="diagonal").write_parquet(work / METADATA_FILE)
    write_json(work / REPORT_FILE, report)


class _Users:
    """Every user of the raw log, those included whose rows all leave: a split by rule counts them."""

    def __init__(self) -> None:
        self._found: list[pl.Series] = []

    def add(self, frame: pl.DataFrame) -> None:
        if USER_ID in frame.columns:
            self._found.append(frame[USER_ID].drop_nulls().unique())
            if len(self._found) > 64:
                self._found = [pl.concat(self._found).unique()]

    def found(self) -> pl.Series:
        """Each user once."""
        return pl.concat(self._found).unique() if self._found else pl.Series(USER_ID, [], dtype=pl.String)


def add_arguments(
    parser: argparse.ArgumentParser,
    out: str = "folder to write; appears when all went well",
    overwrite: str = "replace --out where it exists",
) -> None:
    """The flags that reading logs takes, for every command that does; `out` and `overwrite` say what these two do."""
    parser.add_argument("--logs", type=Path, required=True, help="file, folder or archive of raw logs")
    parser.add_argument("--profile", default="vectorworks", help="cleaning rules: built-in name or YAML file")
    parser.add_argument("--metadata", type=Path, help="table of commands; default: the profile's, in or beside --logs")
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--overwrite", action="store_true", help=overwrite)
    parser.add_argument(
        "--max-gigabytes",
        dest="max_bytes",
        metavar="GB",
        type=gigabytes,
        default=DEFAULT_MAX_BYTES,
        help=f"cap on the decompressed size of the input (default {DEFAULT_MAX_BYTES / 1e9:g})",
    )
    add_workers(parser)


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point of ``python -m data_processing.reconstruct``."""
    parser = stage_parser(
        "reconstruct",
        "Turn raw logs into the true sequence of events of each session.",
        "--logs out/simulated/logs --profile vectorworks --out out/reconstruct",
    )
    add_arguments(parser)
    given = parser.parse_args(arguments)
    report = reconstruct(
        given.logs,
        load_profile(given.profile),
        given.out,
        overwrite=given.overwrite,
        max_bytes=given.max_bytes,
        metadata=given.metadata,
        workers=given_workers(given),
    )
    for stage in report["stages"]:
        print(f"{stage['stage']:<10} {stage['rows_in']:>12,} -> {stage['rows_out']:>12,}")
    print(f"{given.out}: finish with python -m data_processing.filter --events {given.out} --out DIR")
    print("(before it, where the profile has them: split, align, redundancy; data_processing.run does all of it)")


if __name__ == "__main__":
    raise SystemExit(main())

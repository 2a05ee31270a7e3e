"""Stage 1 of the data processing: raw logs to the true sequence of events.

Reads, keeps categories, drops noise, forms sessions, undoes what was undone, collapses repeats. Writes a folder that
`data_processing.filter` finishes. Memory does not grow with the size of the log.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from recsys.cleaning.funnel import Funnel
from recsys.cleaning.parser import CLOCK, KIND
from recsys.cleaning.pipeline import select_rows
from recsys.cleaning.profile import Profile, load_profile
from recsys.cleaning.sessions import EVENT_COLUMNS, HASH, add_hash, clean_sessions, key_column
from recsys.cleaning.sources import LogReader
from recsys.cleaning.spill import ROWS_A_GROUP, Spill, fine_buckets
from recsys.cleaning.streams import DEFAULT_MAX_BYTES
from recsys.config import save_config
from recsys.runtime import atomic_folder, command_line, progress
from recsys.schema import CATEGORY, ITEM_ID, SESSION_ID, TIMESTAMP, USER_ID

LISTED = 200  # file names in a report
GROUPS_FILE, METADATA_FILE, REPORT_FILE = "users.parquet", "metadata.parquet", "report.json"


def reconstruct(
    logs: Path,
    profile: Profile,
    out: Path,
    *,
    overwrite: bool = False,
    max_bytes: int = DEFAULT_MAX_BYTES,
    metadata: Path | None = None,
    rows_a_part: int = ROWS_A_GROUP,
) -> dict[str, Any]:
    """Clean `logs` into the folder `out` (appears by rename) and return its report.

    Writes ``events/part-*.parquet``, ``cleaning/profile.yaml``, ``report.json``, and where they exist
    ``users.parquet`` (every user of the raw log) and ``metadata.parquet`` (what is known about commands).
    The events do not depend on `rows_a_part`, which bounds memory.

    Raises:
        InputError: unreadable input, or no event is left.
    """
    with atomic_folder(out, replace=overwrite, markers=(REPORT_FILE,)) as work:
        reader = LogReader(logs, profile, max_bytes, metadata)
        funnel, users = Funnel(), _Users()
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            spill = Spill(Path(scratch), _spill_schema(profile), fine_buckets(reader.size()))
            for frame in reader.frames():
                users.add(frame)
                spill.add(add_hash(select_rows(frame, profile, funnel), profile))
            funnel.require_rows(logs)
            _write_events(spill, profile, funnel, work / "events", reader.columns, rows_a_part)
        funnel.require_rows(logs)
        report = {"source": str(logs), "profile": profile.name, **_input_report(reader), "stages": funnel.to_list()}
        _write_rest(work, profile, reader, users, report)
    return report


def _spill_schema(profile: Profile) -> dict[str, pl.DataType]:
    schema: dict[str, pl.DataType] = {key_column(profile): pl.String(), ITEM_ID: pl.String(), KIND: pl.UInt8()}
    if profile.columns.user:
        schema[USER_ID] = pl.String()
    if profile.columns.category:
        schema[CATEGORY] = pl.String()
    if any("<clock>" in (form.pattern or "") for form in profile.times):
        schema[CLOCK] = pl.Int64()
    return {**schema, TIMESTAMP: pl.Int64(), HASH: pl.UInt32()}


def _write_events(
    spill: Spill, profile: Profile, funnel: Funnel, folder: Path, present: set[str], rows_a_part: int
) -> None:
    folder.mkdir()
    present = present | {SESSION_ID, ITEM_ID, "merge_count"}
    columns = [c for c in EVENT_COLUMNS if c in present]
    number = 0
    for rows in progress(spill.groups(rows_a_part), "clean", unit="part"):
        events = clean_sessions(rows, profile, funnel).select(columns)
        if events.height:
            events.write_parquet(folder / f"part-{number:05d}.parquet")
            number += 1


def _input_report(reader: LogReader) -> dict[str, Any]:
    names = list(reader.files)
    return {
        "input": {
            "files": len(names),
            "rows": dict(list(reader.files.items())[:LISTED]),
            "skipped": len(reader.skipped),
            "skipped_names": reader.skipped[:LISTED],
            "decompressed_bytes": reader.budget.used,
        }
    }


def _write_rest(work: Path, profile: Profile, reader: LogReader, users: "_Users", report: dict[str, Any]) -> None:
    (work / "cleaning").mkdir()
    save_config(profile, work / "cleaning" / "profile.yaml")
    if USER_ID in reader.columns:
        users.table().write_parquet(work / GROUPS_FILE)
    if reader.metadata is not None:
        reader.metadata.write_parquet(work / METADATA_FILE)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (work / REPORT_FILE).write_text(text + "\n", encoding="utf-8")


class _Users:
    """Every user of the raw log, those included whose rows all leave: a split by rule counts them."""

    def __init__(self) -> None:
        self._found: list[pl.Series] = []

    def add(self, frame: pl.DataFrame) -> None:
        if USER_ID in frame.columns:
            self._found.append(frame[USER_ID].drop_nulls().unique())
            if len(self._found) > 64:
                self._found = [pl.concat(self._found).unique()]

    def table(self) -> pl.DataFrame:
        """One row a user, sorted."""
        return pl.concat(self._found).unique().sort().to_frame(USER_ID)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that reading logs takes, for every command that does."""
    parser.add_argument("--logs", type=Path, required=True, help="file, folder or archive of raw logs")
    parser.add_argument("--profile", default="vectorworks", help="cleaning rules: built-in name or YAML file")
    parser.add_argument("--metadata", type=Path, help="table of commands; default: the profile's, in or beside --logs")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; appears when all went well")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    parser.add_argument(
        "--max-gigabytes",
        type=float,
        default=DEFAULT_MAX_BYTES / 1e9,
        help="cap on the decompressed size of the input (default %(default)g)",
    )


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point of ``python -m data_processing.reconstruct``."""
    parser = argparse.ArgumentParser(
        prog="python -m data_processing.reconstruct",
        description="Turn raw logs into the true sequence of events of each session.",
        epilog="example: python -m data_processing.reconstruct --logs log.tar.xz --profile visual_studio --out raw",
    )
    add_arguments(parser)
    given = parser.parse_args(arguments)
    report = reconstruct(
        given.logs,
        load_profile(given.profile),
        given.out,
        overwrite=given.overwrite,
        max_bytes=round(given.max_gigabytes * 1e9),
        metadata=given.metadata,
    )
    for stage in report["stages"]:
        print(f"{stage['stage']:<10} {stage['rows_in']:>12,} -> {stage['rows_out']:>12,}")
    print(f"{given.out}: finish with python -m data_processing.filter --events {given.out} --out DIR")


if __name__ == "__main__":
    raise SystemExit(main())

"""The folders that stages hand to one another: events in parts of whole sessions, with the profile they came from."""

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import polars as pl

from recsys.buckets import Engine, Workers
from recsys.cleaning.profile import Profile, load_profile
from recsys.errors import InputError, one_line

REPORT_FILE, COMMANDS_FILE = "report.json", "commands.parquet"


class EventsFolder:
    """A folder with ``events/part-*.parquet``, ``cleaning/profile.yaml`` and ``report.json``."""

    def __init__(self, path: Path, profile: Profile | None = None) -> None:
        """Open `path`; `profile`: rules that replace those it was made with, from here on.

        Raises:
            InputError: not such a folder, or one without events.
        """
        self.path = path
        saved = path / "cleaning" / "profile.yaml"
        if not (path / "events").is_dir() or not saved.is_file():
            why = "events/ or cleaning/ is missing" if path.is_dir() else "there is none"
            raise InputError(f"{path}: not a folder of data_processing.reconstruct, filter or workflows ({why})")
        self.profile = load_profile(saved) if profile is None else profile
        self.parts = sorted((path / "events").glob("part-*.parquet"))
        if not self.parts:
            raise InputError(f"{path}: events/ holds no part-*.parquet")
        for part in self.parts:
            with _naming(part):
                pl.read_parquet_schema(part)  # stands at the end of a file, so one that was cut off has none

    @property
    def columns(self) -> list[str]:
        """Columns of the events."""
        return list(pl.read_parquet_schema(self.parts[0]))

    def require_unfiltered(self) -> None:
        """Raise where `data_processing.filter` has been here: it renames, drops and merges what is counted."""
        if (self.path / COMMANDS_FILE).is_file():
            raise InputError(f"{self.path}: is filtered already; give the folder of data_processing.reconstruct")

    def report(self) -> dict[str, Any]:
        """What the stages so far have counted."""
        path = self.path / REPORT_FILE
        try:
            report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); run the stage that writes it again") from error
        return report


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        why = f"not a readable Parquet file (cut off?): {one_line(error)}"
        raise InputError(f"{path}: {why}; run the stage that wrote it again") from error


def read_table(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a Parquet file that a stage wrote; `columns`: only these.

    Raises:
        InputError: it is damaged or lacks a column.
    """
    with _naming(path):
        return pl.read_parquet(path, columns=None if columns is None else list(columns))


def refuse_inside(out: Path, logs: Path) -> None:
    """Raise where `out` would be written into the folder `logs`, and read as a log by the next run."""
    if logs.is_dir() and out.resolve().is_relative_to(logs.resolve()):
        raise InputError(f"{out}: lies in {logs}, whose files are read as logs; choose another --out")


def default_cache(out: Path) -> Path:
    """Where a stage that runs alone keeps what services answered: beside its folder, as `data_processing.run` does."""
    return out.absolute().with_name("cache")


def write_json(path: Path, values: Any) -> None:
    """Write indented JSON, names as they are."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def file_in(path: Path, name: str) -> Path:
    """The file that `path` is, or the file `name` of the folder that it is."""
    return path / name if path.is_dir() else path


def link_or_copy(source: Path, target: Path) -> None:
    """The same file in another folder, without its bytes where the file system can link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def stage_parser(stage: str, description: str, example: str) -> argparse.ArgumentParser:
    """The parser of ``python -m data_processing.STAGE``; `example`: its arguments, shown in one line to be copied."""
    command = f"python -m data_processing.{stage}"
    return argparse.ArgumentParser(
        prog=command,
        description=description,
        epilog=f"example:\n  {command} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The flags that say who runs independent parts."""
    parser.add_argument("--engine", choices=get_args(Engine), default="loop", help="who runs the parts (default loop)")
    workers = "processes, or CPUs of a local Ray"
    parser.add_argument("--workers", type=_count, default=os.cpu_count() or 1, metavar="N", help=workers)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}': expected a whole number from 1 on")
    return int(text)


def given_workers(given: argparse.Namespace) -> Workers:
    """What these flags say."""
    return Workers(given.engine, given.workers)

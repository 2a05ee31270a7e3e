"""The whole of cleaning in one call."""

import html
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import polars as pl

from data_processing.chain import Settings
from data_processing.parts import REPORT_FILE
from data_processing.run import run
from recsys.buckets import LOOP, Workers
from recsys.cleaning.profile import Profile, load_profile
from recsys.cleaning.streams import DEFAULT_MAX_BYTES
from recsys.config import SplitConfig
from recsys.errors import ConfigError, InputError
from recsys.runtime import atomic_folder


@dataclass(frozen=True)
class CleanResult:
    """A finished events folder; shows its funnel as a table in a notebook."""

    path: Path
    report: dict[str, Any]

    @property
    def events(self) -> pl.LazyFrame:
        """All events: session_id, item_id, timestamp, ..., rows of a session together and in order."""
        return pl.scan_parquet(self.path / "events" / "part-*.parquet")

    @property
    def commands(self) -> pl.DataFrame:
        """One row a command: item_id, count (in training), kept, and what is known about it."""
        return pl.read_parquet(self.path / "commands.parquet")

    @property
    def splits(self) -> pl.DataFrame:
        """One row a group: group, split."""
        return pl.read_parquet(self.path / "splits.parquet")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open a folder written before."""
        if not (path / REPORT_FILE).is_file() or not (path / "commands.parquet").is_file():
            raise InputError(f"{path}: not an events folder; `clean` or data_processing.filter writes one")
        return cls(path, json.loads((path / REPORT_FILE).read_text(encoding="utf-8")))

    def __repr__(self) -> str:
        result = self.report["result"]
        return (
            f"CleanResult({str(self.path)!r}: {result['events']:,} events, {result['sessions']:,} sessions, "
            f"{result['commands']:,} commands)"
        )

    def _repr_html_(self) -> str:
        rows = []
        for stage in self.report["stages"]:
            why = "; ".join(f"{html.escape(reason)}: {count:,}" for reason, count in stage["removed"].items())
            cells = (html.escape(stage["stage"]), f"{stage['rows_in']:,}", f"{stage['rows_out']:,}", why or "–")
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        head = "".join(f"<th>{name}</th>" for name in ("stage", "rows in", "rows out", "why rows left"))
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        return f"<p>{html.escape(repr(self))}</p>{table}"


def clean(
    logs: str | Path,
    profile: str | Path | Profile,
    out: str | Path,
    *,
    split: SplitConfig | None = None,
    overwrite: bool = False,
    max_bytes: int = DEFAULT_MAX_BYTES,
    metadata: Path | None = None,
    workflows: bool = False,
    workers: Workers = LOOP,
) -> CleanResult:
    """Raw logs to the events folder that ETL reads: `data_processing.run` without the folders in between.

    Args:
        logs: a file, a folder or an archive (csv, json lines, Parquet; plain, gz, xz, zst; tar of those).
        profile: cleaning rules: a `Profile`, a built-in name (``vectorworks``) or the path of a YAML file.
        out: the folder to write; it appears by rename when all went well.
        split: how groups are assigned to train, validation and test; None: `SplitConfig()`.
        overwrite: replace `out` where it exists.
        max_bytes: cap on the decompressed size of `logs`.
        metadata: table of commands (class, target, description); None: as the profile names it, in or beside `logs`.
        workflows: whether frequent sub-sequences become commands of their own, as the profile's `workflows` says.
        workers: who runs independent parts.

    Raises:
        InputError, ConfigError: one line that names the file, the row, the value and the fix.
    """
    rules = profile if isinstance(profile, Profile) else load_profile(profile)
    out = Path(out)
    settings = Settings(
        logs=Path(logs),
        profile=rules,
        split=split or SplitConfig(),
        metadata=metadata,
        until="workflows" if workflows else "filter",
        max_bytes=max_bytes,
        workers=workers,
    )
    if workflows and rules.workflows is None:
        raise ConfigError(f"profile {rules.name}: has no section 'workflows'; add one, or leave out workflows=True")
    with atomic_folder(out, replace=overwrite, markers=(REPORT_FILE,)) as work:
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            for path in run(settings, Path(scratch) / "stages").iterdir():
                path.rename(work / path.name)
        report = json.loads((work / REPORT_FILE).read_text(encoding="utf-8"))
    return CleanResult(out, report)

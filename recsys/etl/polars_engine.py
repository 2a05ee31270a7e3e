"""Events to a sequence dataset, part by part, so that memory is bounded by the largest part.

Parts hold whole sessions: those that cleaning wrote, or the session-hash buckets of a bare table. Up to three
passes: pairs of group and item (where the split is not given), counts of the training events, sequences.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.config import RunConfig
from recsys.errors import InputError, SchemaError
from recsys.etl.events import Events, open_events
from recsys.etl.plan import Plan
from recsys.etl.split import (
    GROUP,
    SPLIT,
    SPLITS,
    Occurrences,
    SplitResult,
    assign_splits,
    group_column,
    group_expression,
)
from recsys.etl.windows import chunk_column
from recsys.etl.workflow import CHUNK, Workflow
from recsys.runtime import atomic_folder, progress
from recsys.schema import ITEM_ID, SESSION_ID, Schema


@dataclass(frozen=True)
class Preprocessed:
    """A sequence dataset on disk."""

    path: Path
    schema: Schema
    report: dict[str, Any]

    def summary(self) -> pl.DataFrame:
        """One row a split: groups, events read, sequences and events written."""
        rows = [{SPLIT: name, **_flat(self.report["splits"][name])} for name in SPLITS]
        return pl.DataFrame(rows)


def _flat(split: dict[str, Any]) -> dict[str, int]:
    return {name: value for name, value in split.items() if isinstance(value, int)}


def preprocess(
    events: Path | str | pl.DataFrame,
    config: RunConfig | None,
    out: Path | str,
    *,
    workflow: Path | str | Workflow | None = None,
    commands: pl.DataFrame | None = None,
    overwrite: bool = False,
) -> Preprocessed:
    """Split by groups, fit on train, and write a sequence dataset.

    `out` holds schema.json, train/, val/, test/, workflow/, cleaning/ and report.json; it appears when all is
    written.

    Args:
        events: a folder that cleaning wrote (its splits.parquet holds), a .parquet, .csv or .csv.gz table
            with session_id, item_id, timestamp, or a frame.
        config: `split`, `etl` and `seed` are used; None: defaults.
        workflow: a fitted one (or its folder) instead of fitting; `config.etl` is then not used.
        commands: attributes of the items, for tables and frames (a folder brings its own).

    Raises:
        InputError, ConfigError, SchemaError: one line that names the place and the fix.
    """
    config = config or RunConfig()
    source = events if isinstance(events, pl.DataFrame) else Path(events)
    fitted = Workflow.load(Path(workflow)) if isinstance(workflow, str | Path) else workflow
    with atomic_folder(Path(out), replace=overwrite, markers=("schema.json", "report.json")) as folder:
        with tempfile.TemporaryDirectory(prefix=".buckets.", dir=folder) as work:
            job = _Job.open(source, config, fitted, commands, Path(work))
            report = job.run(folder)
        job.workflow.schema.save(folder / "schema.json")
        job.workflow.save(folder / "workflow")
        if job.events.cleaning is not None:
            shutil.copytree(job.events.cleaning, folder / "cleaning")
            funnel = job.events.cleaning.parent / "report.json"
            if funnel.is_file():
                shutil.copyfile(funnel, folder / "cleaning" / "report.json")
        text = json.dumps(report, indent=2, ensure_ascii=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    return Preprocessed(Path(out), job.workflow.schema, report)


@dataclass
class _Tally:
    """What became of one split's events."""

    groups: int = 0
    events_in: int = 0
    events_out: int = 0
    sequences: int = 0
    dropped_events: dict[str, int] = field(default_factory=dict)
    dropped_sequences: dict[str, int] = field(default_factory=dict)


@dataclass
class _Job:
    """One run of `preprocess`."""

    events: Events
    commands: pl.DataFrame | None
    config: RunConfig
    workflow: Workflow
    is_fitted: bool
    by: str
    splits: SplitResult | None
    only: pl.DataFrame | None = None  # the prepared part where there is one part: no need to read it again

    @classmethod
    def open(
        cls,
        source: Path | pl.DataFrame,
        config: RunConfig,
        fitted: Workflow | None,
        commands: pl.DataFrame | None,
        work: Path,
    ) -> "_Job":
        workflow = fitted or Workflow(config)
        numbers = list(workflow.config.continuous)
        events = open_events(source, work, numbers)
        if events.cleaning is not None and events.splits is None:
            fix = f"python -m data_processing.filter --events {events.name} --out DIR"
            raise InputError(f"{events.name}: reconstructed but not filtered yet; run {fix}")
        commands = events.commands if commands is None else commands
        if fitted is None:
            workflow.begin(events.columns, commands, events.name)
        else:
            _require_columns(events, fitted.plan)
        if events.splits is not None:
            by = str(events.splits.report["by"])
        else:
            by = group_column(config.split, events.columns, events.name)
        return cls(events, commands, config, workflow, fitted is not None, by, events.splits)

    @property
    def is_document(self) -> bool:
        rule = self.splits.report.get("rule") if self.splits else self.config.split.rule
        return rule == "document"

    def run(self, folder: Path) -> dict[str, Any]:
        if self.splits is None:
            pairs = Occurrences()
            for frame in self._frames("Groups"):
                pairs.add(frame.select(GROUP, ITEM_ID))
            self.splits = assign_splits(pairs.pairs(), self.config.split, self.by)
        if not self.is_fitted:
            for frame in self._frames("Fit"):
                self.workflow.add(frame.filter(pl.col(SPLIT) == "train"))
            self.workflow.finish(self.commands, self.events.name)
        tallies = self._write(folder)
        return self._report(tallies)

    def _frames(self, what: str) -> Iterator[pl.DataFrame]:
        """Prepared parts, with the columns `group` and, once assigned, `split`."""
        plan = self.workflow.plan
        frames = self.events.frames(plan.read(self.events.columns), plan.numbers)
        if self.only is not None:
            yield self._marked(self.only)
            return
        for frame in progress(frames, what, total=len(self.events.parts), unit="part"):
            prepared = self.workflow.prepare(frame, self.events.name)
            if len(self.events.parts) == 1:
                self.only = prepared
            yield self._marked(prepared)

    def _marked(self, frame: pl.DataFrame) -> pl.DataFrame:
        chunk = self.workflow.config.chunk
        if self.is_document and self.events.splits is None and chunk is not None:
            # The paper cuts first and splits the pieces.
            cut = chunk_column(frame[SESSION_ID], chunk, self.workflow.seed)
            frame = frame.with_columns(cut)
            piece = pl.concat_str([pl.col(SESSION_ID), pl.col(CHUNK).cast(pl.String)], separator="#")
            frame = frame.with_columns(piece.alias(GROUP))
        else:
            frame = frame.with_columns(group_expression(self.by))
        if self.splits is None:
            return frame
        frame = frame.join(self.splits.assignment, on=GROUP, how="left", maintain_order="left")
        if frame[SPLIT].null_count():
            lost = frame.filter(pl.col(SPLIT).is_null())[GROUP][0]
            raise InputError(f"{self.events.name}: splits.parquet has no row for {self.by} '{lost}'; clean anew")
        return frame

    def _whole_sessions(self, frame: pl.DataFrame, seen: np.ndarray) -> np.ndarray:
        """Refuse a session that an earlier part held too; `seen` are hashes of sessions."""
        sessions = frame[SESSION_ID].unique()
        hashes = sessions.hash().to_numpy()
        twice = np.isin(hashes, seen)
        if twice.any():
            name = sessions.filter(pl.Series(twice))[0]
            raise InputError(f"{self.events.name}: session '{name}' lies in two parts; clean the logs anew")
        return np.concatenate([seen, hashes])

    def _write(self, folder: Path) -> dict[str, _Tally]:
        tallies = {name: _Tally() for name in SPLITS}
        groups = self.splits.report.get("groups", {}) if self.splits else {}
        written = dict.fromkeys(SPLITS, 0)
        for name in SPLITS:
            (folder / name).mkdir()
            tallies[name].groups = int(groups.get(name, 0))
        empty = None
        seen = np.zeros(0, dtype=np.uint64)
        for frame in self._frames("Sequences"):
            seen = self._whole_sessions(frame, seen)
            for name in SPLITS:
                rows = frame.filter(pl.col(SPLIT) == name).drop(GROUP, SPLIT)
                made = self.workflow.sequences(rows, training=name == "train")
                _add(tallies[name], made.rows_in, made.rows_out, made.frame.height)
                _merge(tallies[name].dropped_events, made.dropped_rows)
                _merge(tallies[name].dropped_sequences, made.dropped_sequences)
                empty = made.frame.clear() if empty is None else empty
                if made.frame.height:
                    made.frame.write_parquet(folder / name / f"part-{written[name]:05d}.parquet")
                    written[name] += 1
        for name in SPLITS:
            if not written[name] and empty is not None:
                empty.write_parquet(folder / name / "part-00000.parquet")
        if self.is_document:
            shutil.rmtree(folder / "test")
            shutil.copytree(folder / "val", folder / "test")
        return tallies

    def _report(self, tallies: dict[str, _Tally]) -> dict[str, Any]:
        splits = {name: dict(vars(tally)) for name, tally in tallies.items()}
        config = self.workflow.config
        report: dict[str, Any] = {
            "events_in": sum(t.events_in for t in tallies.values()),
            "events_out": sum(t.events_out for t in tallies.values()),
            "dropped": _totals(tallies),
            "splits": splits,
            "split": self.splits.report if self.splits else {},
            "chunk": config.chunk.model_dump() if config.chunk else None,
            "newest": config.newest,
            "min_length": config.min_length,
            "workflow": "given" if self.is_fitted else "fitted on train",
            "columns": json.loads(self.workflow.describe().write_json()),
            "warnings": self._warnings(tallies),
        }
        if self.is_document:
            report["test_is_val"] = True
            splits["test"] = dict(splits["val"])
        return report

    def _warnings(self, tallies: dict[str, _Tally]) -> list[str]:
        found = list(self.workflow.warnings)
        for name, tally in tallies.items():
            if not tally.sequences and not (name == "test" and self.is_document):
                found.append(f"the {name} split is empty")
        return found


def _require_columns(events: Events, plan: Plan) -> None:
    for column in plan.required:
        if column not in events.columns:
            raise SchemaError(
                f"{events.name}: column '{column}' is missing, which the given workflow was fitted with; "
                f"columns: {', '.join(events.columns)}"
            )


def _add(tally: _Tally, events_in: int, events_out: int, sequences: int) -> None:
    tally.events_in += events_in
    tally.events_out += events_out
    tally.sequences += sequences


def _merge(total: dict[str, int], more: dict[str, int]) -> None:
    for reason, number in more.items():
        total[reason] = total.get(reason, 0) + number


def _totals(tallies: dict[str, _Tally]) -> dict[str, int]:
    total: dict[str, int] = {}
    for tally in tallies.values():
        _merge(total, tally.dropped_events)
    return total

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
from recsys.errors import ConfigError, InputError, SchemaError
from recsys.etl.events import Events, open_events, read_parquet, to_microseconds
from recsys.etl.grouping import INFINITE
from recsys.etl.leakage import Leakage, summary, warm
from recsys.etl.plan import Plan, number_columns
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
from recsys.etl.split_sequences import SequenceSplit
from recsys.etl.users import ORIGIN, merges_users
from recsys.etl.windows import chunk_column
from recsys.etl.workflow import CHUNK, Sequences, Workflow
from recsys.runtime import atomic_folder, progress
from recsys.schema import ITEM_ID, SESSION_ID, TIMESTAMP, Schema


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

    def leakage(self) -> str:
        """What train and test share that they should not, in one line."""
        return summary(self.report["leakage"])


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
    blank: Workflow | None = None,
) -> Preprocessed:
    """Split, fit on train, and write a sequence dataset.

    `out` holds schema.json, train/, val/, test/, workflow/, cleaning/ and report.json; it appears when all is
    written.

    Args:
        events: a folder that cleaning wrote (its splits.parquet holds), a .parquet, .csv or .csv.gz table
            with session_id, item_id, timestamp, or a frame.
        config: `split`, `etl` and `seed` are used; None: defaults.
        workflow: a fitted one (or its folder) instead of fitting; `config.etl` is then not used.
        commands: attributes of the items, for tables and frames (a folder brings its own).
        blank: what to fit where no workflow is given: another engine's; None: ``Workflow(config)``.

    Raises:
        InputError, ConfigError, SchemaError: one line that names the place and the fix.
    """
    config = config or RunConfig()
    source = events if isinstance(events, pl.DataFrame) else Path(events)
    fitted = Workflow.load(Path(workflow)) if isinstance(workflow, str | Path) else workflow
    with atomic_folder(Path(out), replace=overwrite, markers=("schema.json", "report.json")) as folder:
        with tempfile.TemporaryDirectory(prefix=".buckets.", dir=folder) as work:
            job = _Job.open(source, config, fitted, commands, Path(work), blank)
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
    """What became of one split's events; those that a sequence holds as mere context count apart."""

    groups: int = 0
    events_in: int = 0
    events_out: int = 0
    sequences: int = 0
    dropped_events: dict[str, int] = field(default_factory=dict)
    dropped_sequences: dict[str, int] = field(default_factory=dict)
    noted_events: dict[str, int] = field(default_factory=dict)  # kept, see `Sequences.noted`; context counts too

    def add(self, made: Sequences, context: int) -> None:
        """Count what was made of one part, of whose events `context` belong to other splits."""
        self.events_in += made.rows_in - context
        self.events_out += made.rows_out - context
        self.sequences += made.frame.height
        _merge(self.dropped_events, made.dropped_rows)
        _merge(self.dropped_sequences, made.dropped_sequences)
        _merge(self.noted_events, made.noted)


@dataclass
class _Job:
    """One run of `preprocess`."""

    events: Events
    commands: pl.DataFrame | None
    config: RunConfig
    workflow: Workflow
    is_fitted: bool
    by: str
    splits: SplitResult | None  # a rule on groups: given, or assigned by `run`
    cut: SequenceSplit | None = None  # a rule inside sequences, once its points in time are known
    context: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    only: pl.DataFrame | None = None  # the prepared part where there is one part: no need to read it again

    @classmethod
    def open(
        cls,
        source: Path | pl.DataFrame,
        config: RunConfig,
        fitted: Workflow | None,
        commands: pl.DataFrame | None,
        work: Path,
        blank: Workflow | None = None,
    ) -> "_Job":
        workflow = fitted or blank or Workflow(config)
        events = open_events(source, work, number_columns(workflow.config), config.split)
        if events.cleaning is not None and events.splits is None:
            fix = f"python -m data_processing.filter --events {events.name} --out DIR"
            raise InputError(f"{events.name}: reconstructed but not filtered yet; run {fix}")
        if events.splits is not None and config.split.needs_events:
            raise ConfigError(
                f"split.rule: '{config.split.rule}', but {events.name} was split before it was cleaned (rule "
                f"{events.splits.report.get('rule')}); give the plain table {events.name}/events instead"
            )
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

    @property
    def is_merged(self) -> bool:
        """Whether sequences are users, whose sessions were brought together."""
        return self.events.splits is None and merges_users(self.config.split, self.events.columns)

    def run(self, folder: Path) -> dict[str, Any]:
        if self.splits is None and self.config.split.cuts_sequences:
            self.cut = SequenceSplit.fit(self.config.split, self.by, self._times)
        elif self.splits is None:
            pairs = Occurrences()
            for frame in self._frames("Groups"):
                pairs.add(frame.select(GROUP, ITEM_ID))
            self.splits = assign_splits(pairs.pairs(), self.config.split, self.by)
        if not self.is_fitted:
            for frame in self._frames("Fit"):
                self.workflow.add(frame.filter(pl.col(SPLIT) == "train"))
            self.workflow.finish(self.commands, self.events.name)
        tallies, leakage = self._write(folder)
        return self._report(tallies, leakage, folder / "train")

    def _times(self) -> Iterator[pl.Series]:
        for part in self.events.parts:
            yield to_microseconds(read_parquet(part)[TIMESTAMP])

    def _frames(self, what: str) -> Iterator[pl.DataFrame]:
        """Prepared parts, with the columns `group` and, once assigned, `split`."""
        plan = self.workflow.plan
        wanted = plan.read(self.events.columns) + ([ORIGIN] if self.is_merged else [])
        frames = self.events.frames(wanted, plan.numbers)
        if self.only is not None:
            yield self._marked(self.only)
            return
        for frame in progress(frames, what, total=len(self.events.parts), unit="part"):
            prepared = self._prepared(frame)
            if len(self.events.parts) == 1:
                self.only = prepared
            yield self._marked(prepared)

    def _prepared(self, frame: pl.DataFrame) -> pl.DataFrame:
        if not self.is_merged:
            return self.workflow.prepare(frame, self.events.name)
        # Equal times of two sessions in the order of their names, not of the parts that they were read from.
        frame = frame.sort(SESSION_ID, TIMESTAMP, ORIGIN, maintain_order=True)
        return self.workflow.prepare(frame, self.events.name).with_columns(frame[ORIGIN])

    def _marked(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self.cut is not None:
            return self.cut.mark(frame)
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

    def _write(self, folder: Path) -> tuple[dict[str, _Tally], Leakage]:
        tallies = {name: _Tally() for name in SPLITS}
        written = dict.fromkeys(SPLITS, 0)
        for name in SPLITS:
            (folder / name).mkdir()
        empty: dict[str, pl.DataFrame] = {}
        leakage: Leakage | None = None
        seen = np.zeros(0, dtype=np.uint64)
        for frame in self._frames("Sequences"):
            seen = self._whole_sessions(frame, seen)
            leakage = leakage or Leakage(frame.columns, CHUNK if CHUNK in frame.columns else None)
            leakage.add(frame)
            if self.cut is not None:
                self.cut.count(frame)
            for name in SPLITS:
                made = self._sequences(frame, name, tallies[name], leakage)
                empty.setdefault(name, made.clear())
                if made.height:
                    made.write_parquet(folder / name / f"part-{written[name]:05d}.parquet")
                    written[name] += 1
        for name in SPLITS:
            if not written[name]:
                empty[name].write_parquet(folder / name / "part-00000.parquet")
        if self.is_document:
            shutil.rmtree(folder / "test")
            shutil.copytree(folder / "val", folder / "test")
        assert leakage is not None
        return tallies, leakage

    def _sequences(self, frame: pl.DataFrame, name: str, tally: _Tally, leakage: Leakage) -> pl.DataFrame:
        """What one split makes of a part."""
        own = pl.col(SPLIT) == name
        rows = frame.filter(own) if self.cut is None else self.cut.rows(frame, name)
        leakage.add_sequences(name, rows)
        made = self.workflow.sequences(rows.drop(GROUP, SPLIT, ORIGIN, strict=False), training=name == "train")
        if self.cut is None or name == "train":
            tally.add(made, 0)
            return made.frame
        context = rows.height - int(rows.select(own.sum()).item())
        tally.add(made, context)
        self.context[name] += context
        starts = self.cut.scored_from(rows, name)
        return made.frame.join(starts, on=SESSION_ID, how="left", maintain_order="left")

    def _report(self, tallies: dict[str, _Tally], leakage: Leakage, train: Path) -> dict[str, Any]:
        shared = leakage.report(train)
        split = self._split_report(shared)
        for name, tally in tallies.items():
            tally.groups = int(split.get("groups", {}).get(name, 0))
        splits = {name: dict(vars(tally)) for name, tally in tallies.items()}
        if self.cut is not None:
            for name in SPLITS:
                splits[name]["context_events"] = self.context[name]
        config = self.workflow.config
        report: dict[str, Any] = {
            "engine": self.workflow.engine,
            "events_in": sum(t.events_in for t in tallies.values()),
            "events_out": sum(t.events_out for t in tallies.values()),
            "dropped": _totals(tallies),
            "splits": splits,
            "split": split,
            "leakage": shared,
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

    def _split_report(self, shared: dict[str, Any]) -> dict[str, Any]:
        if self.cut is None:
            return self.splits.report if self.splits else {}
        report = self.cut.report()
        return report | {"warm": warm(shared)} if self.config.split.rule == "time" else report

    def _warnings(self, tallies: dict[str, _Tally]) -> list[str]:
        found = list(self.workflow.warnings)
        for name, tally in tallies.items():
            if not tally.sequences and not (name == "test" and self.is_document):
                found.append(f"the {name} split is empty")
            for reason, number in tally.noted_events.items():
                if reason.startswith(INFINITE) and (name != "train" or self.is_fitted):
                    column = reason.partition(":")[2]
                    found.append(f"column '{column}' has {number} infinite values in {name}; they are taken as missing")
        return found


def _require_columns(events: Events, plan: Plan) -> None:
    for column in plan.required:
        if column not in events.columns:
            raise SchemaError(
                f"{events.name}: column '{column}' is missing, which the given workflow was fitted with; "
                f"columns: {', '.join(events.columns)}"
            )


def _merge(total: dict[str, int], more: dict[str, int]) -> None:
    for reason, number in more.items():
        total[reason] = total.get(reason, 0) + number


def _totals(tallies: dict[str, _Tally]) -> dict[str, int]:
    total: dict[str, int] = {}
    for tally in tallies.values():
        _merge(total, tally.dropped_events)
    return total

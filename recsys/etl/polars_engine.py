"""Events to a sequence dataset, bucket by bucket, so that memory is bounded by the largest bucket.

Rows are spread over session-hash buckets once. Then up to three passes over the buckets: pairs of group and item (where
the split is not given), counts of the training events, sequences. Threads, processes or Ray run the buckets; what is
written does not depend on who does.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from recsys.buckets import Workers
from recsys.config import RunConfig
from recsys.errors import ConfigError, InputError, SchemaError
from recsys.etl.bucket_tasks import (
    Marker,
    Shared,
    Tally,
    bucket_file,
    count_training,
    groups_and_items,
    merge_numbers,
    write_sequences,
)
from recsys.etl.context import VaryingContext, locate
from recsys.etl.device import require_device
from recsys.etl.drift import DRIFT, Measured, Shape, read_shape
from recsys.etl.drift import summary as drift_summary
from recsys.etl.events import Events, open_events
from recsys.etl.fitted import Fitted
from recsys.etl.grouping import INFINITE, SAME_TIME
from recsys.etl.incremental import Extension
from recsys.etl.leakage import FirstPoints, Leakage, summary, warm
from recsys.etl.plan import Plan
from recsys.etl.split import SPLIT, SPLITS, SplitResult, assign_splits, collector, group_column
from recsys.etl.split_sequences import SequenceSplit
from recsys.etl.users import merges_users
from recsys.etl.workflow import Workflow
from recsys.runtime import atomic_folder, progress
from recsys.schema import USER_ID, Schema

Result = TypeVar("Result")
MOST_THREADS = 4  # buckets in memory at once
MERGED_AT_ONCE = 16  # counts of buckets


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

    def drift(self) -> list[str]:
        """How the events differ from those of the given or extended workflow; empty where there is none."""
        return drift_summary(self.report[DRIFT]) if DRIFT in self.report else []

    def lines(self) -> list[str]:
        """What a person should read below the summary: new ids, leakage, drift, notes, warnings."""
        found = []
        for column in self.schema.columns:
            if column.old_cardinality is not None:
                new = column.num_ids() - column.old_cardinality
                found.append(f"extended: column '{column.name}': {column.old_cardinality} old ids, {new} new")
        if self.report["split"]["rule"] != "none":
            found.append(f"leakage: {self.leakage()}")
        found += [f"drift: {line}" for line in self.drift()]
        same = sum(split["noted_events"].get(SAME_TIME, 0) for split in self.report["splits"].values())
        if same:
            found.append(f"note: {same} events have the time of the one before in their session; they stay as given")
        return found + [f"warning: {warning}" for warning in self.report["warnings"]]


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
    workers: Workers | None = None,
    engine: str = "cpu",
) -> Preprocessed:
    """Split, fit on train, and write a sequence dataset.

    `out` holds schema.json, train/, val/, test/, workflow/, cleaning/ and report.json; it appears when all is
    written.

    Args:
        events: a folder that cleaning wrote (its splits.parquet holds), a .parquet, .csv or .csv.gz table
            with session_id, item_id, timestamp, or a frame.
        config: `split`, `etl` and `seed` are used; None: defaults.
        workflow: a fitted one (or its folder, dataset or run) instead of fitting; `config.etl` is then not used.
        commands: attributes of the items, for tables and frames (a folder brings its own).
        blank: what to fit, or what adopts the given workflow: another engine's, or an `Extension` of a fitted one;
            None: ``Workflow(config)``.
        workers: who works on the buckets; None: threads of this process. All of them must see the folder of `out`.
        engine: "gpu" hands Polars' lazy frames to cuDF (extra `gpu`).

    Raises:
        InputError, ConfigError, SchemaError: one line that names the place and the fix.
    """
    config, device = config or RunConfig(), require_device(engine)
    source = events if isinstance(events, pl.DataFrame) else Path(events)
    fitted = Workflow.load(Path(workflow)) if isinstance(workflow, str | Path) else workflow
    if fitted is not None and blank is not None:
        fitted = blank.adopt(fitted)
    with atomic_folder(Path(out), replace=overwrite, markers=("schema.json", "report.json")) as folder:
        with tempfile.TemporaryDirectory(prefix=".buckets.", dir=folder) as work:
            job = _Job.open(source, config, fitted, commands, Path(work), blank)
            job.workers = workers or job.workers
            job.workflow.device = device
            if isinstance(workflow, str | Path):
                job.before = read_shape(Path(workflow))
            try:
                report = job.run(folder)
            except VaryingContext as error:
                raise locate(job.events, error, merge=job.is_merged) from None
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
class _Job:
    """One run of `preprocess`."""

    events: Events
    commands: pl.DataFrame | None
    config: RunConfig
    workflow: Workflow
    by: str
    work: Path
    is_given: bool  # the workflow is, so nothing is fitted
    splits: SplitResult | None  # a rule on groups: given, or assigned by `run`
    workers: Workers
    cut: SequenceSplit | None = None  # a rule inside sequences, once its points in time are known
    reference: Fitted | None = None  # what the events are compared with, whose own were of the shape `before`
    before: Shape | None = None

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
        events = open_events(source)
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
        splits = None if config.split.rule == "none" else events.splits
        by = str(splits.report["by"]) if splits else group_column(config.split, events.columns, events.name)
        reference, before = fitted.fitted if fitted else None, None
        if isinstance(workflow, Extension):
            reference, before = workflow.parent, workflow.shape
        # Polars, Arrow and numpy work outside the interpreter's lock; NVTabular has workers of its own.
        threads = min(MOST_THREADS, os.cpu_count() or 1) if workflow.engine == "polars" else 1
        return cls(
            events,
            commands,
            config,
            workflow,
            by,
            work,
            fitted is not None,
            splits,
            Workers("threads", threads),
            reference=reference,
            before=before,
        )

    @property
    def is_document(self) -> bool:
        rule = self.splits.report.get("rule") if self.splits else self.config.split.rule
        return rule == "document"

    @property
    def is_merged(self) -> bool:
        """Whether sequences are users, whose sessions were brought together."""
        return self.events.splits is None and merges_users(self.config.split, self.events.columns)

    def run(self, folder: Path) -> dict[str, Any]:
        shared = self._spread(folder)
        if self.splits is None and self.config.split.cuts_sequences:
            self.cut = SequenceSplit.fit(self.config.split, self.by, shared.buckets.times)
        elif self.splits is None and self.config.split.rule != "none":
            found = collector(self.config.split)
            for pairs in self._each("Groups", groups_and_items, shared):
                found.add(pairs)
            self.splits = assign_splits(found, self.config.split, self.by)
        shared = replace(shared, marker=self._marker(self.splits.assignment if self.splits else None))
        firsts, counts = [], []
        for counted in self._each("Count", count_training, shared):
            firsts.append(counted.firsts)
            counts.append(counted.counts)
            if len(counts) == MERGED_AT_ONCE:
                self.workflow.take(counts)
                counts = []
        if not self.is_given:
            self.workflow.take(counts)
            self.workflow.finish(self.commands, self.events.name)
        tallies, leakage, measured = self._write(replace(shared, firsts=FirstPoints.merge(firsts)))
        return self._report(tallies, leakage.report(), measured)

    def _spread(self, folder: Path) -> Shared:
        plan, work = self.workflow.plan, self.work
        wanted = plan.read(self.events.columns)
        forms = plan.list_forms(self.workflow.config)
        buckets = self.events.spread(work, wanted, plan.numbers, plan.event_text, forms, merge=self.is_merged)
        return Shared(buckets, self.workflow, self._marker(None), folder, reference=self.reference)

    def _marker(self, assignment: pl.DataFrame | None) -> Marker:
        config = self.workflow.config
        pieces = config.chunk if self.is_document and self.events.splits is None else None
        into = self.config.split.into if self.config.split.rule == "none" else None
        return Marker(self.by, assignment, self.cut, into, pieces, self.workflow.seed)

    def _each(self, what: str, task: Callable[[Shared, Path], Result], shared: Shared) -> Iterator[Result]:
        """Results of the task for every bucket, in order."""
        paths = shared.buckets.paths
        yield from progress(self.workers.run(partial(task, shared), paths), what, total=len(paths), unit="part")

    def _write(self, shared: Shared) -> tuple[dict[str, Tally], Leakage, Measured]:
        folder = shared.folder
        for name in SPLITS:
            (folder / name).mkdir()
        tallies, measured = {name: Tally() for name in SPLITS}, Measured()
        leakage: Leakage | None = None
        for made in self._each("Sequences", write_sequences, shared):
            for name, tally in made.tallies.items():
                tallies[name].add(tally)
            measured = measured.merge(made.measured)
            if self.cut is not None and made.cut is not None:
                self.cut.add(made.cut)
            if leakage is None:
                leakage = made.leakage
            else:
                leakage.merge(made.leakage)
            empty = made.empty
        for name in SPLITS:
            files = [f for f in (bucket_file(folder, name, p) for p in shared.buckets.paths) if f.is_file()]
            for number, file in enumerate(files):
                file.rename(folder / name / f"part-{number:05d}.parquet")
            if not files:
                empty[name].write_parquet(folder / name / "part-00000.parquet")
        if self.is_document:
            shutil.rmtree(folder / "test")
            shutil.copytree(folder / "val", folder / "test")
        assert leakage is not None
        return tallies, leakage, measured

    def _report(self, tallies: dict[str, Tally], shared: dict[str, Any], measured: Measured) -> dict[str, Any]:
        split = self._split_report(shared)
        for name, tally in tallies.items():
            tally.groups = int(split.get("groups", {}).get(name, 0))
        splits = {name: dict(vars(tally)) for name, tally in tallies.items()}
        if self.cut is None:
            for counts in splits.values():
                del counts["context_events"]
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
            "workflow": _origin(self.workflow, self.is_given),
            "columns": json.loads(self.workflow.describe().write_json()),
            "warnings": self._warnings(tallies),
            **measured.report(self.reference, self.before),
        }
        if self.is_document:
            report["test_is_val"] = True
            splits["test"] = dict(splits["val"])
        return report

    def _split_report(self, shared: dict[str, Any]) -> dict[str, Any]:
        if self.splits is not None:
            return self.splits.report
        if self.cut is None:
            kind = "users" if self.by == USER_ID else "sessions"
            groups = {name: shared["groups"][name][kind] for name in SPLITS}
            return {"by": self.by, "rule": "none", "into": self.config.split.into, "groups": groups}
        report = self.cut.report()
        return report | {"warm": warm(shared)} if self.config.split.rule == "time" else report

    def _warnings(self, tallies: dict[str, Tally]) -> list[str]:
        found = list(self.workflow.warnings)
        for name, tally in tallies.items():
            wanted = self.config.split.rule != "none" and not (name == "test" and self.is_document)
            if not tally.sequences and wanted:
                found.append(f"the {name} split is empty")
            for reason, number in tally.noted_events.items():
                if reason.startswith(INFINITE) and (name != "train" or self.is_given):
                    column = reason.partition(":")[2]
                    found.append(f"column '{column}' has {number} infinite values in {name}; they are taken as missing")
        return found


def _origin(workflow: Workflow, is_given: bool) -> str:
    if is_given:
        return "given"
    return "extended on train" if isinstance(workflow, Extension) else "fitted on train"


def _require_columns(events: Events, plan: Plan) -> None:
    for column in plan.required:
        if column not in events.columns:
            raise SchemaError(
                f"{events.name}: column '{column}' is missing, which the given workflow was fitted with; "
                f"columns: {', '.join(events.columns)}"
            )


def _totals(tallies: dict[str, Tally]) -> dict[str, int]:
    total: dict[str, int] = {}
    for tally in tallies.values():
        merge_numbers(total, tally.dropped_events)
    return total

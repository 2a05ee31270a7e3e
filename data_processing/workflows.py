"""Stage 5 of the data processing: frequent sub-sequences become composite commands, learned from the training groups.

Byte-pair encoding over what `data_processing.filter` wrote: the most frequent pair of neighbours becomes one command,
again and again (`recsys.cleaning.fitting.WorkflowConfig` says until when). Rare and excluded commands never merge, and
nothing merges across sessions. A workflow of which longer ones leave fewer than min_count events is marked as a step
and names no event. A session that merging leaves shorter than the profile's min_length stays, counted: it holds as
many commands as before, and figures with and without workflows speak of the same sessions.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_processing.pair_encoding import PairEncoder, least_count, make_blocks
from data_processing.parts import (
    COMMANDS_FILE,
    REPORT_FILE,
    EventsFolder,
    add_workers,
    given_workers,
    link_or_copy,
    read_table,
    stage_parser,
    write_json,
)
from recsys.buckets import LOOP, Workers
from recsys.cleaning.fitting import WorkflowConfig
from recsys.cleaning.funnel import Funnel
from recsys.cleaning.workflows import BORDER, CONSTITUENTS, WORKFLOWS_FILE, Workflow, Workflows, encode
from recsys.config import save_config
from recsys.errors import ConfigError, InputError, nearest
from recsys.etl.plan import KEPT
from recsys.etl.split import GROUP, SPLIT, group_expression, load_splits
from recsys.runtime import atomic_folder, command_line, progress
from recsys.schema import DESCRIPTION, ITEM_ID, SESSION_ID

COUNT = "count"  # of commands.parquet: events in the training groups
SPLITS_FILES = ("splits.parquet", "splits.json")
_SHOWN = 20  # workflows that are printed


def learn_workflows(
    events: Path,
    out: Path,
    *,
    overwrite: bool = False,
    config: WorkflowConfig | None = None,
    workflows: Path | None = None,
    workers: Workers = LOOP,
) -> dict[str, Any]:
    """Learn workflows from the folder `events` of `data_processing.filter`, apply them, and write a like folder `out`.

    Parts are read one by one, twice; learning holds 4 bytes an event of the training groups.

    Args:
        events: the folder; its splits say which groups are for training.
        out: the folder to write; it appears by rename when all went well.
        overwrite: replace `out` where it exists.
        config: what to learn; None: section `workflows` of the profile, or `WorkflowConfig()` without one.
        workflows: a ``workflows.json``, edited perhaps, to apply instead of learning.
        workers: who reads and writes the parts; learning runs in this process.

    Returns:
        The report: that of `events` with a stage `workflows`, and `vocabulary` under `result`.

    Raises:
        InputError, ConfigError: one line that names the file, the entry and the fix.
    """
    run = _Run(EventsFolder(events), config, workers)
    found = Workflows.load(workflows) if workflows else run.learn()
    found.require_commands(run.frequent, run.known[ITEM_ID].to_list(), workflows or WORKFLOWS_FILE)
    with atomic_folder(out, replace=overwrite, markers=(REPORT_FILE, COMMANDS_FILE)) as work:
        run.write(work / "events", found)
        run.commands(found).write_parquet(work / COMMANDS_FILE)
        shutil.copytree(events / "cleaning", work / "cleaning")
        if config is not None:
            profile = run.folder.profile.model_copy(update={"workflows": config})
            save_config(profile, work / "cleaning" / "profile.yaml")
        found.save(work / "cleaning")
        for name in SPLITS_FILES:
            link_or_copy(events / name, work / name)
        report = run.report(found)
        write_json(work / REPORT_FILE, report)
    return report


@dataclass(frozen=True)
class _Part:
    """One part of a folder; what splits it by `by` lies in `folder`."""

    path: Path
    folder: Path
    by: str

    def splits(self, events: pl.DataFrame) -> pl.Series:
        """Of each event its split."""
        groups = events.select(group_expression(self.by))
        wanted = pl.col(GROUP).is_in(groups[GROUP].unique().implode())
        table = pl.scan_parquet(self.folder / SPLITS_FILES[0]).filter(wanted).collect()
        splits = groups.join(table, on=GROUP, how="left", maintain_order="left")
        if splits[SPLIT].null_count():
            group = splits.filter(pl.col(SPLIT).is_null())[GROUP][0]
            raise InputError(f"{self.folder / SPLITS_FILES[0]}: no group '{group}' of {self.path.name}; filter again")
        return splits[SPLIT]


@dataclass(frozen=True)
class _Read:
    part: _Part
    numbers: dict[str, int]


def _read_part(task: _Read) -> tuple[np.ndarray, int]:
    """Symbols of the training sessions, a border before each, and how many pairs of neighbours they hold."""
    events = read_table(task.part.path)
    train = events.filter(task.part.splits(events) == "train")
    first = np.flatnonzero((train[SESSION_ID] != train[SESSION_ID].shift()).fill_null(True).to_numpy())
    return np.insert(encode(train[ITEM_ID], task.numbers), first, BORDER), train.height - len(first)


@dataclass(frozen=True)
class _Apply:
    part: _Part
    target: Path
    workflows: Workflows
    min_length: int


@dataclass
class _Applied:
    """Counts of one part, or of several."""

    funnel: Funnel = field(default_factory=Funnel)
    train: Counter[str] = field(default_factory=Counter)  # events of each item in the training groups
    events: Counter[str] = field(default_factory=Counter)  # of each split
    short: int = 0  # sessions under the profile's min_length
    single: int = 0  # sessions of one event

    def add(self, other: "_Applied") -> None:
        self.funnel.merge(other.funnel)
        self.train.update(other.train)
        self.events.update(other.events)
        self.short += other.short
        self.single += other.single


def _apply_part(task: _Apply) -> _Applied:
    found = _Applied()
    before = read_table(task.part.path)
    after = task.workflows.apply(before)
    merged = before.height - after.height
    composite = after.height - after[CONSTITUENTS].null_count()
    why = {"merged into a workflow": merged} if merged else {}
    found.funnel.count("workflows", before.height, after.height, why, workflow_events=composite)
    splits = task.part.splits(after)
    found.train.update(dict(after.filter(splits == "train")[ITEM_ID].value_counts().iter_rows()))
    found.events.update(dict(splits.value_counts().iter_rows()))
    lengths = after.group_by(SESSION_ID).len()["len"]
    found.short = int((lengths < task.min_length).sum())
    found.single = int((lengths == 1).sum())
    after.write_parquet(task.target)
    return found


class _Run:
    """The passes over the parts of one events folder."""

    def __init__(self, folder: EventsFolder, config: WorkflowConfig | None, workers: Workers) -> None:
        for name in (COMMANDS_FILE, *SPLITS_FILES):
            if not (folder.path / name).is_file():
                raise InputError(f"{folder.path}: no {name} in it; give a folder of data_processing.filter")
        if (folder.path / "cleaning" / WORKFLOWS_FILE).is_file():
            raise InputError(f"{folder.path}: holds workflows already; give the folder of data_processing.filter")
        self.folder, self.workers = folder, workers
        self.config = config or folder.profile.workflows or WorkflowConfig()
        by = load_splits(folder.path).report["by"]
        self.parts = [_Part(path, folder.path, by) for path in folder.parts]
        self.known = read_table(folder.path / COMMANDS_FILE)
        self.frequent = set(self.known.filter(KEPT)[ITEM_ID].to_list())
        self.found = _Applied()

    def learn(self) -> Workflows:
        config = self.config
        lists = self._fixed_lists()
        commands = sorted(self.frequent - set(config.exclude))
        number = {command: symbol for symbol, command in enumerate(commands, 1)}
        blocks, pairs = self._read(number)
        encoder = PairEncoder(
            blocks,
            [(), *((command,) for command in commands)],
            threshold=least_count(config.min_count, config.min_share, pairs),
            max_length=config.max_length,
            collapse=config.collapse,
        )
        names = set(self.known[ITEM_ID].to_list())
        entries: list[Workflow] = []
        for fixed in lists:
            entries.append(_entry(fixed, encoder.merge_list([number[command] for command in fixed]), pairs, names))
        for merge in progress(encoder.learn(config.merges), "merge", total=config.merges, unit="merge"):
            left, right = list(merge.left), list(merge.right)
            entry = _entry([*left, *right], merge.count, pairs, names)
            entries.append(entry.model_copy(update={"left": left, "right": right}))
        left_over = encoder.symbol_counts()[1 + len(commands) :]
        for entry, count in zip(entries, left_over.tolist(), strict=True):
            entry.step = entry.left is not None and count < config.min_count
        return Workflows(pairs=pairs, collapse=config.collapse, merges=entries)

    def _read(self, number: dict[str, int]) -> tuple[list[np.ndarray], int]:
        """The training sessions as blocks of symbols, and how many pairs of neighbours they hold."""
        tasks = [_Read(part, number) for part in self.parts]
        pairs = 0

        def pieces() -> Iterator[np.ndarray]:
            nonlocal pairs
            read = self.workers.run(_read_part, tasks)
            for symbols, inside in progress(read, "read", total=len(tasks), unit="part"):
                pairs += inside
                yield symbols

        return list(make_blocks(pieces())), pairs

    def _fixed_lists(self) -> list[list[str]]:
        """The lists of the profile, longest first; every command must be a known one that may merge."""
        lists = self.config.lists
        excluded = set(self.config.exclude)
        for number, commands in enumerate(lists):
            if commands in lists[:number]:
                raise ConfigError(f"workflows.lists.{number}: stands twice; remove one of the two")
            for command in commands:
                where = f"workflows.lists.{number}: '{command}'"
                if command in excluded:
                    raise ConfigError(f"{where} is under workflows.exclude too; remove it from one of the two")
                if command not in self.frequent:
                    if command in self.known[ITEM_ID]:
                        raise ConfigError(f"{where} is rare in the training groups; remove it, or lower rare.min_count")
                    hint = nearest(command, self.frequent)
                    hint = hint if "did you mean" in hint else f"; see {self.folder.path / COMMANDS_FILE}"
                    raise ConfigError(f"{where} is no command of these events{hint}")
        return sorted(lists, key=lambda commands: (-len(commands), commands))

    def write(self, folder: Path, workflows: Workflows) -> None:
        folder.mkdir()
        shortest = self.folder.profile.min_length
        tasks = [_Apply(part, folder / part.path.name, workflows, shortest) for part in self.parts]
        for part in progress(self.workers.run(_apply_part, tasks), "apply", total=len(tasks), unit="part"):
            self.found.add(part)

    def commands(self, workflows: Workflows) -> pl.DataFrame:
        """The commands of the folder and the workflows: by count in training, then name."""
        # A rare command keeps its count: dropped ones are not in the events, and no other one merges.
        counts = [
            self.found.train[item] if kept else count
            for item, kept, count in self.known.select(ITEM_ID, KEPT, COUNT).iter_rows()
        ]
        plain = self.known.with_columns(pl.Series(COUNT, counts, dtype=pl.Int64))
        words = workflows.vocabulary()
        rows: dict[str, list[Any]] = {ITEM_ID: [m.name for m in words]}
        rows[COUNT] = [self.found.train[m.name] for m in words]
        rows[KEPT] = [True] * len(words)
        if DESCRIPTION in plain.columns:
            rows[DESCRIPTION] = [f"Workflow of {' + '.join(m.constituents)}" for m in words]
        composite = pl.DataFrame(rows, schema={name: plain.schema[name] for name in rows})
        return pl.concat([plain, composite], how="diagonal").sort(COUNT, ITEM_ID, descending=[True, False])

    def report(self, workflows: Workflows) -> dict[str, Any]:
        report = self.folder.report()
        report["stages"] += self.found.funnel.to_list()
        stage = self.found.funnel.stages["workflows"]
        result = report.setdefault("result", {})
        result["events"] = stage.rows_out
        result["events_of_split"] = dict(sorted(self.found.events.items()))
        result["vocabulary"] = {
            "commands": result.get("commands", len(self.frequent)),
            "workflows": len(workflows.vocabulary()),
            "fixed_lists": sum(m.left is None for m in workflows.merges),
            "steps": len(workflows.merges) - len(workflows.vocabulary()),
            "events_per_token": round(stage.rows_in / max(1, stage.rows_out), 4),
            "short_sessions": self.found.short,
            "single_token_sessions": self.found.single,
        }
        return report


def _entry(commands: list[str], count: int, pairs: int, names: set[str]) -> Workflow:
    """A workflow named after its commands, or, where `names` has that, with a number; adds the name."""
    plain = name = "Workflow: " + " + ".join(commands)
    number = 1
    while name in names:
        number += 1
        name = f"{plain} ({number})"
    names.add(name)
    return Workflow(name=name, constituents=commands, count=count, share=round(min(1.0, count / max(1, pairs)), 8))


def _table(workflows: Workflows, file: Path) -> str:
    shown = workflows.merges[:_SHOWN]
    lines = [f"{'count':>9} {'share':>7}  workflow"]
    lines += [f"{m.count:>9,} {m.share:>7.3%}  {m.name}{' (step)' if m.step else ''}" for m in shown]
    more = len(workflows.merges) - len(shown)
    return "\n".join([*lines, f"... and {more:,} more in {file}"] if more else lines)


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point of ``python -m data_processing.workflows``."""
    parser = stage_parser(
        "workflows",
        "Learn workflows (byte-pair encoding) from the training groups and apply them to all events.",
        "--events out/filter --out out/workflows",
    )
    parser.add_argument("--events", type=Path, required=True, help="folder of data_processing.filter")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; appears when all went well")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--workflows", type=Path, help="apply this workflows.json, edited perhaps; learn nothing")
    source.add_argument("--merges", type=int, help="learn at most so many (default: as the profile says)")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    add_workers(parser)
    given = parser.parse_args(arguments)
    config = None
    if given.merges is not None:
        if given.merges < 0:
            raise ConfigError(f"--merges {given.merges}: give 0 or more")
        profile = EventsFolder(given.events).profile
        config = (profile.workflows or WorkflowConfig()).model_copy(update={"merges": given.merges})
    report = learn_workflows(
        given.events,
        given.out,
        overwrite=given.overwrite,
        config=config,
        workflows=given.workflows,
        workers=given_workers(given),
    )
    file = given.out / "cleaning" / WORKFLOWS_FILE
    print(_table(Workflows.load(file), file))
    words, result = report["result"]["vocabulary"], report["result"]
    print(
        f"{given.out}: {result['events']:,} events ({words['events_per_token']:.2f} commands each), "
        f"{words['commands']:,} commands and {words['workflows']:,} workflows"
    )


if __name__ == "__main__":
    raise SystemExit(main())

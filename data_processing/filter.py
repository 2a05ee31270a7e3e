"""Stage 4 of the data processing: what was fitted is applied; writes the events folder that ETL reads.

Order: names become labels (stage 2); redundant commands leave (stage 3); equal neighbours that this brings together
collapse; sessions that are too short leave; commands that are rare in the training groups leave (or stay, marked);
equal neighbours collapse again; sessions that this left too short leave. A command that training has never seen is not
rare but unknown: it stays, out of vocabulary.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from data_processing.parts import (
    COMMANDS_FILE,
    REPORT_FILE,
    EventsFolder,
    add_workers,
    file_in,
    given_workers,
    read_table,
    stage_parser,
    write_json,
)
from data_processing.reconstruct import METADATA_FILE
from data_processing.split import split_groups
from recsys.buckets import LOOP, Workers
from recsys.cleaning.dictionary import Dictionary
from recsys.cleaning.funnel import Funnel
from recsys.cleaning.profile import Profile, load_profile
from recsys.cleaning.redundancy import Redundancy
from recsys.cleaning.rules import Rules, align_events, drop_commands
from recsys.cleaning.sources import attributes
from recsys.config import SplitConfig, load_config, save_config
from recsys.errors import ConfigError, InputError
from recsys.etl.plan import KEPT
from recsys.etl.split import GROUP, SPLIT, SplitResult, group_column, group_expression, load_splits
from recsys.runtime import atomic_folder, command_line, note, progress
from recsys.schema import ITEM_ID, SESSION_ID

COUNT = "count"
_MANY_UNKNOWN = 0.05  # share of events from which on a dictionary seems to be of another log


def filter_events(
    events: Path,
    out: Path,
    *,
    split: SplitConfig | None = None,
    splits: Path | None = None,
    dictionary: Path | None = None,
    redundancy: Path | None = None,
    profile: Profile | None = None,
    overwrite: bool = False,
    workers: Workers = LOOP,
) -> dict[str, Any]:
    """Finish what `data_processing.reconstruct` wrote to `events`; returns the report of all stages so far.

    Writes ``events/part-*.parquet``, ``commands.parquet``, ``splits.parquet``, ``splits.json``, ``cleaning/`` and
    ``report.json``. Parts are read one by one: memory does not grow with the number of sessions.

    Args:
        events: folder of data_processing.reconstruct.
        out: folder to write; it appears by rename when all went well.
        split: how groups are assigned, where `splits` does not say.
        splits: folder of data_processing.split.
        dictionary: ``command_dictionary.csv`` of data_processing.align, or the folder with it.
        redundancy: ``redundancy.csv`` of data_processing.redundancy, or the folder with it.
        profile: rules from here on; None: those of `events`.
        overwrite: replace `out` where it exists.
        workers: who runs the parts.

    Raises:
        InputError: no such folder or file, or no event is left (names the stage that let nothing through).
    """
    folder = EventsFolder(events, profile)
    folder.require_unfiltered()
    if redundancy is not None and folder.profile.redundancy is None:
        raise ConfigError(f"profile {folder.profile.name}: has no section 'redundancy', which gives the window")
    rules = Rules(
        dictionary=Dictionary.load(file_in(dictionary, "command_dictionary.csv")) if dictionary else None,
        redundancy=Redundancy.load(file_in(redundancy, "redundancy.csv"), folder.profile.redundancy)
        if redundancy and folder.profile.redundancy
        else None,
    )
    assigned = load_splits(splits) if splits else split_groups(events, split, profile)
    with atomic_folder(out, replace=overwrite, markers=(REPORT_FILE, COMMANDS_FILE)) as work:
        run = _Filter(folder, assigned, rules, workers)
        run.write(work)
        run.commands().write_parquet(work / COMMANDS_FILE)
        (work / "cleaning").mkdir()
        save_config(folder.profile, work / "cleaning" / "profile.yaml")
        run.rules.save(work / "cleaning")
        report = folder.report()
        report["stages"] += run.funnel.to_list()
        report["result"] = run.facts()
        write_json(work / REPORT_FILE, report)
    if dictionary is not None:
        _note_unknown(run.funnel, dictionary)
    return report


def _note_unknown(funnel: Funnel, dictionary: Path) -> None:
    stage = funnel.stages["align"]
    unknown = stage.facts["not_in_dictionary"]
    if unknown:
        share = unknown / stage.rows_in
        why = "; was it made of another log?" if share >= _MANY_UNKNOWN else ""
        what = f"{unknown:,} of {stage.rows_in:,} events ({share:.1%}) keep their names, which are not in it"
        note(f"{dictionary}: {what}{why}")


@dataclass
class _Found:
    """Counts of one part, or of several."""

    funnel: Funnel = field(default_factory=Funnel)
    train: Counter[str] = field(default_factory=Counter)  # events of each command in the training groups
    items: set[str] = field(default_factory=set)
    events: Counter[str] = field(default_factory=Counter)  # of each split
    sessions: Counter[str] = field(default_factory=Counter)

    def add(self, other: "_Found") -> None:
        self.funnel.merge(other.funnel)
        self.train.update(other.train)
        self.items |= other.items
        self.events.update(other.events)
        self.sessions.update(other.sessions)

    def count(self, events: pl.DataFrame, source: Path, splits: Path, by: str) -> None:
        """Count the events of a part by their splits (a folder with splits.parquet)."""
        marked = events.with_columns(group_expression(by))
        groups = marked[GROUP].unique()
        table = pl.scan_parquet(splits / "splits.parquet").filter(pl.col(GROUP).is_in(groups.implode())).collect()
        marked = marked.join(table, on=GROUP, how="left", maintain_order="left")
        if marked[SPLIT].null_count():
            group = marked.filter(pl.col(SPLIT).is_null())[GROUP][0]
            raise InputError(f"{source}: group '{group}' is not in the splits; give those made of these events")
        self.train.update(_counts(marked.filter(pl.col(SPLIT) == "train")[ITEM_ID]))
        self.items.update(marked[ITEM_ID].unique().to_list())
        self.events.update(_counts(marked[SPLIT]))
        self.sessions.update(_counts(marked.unique(SESSION_ID)[SPLIT]))


@dataclass(frozen=True)
class _Task:
    """Apply `rules` to one part and write it where events are left. `first`: all of them, else only rare commands."""

    source: Path
    target: Path
    splits: Path
    by: str
    profile: Profile
    rules: Rules
    first: bool


def _filter_part(task: _Task) -> _Found:
    found, profile = _Found(), task.profile
    events = read_table(task.source)
    if task.first:
        events = align_events(events, profile, task.rules, found.funnel)
        events = _drop_short("length", events, profile, found.funnel)
    else:
        events = drop_commands(events, task.rules.dropped_commands, profile.collapse, found.funnel)
        events = _drop_short("length after rare", events, profile, found.funnel)
    found.count(events, task.source, task.splits, task.by)
    if events.height:
        events.write_parquet(task.target)
    return found


def _drop_short(stage: str, events: pl.DataFrame, profile: Profile, funnel: Funnel) -> pl.DataFrame:
    short = pl.lit(f"session of under {profile.min_length} events")
    reason = pl.when(pl.len().over(SESSION_ID) < profile.min_length).then(short).otherwise(None)
    return funnel.drop(stage, events, events.select(reason.alias("reason"))["reason"])


class _Filter:
    """The passes over the parts of one events folder."""

    def __init__(self, folder: EventsFolder, splits: SplitResult, rules: Rules, workers: Workers) -> None:
        self.folder, self.profile = folder, folder.profile
        self.splits, self.rules, self.workers = splits, rules, workers
        self.by = group_column(SplitConfig(by=splits.report["by"]), folder.columns, folder.path)
        self.funnel = Funnel()
        self.before = _Found()  # before rare commands leave
        self.after = _Found()

    def write(self, work: Path) -> None:
        """Write the events and the splits into `work`."""
        self.splits.save(work)
        self.before = self._pass(self.folder.parts, work / "events", work, first=True)
        self.funnel.merge(self.before.funnel)
        self.funnel.require_rows(self.folder.path)
        if self.profile.rare.action == "drop":
            self.rules = self.rules.dropping(sorted(i for i in self.before.items if self.is_rare(i)))
        self.after = self.before
        if self.rules.dropped_commands:
            (work / "events").rename(work / "all")
            parts = sorted((work / "all").glob("part-*.parquet"))
            self.after = self._pass(parts, work / "events", work, first=False)
            shutil.rmtree(work / "all")
            self.funnel.merge(self.after.funnel)
            self.funnel.require_rows(self.folder.path)

    def _pass(self, parts: list[Path], target: Path, splits: Path, first: bool) -> _Found:
        target.mkdir()
        tasks = [_Task(p, target / p.name, splits, self.by, self.profile, self.rules, first) for p in parts]
        found = _Found()
        for part in progress(self.workers.run(_filter_part, tasks), "filter", total=len(tasks), unit="part"):
            found.add(part)
        return found

    def is_rare(self, item: str) -> bool:
        """Whether training has seen `item`, but too seldom."""
        return 0 < self.before.train[item] < self.profile.rare.min_count

    def commands(self) -> pl.DataFrame:
        """One row a command: by count, then name; of dropped ones the count that made them rare."""
        dropped = set(self.rules.dropped_commands)
        rows = [
            (item, (self.before if item in dropped else self.after).train[item], not self.is_rare(item))
            for item in self.before.items
        ]
        schema = {ITEM_ID: pl.String, COUNT: pl.Int64, KEPT: pl.Boolean}
        table = pl.DataFrame(rows, schema=schema, orient="row").sort(COUNT, ITEM_ID, descending=[True, False])
        return attributes(table, self._metadata(), self.profile.metadata)

    def _metadata(self) -> pl.DataFrame | None:
        """What is known about commands, by label: the label's own row first, then those of its other names."""
        path = self.folder.path / METADATA_FILE
        if not path.is_file():
            return None
        table = read_table(path)
        if self.rules.dictionary is None:
            return table
        label = self.rules.dictionary.apply(table.select(ITEM_ID), self.profile.align)[ITEM_ID].alias("label")
        table = table.with_columns(label).sort(pl.col(ITEM_ID) != pl.col("label"), "label", ITEM_ID)
        known = pl.all().exclude(ITEM_ID, "label").drop_nulls().first()
        return table.group_by("label", maintain_order=True).agg(known).rename({"label": ITEM_ID})

    def facts(self) -> dict[str, Any]:
        """The result in figures."""
        commands = len(self.before.items) - len(self.rules.dropped_commands)
        return {
            "events": sum(self.after.events.values()),
            "sessions": sum(self.after.sessions.values()),
            "commands": commands,
            "rare_commands": sum(map(self.is_rare, self.before.items)),
            "vocabulary": {"commands": commands, "workflows": 0},
            "events_of_split": dict(sorted(self.after.events.items())),
            "sessions_of_split": dict(sorted(self.after.sessions.items())),
            "split_by": self.by,
            "groups_of_split": self.splits.report["groups"],
        }


def _counts(values: pl.Series) -> dict[str, int]:
    table = values.value_counts()
    return dict(zip(table[:, 0].to_list(), table[:, 1].to_list(), strict=True))


def _note_unused(profile: Profile, dictionary: Path | None, redundancy: Path | None) -> None:
    """Say which sections of the profile had no part in this, for want of a flag."""
    for section, flag, given, stays in (
        (profile.align, "--dictionary", dictionary, "names stay as the log has them"),
        (profile.redundancy, "--redundancy", redundancy, "redundant commands stay"),
    ):
        if section is not None and given is None:
            stage = "align" if section is profile.align else "redundancy"
            note(f"profile {profile.name} has a section '{stage}', but {flag} is not given: {stays}")


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point of ``python -m data_processing.filter``."""
    parser = stage_parser(
        "filter",
        "Apply dictionary and redundant pairs, drop rare commands and short sessions.",
        "--events out/reconstruct --splits out/split --dictionary out/align --redundancy out/redundancy "
        "--out out/filter",
    )
    parser.add_argument("--events", type=Path, required=True, help="folder of data_processing.reconstruct")
    parser.add_argument("--splits", type=Path, help="folder of data_processing.split (default: assigned here)")
    parser.add_argument(
        "--dictionary", type=Path, help="command_dictionary.csv, or the folder of data_processing.align"
    )
    parser.add_argument("--redundancy", type=Path, help="redundancy.csv, or the folder of data_processing.redundancy")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; appears when all went well")
    parser.add_argument("--config", "--config-path", type=Path, help="run YAML; its section 'split' is used")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for instance split.seed=1")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    add_workers(parser)
    given = parser.parse_args(arguments)
    report = filter_events(
        given.events,
        given.out,
        split=load_config(given.config, given.set).split,
        splits=given.splits,
        dictionary=given.dictionary,
        redundancy=given.redundancy,
        overwrite=given.overwrite,
        workers=given_workers(given),
    )
    _note_unused(load_profile(given.out / "cleaning" / "profile.yaml"), given.dictionary, given.redundancy)
    result = report["result"]
    print(f"{given.out}: {result['events']:,} events, {result['sessions']:,} sessions, {result['commands']:,} commands")


if __name__ == "__main__":
    raise SystemExit(main())

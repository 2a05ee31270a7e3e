"""Stage 4 of the data processing: splits, rare commands, short sessions; writes the events folder that ETL reads.

Order: sessions that are too short leave; groups are assigned to splits; commands that are rare in the training groups
leave (or stay, marked); equal neighbours that this brings together collapse; sessions that it left too short leave.
A command that training has never seen is not rare but unknown: it stays, out of vocabulary.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from data_processing.reconstruct import GROUPS_FILE, METADATA_FILE, REPORT_FILE
from recsys.cleaning.funnel import Funnel
from recsys.cleaning.pipeline import Rules, drop_commands
from recsys.cleaning.profile import Profile, load_profile
from recsys.cleaning.sources import attributes
from recsys.config import SplitConfig, load_config, save_config
from recsys.errors import ConfigError, InputError
from recsys.etl.split import GROUP, SPLIT, Occurrences, SplitResult, assign_splits, group_column, group_expression
from recsys.runtime import atomic_folder, command_line, progress
from recsys.schema import ITEM_ID, SESSION_ID, USER_ID

COUNT, KEPT = "count", "kept"


def filter_events(
    events: Path, out: Path, *, split: SplitConfig | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Finish what `data_processing.reconstruct` wrote to `events`; returns the report of both.

    Writes ``events/part-*.parquet``, ``commands.parquet``, ``splits.parquet``, ``splits.json``, ``cleaning/`` and
    ``report.json``. Parts are read one by one, three times: memory does not grow with the number of sessions.

    Raises:
        InputError: no such folder, or no event is left (names the stage that let nothing through).
    """
    if not (events / "events").is_dir() or not (events / "cleaning" / "profile.yaml").is_file():
        raise InputError(f"{events}: not a folder of data_processing.reconstruct (events/ or cleaning/ is missing)")
    if split is not None and split.rule == "document":
        raise ConfigError(
            "split.rule: 'document' splits pieces of sessions, which `recsys preprocess` does: give it the plain table "
            f"{events / 'events'}, with etl.chunk set"
        )
    profile = load_profile(events / "cleaning" / "profile.yaml")
    with atomic_folder(out, replace=overwrite, markers=(REPORT_FILE,)) as work:
        run = _Filter(events, profile, split or SplitConfig())
        splits = run.assign()
        run.count_commands(splits)
        run.funnel.require_rows(events)
        run.write(work / "events", splits)
        run.funnel.require_rows(events)
        splits.save(work)
        run.commands().write_parquet(work / "commands.parquet")
        (work / "cleaning").mkdir()
        save_config(profile, work / "cleaning" / "profile.yaml")
        run.rules.save(work / "cleaning")
        report = json.loads((events / REPORT_FILE).read_text(encoding="utf-8"))
        report["stages"] += run.funnel.to_list()
        report["result"] = run.facts(splits)
        text = json.dumps(report, indent=2, ensure_ascii=False)
        (work / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    return report


class _Filter:
    """The passes over the parts of one events folder."""

    def __init__(self, folder: Path, profile: Profile, split: SplitConfig) -> None:
        self.folder, self.profile, self.split = folder, profile, split
        self.parts = sorted((folder / "events").glob("part-*.parquet"))
        if not self.parts:
            raise InputError(f"{folder}: events/ holds no part-*.parquet")
        self.by = group_column(split, list(pl.read_parquet_schema(self.parts[0])), folder)
        self.funnel = Funnel()
        self.rules = Rules()
        self.train_counts: Counter[str] = Counter()  # before rare commands leave
        self.final_counts: Counter[str] = Counter()  # of events that are written
        self.events: Counter[str] = Counter()  # of each split
        self.sessions: Counter[str] = Counter()

    def assign(self) -> SplitResult:
        found = Occurrences()
        for _, part in self.long_enough("assign", Funnel()):
            found.add(part.select(group_expression(self.by), ITEM_ID))
        pairs = found.pairs()
        users = self.folder / GROUPS_FILE
        if self.by == USER_ID and self.split.rule in ("every_nth", "list") and users.is_file():
            # These rules speak of the users of the raw log, whether or not a session of theirs is left.
            alone = pl.read_parquet(users).select(group_expression(USER_ID), pl.lit(None, pl.String).alias(ITEM_ID))
            pairs = pl.concat([pairs, alone])
        return assign_splits(pairs, self.split, self.by)

    def long_enough(self, what: str, funnel: Funnel) -> Iterator[tuple[int, pl.DataFrame]]:
        for number, path in enumerate(progress(self.parts, what, unit="part")):
            yield number, self.drop_short("length", pl.read_parquet(path), funnel)

    def drop_short(self, stage: str, events: pl.DataFrame, funnel: Funnel) -> pl.DataFrame:
        smallest = self.profile.min_length
        short = pl.lit(f"session of under {smallest} events")
        reason = events.select(pl.when(pl.len().over(SESSION_ID) < smallest).then(short).otherwise(None).alias("r"))
        return funnel.drop(stage, events, reason["r"])

    def count_commands(self, splits: SplitResult) -> None:
        """Count commands in the training groups, and see which are rare."""
        for _, part in self.long_enough("count", self.funnel):
            train = self.with_split(part, splits).filter(pl.col(SPLIT) == "train")
            self.train_counts.update(_counts(train[ITEM_ID]))
            self.train_counts.update(dict.fromkeys(part[ITEM_ID].unique().to_list(), 0))
        if self.profile.rare.action == "drop":
            self.rules = Rules(dropped_commands=sorted(i for i in self.train_counts if self.is_rare(i)))

    def is_rare(self, item: str) -> bool:
        return 0 < self.train_counts[item] < self.profile.rare.min_count

    def with_split(self, events: pl.DataFrame, splits: SplitResult) -> pl.DataFrame:
        marked = events.with_columns(group_expression(self.by))
        return marked.join(splits.assignment, on=GROUP, how="left", maintain_order="left")

    def write(self, folder: Path, splits: SplitResult) -> None:
        folder.mkdir()
        for number, part in self.long_enough("filter", Funnel()):
            events = drop_commands(part, self.rules.dropped_commands, self.profile.collapse, self.funnel)
            if self.rules.dropped_commands:
                events = self.drop_short("length after rare", events, self.funnel)
            marked = self.with_split(events, splits)
            self.final_counts.update(_counts(marked.filter(pl.col(SPLIT) == "train")[ITEM_ID]))
            self.events.update(_counts(marked[SPLIT]))
            self.sessions.update(_counts(marked.unique(SESSION_ID)[SPLIT]))
            if events.height:
                events.write_parquet(folder / f"part-{number:05d}.parquet")

    def commands(self) -> pl.DataFrame:
        """One row a command: by count, then name; of dropped ones the count that made them rare."""
        dropped = set(self.rules.dropped_commands)
        rows = [
            (item, self.train_counts[item] if item in dropped else self.final_counts[item], not self.is_rare(item))
            for item in self.train_counts
        ]
        schema = {ITEM_ID: pl.String, COUNT: pl.Int64, KEPT: pl.Boolean}
        table = pl.DataFrame(rows, schema=schema, orient="row").sort(COUNT, ITEM_ID, descending=[True, False])
        known = self.folder / METADATA_FILE
        return attributes(table, pl.read_parquet(known) if known.is_file() else None, self.profile.metadata)

    def facts(self, splits: SplitResult) -> dict[str, Any]:
        return {
            "events": sum(self.events.values()),
            "sessions": sum(self.sessions.values()),
            "commands": len(self.train_counts) - len(self.rules.dropped_commands),
            "rare_commands": sum(map(self.is_rare, self.train_counts)),
            "events_of_split": dict(self.events),
            "sessions_of_split": dict(self.sessions),
            "split_by": self.by,
            "groups_of_split": splits.report["groups"],
        }


def _counts(values: pl.Series) -> dict[str, int]:
    table = values.value_counts()
    return dict(zip(table[:, 0].to_list(), table[:, 1].to_list(), strict=True))


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point of ``python -m data_processing.filter``."""
    parser = argparse.ArgumentParser(
        prog="python -m data_processing.filter",
        description="Assign splits, drop rare commands and short sessions.",
        epilog="example: python -m data_processing.filter --events out/raw --out out/events --config configs/run.yaml",
    )
    parser.add_argument("--events", type=Path, required=True, help="folder of data_processing.reconstruct")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; appears when all went well")
    parser.add_argument("--config", "--config-path", type=Path, help="run YAML; its section 'split' is used")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for instance split.seed=1")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    given = parser.parse_args(arguments)
    split = load_config(given.config, given.set).split
    report = filter_events(given.events, given.out, split=split, overwrite=given.overwrite)
    result = report["result"]
    print(f"{given.out}: {result['events']:,} events, {result['sessions']:,} sessions, {result['commands']:,} commands")


if __name__ == "__main__":
    raise SystemExit(main())

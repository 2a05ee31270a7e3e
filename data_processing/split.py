"""Between stages 1 and 2: every group (user, else session) goes to train, validation or test before anything is fitted.

Sessions under the profile's minimum length do not count. The coverage rule sees commands as the log names them: by
their id where the profile knows one (`align.id_pattern`), so that languages do not pass for different commands.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from data_processing.parts import EventsFolder, read_table, stage_parser
from data_processing.reconstruct import GROUPS_FILE
from recsys.cleaning.dictionary import CommandIds
from recsys.cleaning.profile import Profile
from recsys.config import SplitConfig, load_config
from recsys.errors import ConfigError
from recsys.etl.occurrences import Pairs
from recsys.etl.split import SplitResult, assign_splits, collector, group_column, group_expression
from recsys.runtime import atomic_folder, command_line, progress
from recsys.schema import ITEM_ID, SESSION_ID, USER_ID


def split_groups(events: Path, config: SplitConfig | None = None, profile: Profile | None = None) -> SplitResult:
    """Assign the groups of the folder `events` of data_processing.reconstruct; `profile`: None is the folder's own.

    Parts are read one by one; memory grows with commands and groups, not with events.

    Raises:
        InputError: no such folder.
        ConfigError: a rule that cannot be used here.
    """
    folder = EventsFolder(events, profile)
    split = config or SplitConfig()
    if split.needs_events:
        what, also = ("pieces of sessions", ", with etl.chunk set") if split.rule == "document" else ("sequences", "")
        raise ConfigError(
            f"split.rule: '{split.rule}' splits {what}, which `recsys preprocess` does: give it the plain table "
            f"{events / 'events'}{also}"
        )
    by = group_column(split, folder.columns, events)
    found, ids = collector(split), CommandIds(folder.profile.align)
    for path in progress(folder.parts, "split", unit="part"):
        part = read_table(path, list(dict.fromkeys([SESSION_ID, by, ITEM_ID])))
        long_enough = part.filter(pl.len().over(SESSION_ID) >= folder.profile.min_length)
        rows = long_enough.select(group_expression(by), _commands(long_enough[ITEM_ID], ids))
        found.add(Pairs.of(rows))
    pairs = found.pairs()
    users = events / GROUPS_FILE
    if by == USER_ID and split.rule in ("every_nth", "list") and users.is_file():
        # These rules speak of the users of the raw log, whether or not a session of theirs is left.
        alone = read_table(users).select(group_expression(USER_ID), pl.lit(None, pl.String).alias(ITEM_ID))
        pairs = pl.concat([pairs, alone])
    return assign_splits(pairs, split, by)


def _commands(items: pl.Series, ids: CommandIds) -> pl.Series:
    names = items.unique()
    return items.replace_strict(names, [ids.of(name) or name for name in names], return_dtype=pl.String)


def write_splits(
    events: Path,
    out: Path,
    config: SplitConfig | None = None,
    *,
    profile: Profile | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """`split_groups`, written to ``OUT/splits.parquet`` and ``OUT/splits.json``; returns its report."""
    with atomic_folder(out, replace=overwrite, markers=("splits.json",)) as work:
        result = split_groups(events, config, profile)
        result.save(work)
    return result.report


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point of ``python -m data_processing.split``."""
    parser = stage_parser(
        "split",
        "Assign users or sessions to train, validation and test before any rule is fitted.",
        "--events out/reconstruct --config configs/vectorworks.yaml --out out/split",
    )
    parser.add_argument("--events", type=Path, required=True, help="folder of data_processing.reconstruct")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; appears when all went well")
    parser.add_argument("--config", "--config-path", type=Path, help="run YAML; its section 'split' is used")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for instance split.seed=1")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    given = parser.parse_args(arguments)
    config = load_config(given.config, given.set).split
    report = write_splits(given.events, given.out, config, overwrite=given.overwrite)
    print(f"{given.out}: {json.dumps(report['groups'])} groups by {report['by']}, rule {report['rule']}")


if __name__ == "__main__":
    raise SystemExit(main())

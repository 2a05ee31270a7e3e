"""Stage 3 of the data processing: finds commands that always bring another one with them (association rules).

Counted over windows. Each event of the training groups has one: the next `rows` events of its session, as far as they
come at most `seconds` later. S is the set of all windows, S(A) the windows of the events A, and a window holds B at
most once however often B stands in it:

=================  ============================================================================================
support(A -> B)    windows in S(A) that hold B / windows in S
confidence(A -> B) windows in S(A) that hold B / windows in S(A)
support(B)         windows in S that hold B / windows in S
lift(A -> B)       confidence(A -> B) / support(B)
share_at_once      of the windows in S(A) that hold B, those whose first B comes within `at_once` seconds
=================  ============================================================================================

(The document's formulas with windows for sessions.) A collapsed event is one event, at the time of its first row.

Confidence is the plain share, not a bound: a rule drops an event only where its partner really stands, so a pair taken
in by a small count costs little. `share_at_once` however is what tells software from a person's habit, and it is held
to the lower end of its 95 % interval (Wilson, one-sided): two fast pairs of events out of five are evidence, two out of
a hundred are accidents. The lower end of confidence stands in the table, for the reader.

Of pairs that together would drop everything (A with B and B with A, or a longer circle) the strongest are kept, by
confidence, then lift, then name; a pair that would close the circle is not dropped (source ``cycle``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from data_processing.parts import EventsFolder, file_in, stage_parser, write_json
from data_processing.redundancy_counts import Aligner, PairCounter
from data_processing.redundancy_table import OVERRIDE, SOURCE, decide, require_known, unused_names
from recsys.cleaning.dictionary import DICTIONARY_FILE, Dictionary
from recsys.cleaning.fitting import RedundancyConfig
from recsys.cleaning.profile import Profile, load_profile
from recsys.cleaning.redundancy import DECISION, read_decisions
from recsys.errors import ConfigError
from recsys.etl.split import SplitResult, load_splits
from recsys.runtime import atomic_folder, command_line, note

TABLE_FILE, SUMMARY_FILE = "redundancy.csv", "redundancy.json"


def mine_redundancy(
    events: Path,
    splits: SplitResult | Path,
    profile: Profile,
    out: Path,
    *,
    dictionary: Aligner | Path | None = None,
    overrides: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the table of redundant pairs, ``OUT/redundancy.csv``, for a person to review; returns its summary.

    Columns: high, low, count_high, count_low (events), count_pair (windows), support, confidence, confidence_low (see
    above), lift, share_at_once, example (session and time of the first occurrence), decision (drop, keep), leaves
    (high, low), source (threshold, excluded, cycle, override), why (which thresholds it misses). Sorted by confidence,
    lift, names. `recsys.cleaning.redundancy.Redundancy.load` reads it, with whatever a person changed in it.

    Parts are read one by one; memory grows with the pairs that occur, not with events. The same events give the same
    bytes, however they lie in parts.

    Args:
        events: folder of data_processing.reconstruct.
        splits: which groups are training groups, or the folder with splits.parquet.
        profile: its section `redundancy` gives window, thresholds and direction.
        dictionary: labels of messages, applied first; or the file command_dictionary.csv, or the folder with it.
        overrides: CSV with high, low, decision and where wanted leaves; it wins, and may name any pair of commands
            that occur.
        overwrite: replace `out` where it exists.

    Raises:
        ConfigError: the profile has no section `redundancy`.
        InputError: unreadable input; in overrides an unknown command, a contradiction or a circle.
    """
    config = profile.redundancy
    if config is None:
        raise ConfigError(f"profile {profile.name}: has no section 'redundancy'; add one, or leave this stage out")
    folder = EventsFolder(events)
    folder.require_unfiltered()
    splits = load_splits(splits) if isinstance(splits, Path) else splits
    wanted = read_decisions(overrides, config.drop) if overrides else []
    aligner = _aligner(dictionary)
    counter = PairCounter(folder, splits, config, aligner)
    with atomic_folder(out, replace=overwrite, markers=(TABLE_FILE, SUMMARY_FILE)) as work:
        counter.count()
        if overrides:
            require_known(wanted, list(counter.known), overrides)
        candidates = counter.candidates([(pair.high, pair.low) for _, pair, _ in wanted])
        table = decide(candidates, config, wanted, overrides)
        table.write_csv(work / TABLE_FILE, float_precision=6)
        notes = unused_names(config, list(counter.known), aligner)
        summary = _summary(counter, table, config, notes)
        write_json(work / SUMMARY_FILE, summary)
    for line in notes:
        note(line)
    return summary


def _summary(counter: PairCounter, table: pl.DataFrame, config: RedundancyConfig, notes: list[str]) -> dict[str, Any]:
    return {
        "events": counter.events,
        "commands": len(counter.known),
        "pairs": counter.pairs,
        "listed": table.height,
        "dropped": int((table[DECISION] == "drop").sum()),
        "overrides": int((table[SOURCE] == OVERRIDE).sum()),
        "notes": notes,
        "whole_seconds": counter.whole_seconds and counter.events > 0,
        "thresholds": config.model_dump(mode="json"),
    }


def _aligner(dictionary: Aligner | Path | None) -> Aligner | None:
    return Dictionary.load(file_in(dictionary, DICTIONARY_FILE)) if isinstance(dictionary, Path) else dictionary


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point of ``python -m data_processing.redundancy``."""
    parser = stage_parser(
        "redundancy",
        "Find commands that always bring another one with them, and table them for review.",
        "--events out/reconstruct --splits out/split --dictionary out/align --out out/redundancy",
    )
    parser.add_argument("--events", type=Path, required=True, help="folder of data_processing.reconstruct")
    parser.add_argument("--splits", type=Path, required=True, help="folder of data_processing.split")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; appears when all went well")
    parser.add_argument("--profile", help="name or YAML file (default: the one that the events were made with)")
    parser.add_argument(
        "--dictionary", type=Path, help="command_dictionary.csv, or the folder of data_processing.align"
    )
    parser.add_argument("--overrides", type=Path, help="CSV with high, low, decision (drop, keep), which wins")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    given = parser.parse_args(arguments)
    profile = load_profile(given.profile) if given.profile else EventsFolder(given.events).profile
    summary = mine_redundancy(
        given.events,
        given.splits,
        profile,
        given.out,
        dictionary=given.dictionary,
        overrides=given.overrides,
        overwrite=given.overwrite,
    )
    print(f"{given.out / TABLE_FILE}: {summary['dropped']:,} redundant of {summary['listed']:,} pairs listed")
    if summary["whole_seconds"]:
        print("times are whole seconds: a gap of 0 s may be a person's, so look through the pairs")


if __name__ == "__main__":
    raise SystemExit(main())

"""Writes what docs/data_processing.md shows from real runs: the funnel's picture and the tables of its worked session.

    python -m scripts.update_docs

Generated logs of 100 users are cleaned; the session of the page's csv block is then cleaned by the rules that were
found. tests/test_docs.py fails where the page or the picture is not what this would write.
"""

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from data_processing.chain import Settings
from data_processing.run import run
from data_processing.simulate import simulate
from recsys.cleaning.funnel import Funnel
from recsys.cleaning.live import Change, LiveCleaner
from recsys.cleaning.pipeline import clean_logs
from recsys.cleaning.profile import Profile, load_profile
from recsys.cleaning.rules import Rules, align_events, apply_rules
from recsys.config import load_config
from recsys.errors import InputError
from recsys.report.svg import funnel_chart
from recsys.runtime import command_line
from recsys.schema import ITEM_ID, MERGE_COUNT, TIMESTAMP

ROOT = Path(__file__).resolve().parent.parent
PAGE, PICTURE = ROOT / "docs" / "data_processing.md", ROOT / "docs" / "funnel.svg"
PROFILE, USERS = "vectorworks", 100
CONFIG = ROOT / "configs" / "vectorworks.yaml"
_STYLE = """<style>
svg { font-family: system-ui, sans-serif; --paper: #fff; --ink: #1b2430; --kept: #0b63b0; --gone: #c9dcef; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #12161c; --ink: #e6eaf0; --kept: #6db3f2; --gone: #1f3a56; }
}
text { fill: var(--ink); font-size: 12px; }
.end { text-anchor: end; } .inside { fill: var(--paper); font-weight: 600; }
.bar { fill: var(--kept); } .gone { fill: var(--gone); }
</style>"""


def clean_generated(out: Path) -> Path:
    """Make `out`/simulated and `out`/cleaned by the page's two commands; returns the folder of the last stage."""
    simulate(out / "simulated", users=USERS)
    config = load_config(CONFIG)
    settings = Settings(out / "simulated" / "logs", load_profile(PROFILE), config.split)
    return run(settings, out / "cleaned")


def picture(cleaned: Path) -> str:
    """The funnel of a folder's report as an SVG file of its own."""
    stages = json.loads((cleaned / "report.json").read_text(encoding="utf-8"))["stages"]
    names = {s["stage"]: s["stage"].replace("repeats after alignment", "repeats again") for s in stages}
    rows = [(name, s["rows_in"], s["rows_out"]) for s in stages if (name := names[s["stage"]]) != "sessions"]
    svg = str(funnel_chart("Rows that each stage let through", rows))
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, close, rest = svg.partition(">")
    return head + close + _STYLE + rest.replace("</g><g>", "</g>\n<g>") + "\n"


def update(page: str, cleaning: Path) -> str:
    """The page with its generated tables written anew by the rules of a cleaning folder."""
    found = re.search(r"^```csv\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    if found is None:
        raise InputError(f"{PAGE.name}: no csv block with the raw session")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "session.csv"
        log.write_text(found.group(1), encoding="utf-8")
        session = _Session(log, load_profile(PROFILE), Rules.load(cleaning))
        for name, table in (("raw rows", session.raw_table()), ("events", session.event_table())):
            block = re.compile(rf"(?<=<!-- generated: {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
            if len(block.findall(page)) != 1:
                raise InputError(f"{PAGE.name}: expected one place '<!-- generated: {name} -->'")
            page = block.sub(table.replace("\\", r"\\"), page)
    return page


class _Session:
    """One session, row by row and stage by stage. Rows are known by their times, which must differ."""

    def __init__(self, log: Path, profile: Profile, rules: Rules) -> None:
        self.lines = log.read_text(encoding="utf-8").splitlines()
        self.log, self.profile, self.rules = log, profile, rules
        raw = pl.read_csv(log)
        self.messages = raw["message"].to_list()
        self.categories = raw["cat"].to_list()
        moments = raw["ts"].str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us")
        self.row_of = {time: row for row, time in enumerate(moments.dt.epoch("us").to_list(), start=1)}

    def raw_table(self) -> str:
        """What the flow tracking says of each row, as it comes."""
        cleaner = LiveCleaner(self.profile)
        cleaner.feed(self.lines[:1])
        said: list[str] = []
        for line in self.lines[1:]:
            before = _removed(cleaner.funnel)
            changes = cleaner.feed([line])
            why = ", ".join(_removed(cleaner.funnel) - before)
            seen = [self._said(change, len(said) + 1) for change in changes]
            said.append(f"leaves: {why}" if why else "; ".join(seen))
        rows = zip(self.categories, self.messages, said, strict=True)
        return _table("row | cat | message | what happens", [(n, *r) for n, r in enumerate(rows, start=1)])

    def _said(self, change: Change, row: int) -> str:
        of = self.row_of[change.timestamp]
        if of == row:
            return "event"
        return f"row {of} is back" if change.what == "restored" else f"row {of} leaves: {change.why}"

    def event_table(self) -> str:
        """The events after each stage, one row an event of stage 1; what left is a dash."""
        if self.rules.dictionary is None:
            raise InputError("the rules have no dictionary")
        first = clean_logs(self.log, self.profile)
        aligned = self.rules.dictionary.apply(first, self.profile.align)
        filtered = align_events(first, self.profile, self.rules, Funnel())
        last = apply_rules(first, self.profile, self.rules, Funnel())
        shown = [_names(events) for events in (first, aligned, filtered, last)]
        rows = [(self.row_of[time], *(names.get(time, "–") for names in shown)) for time in first[TIMESTAMP]]
        return _table("row | reconstruct | align | redundancy, filter | workflows", rows)


def _names(events: pl.DataFrame) -> dict[int, str]:
    """Of each event, by its time, the command and, where there are several, of how many rows."""
    return {
        event[TIMESTAMP]: event[ITEM_ID] + (f" ×{event[MERGE_COUNT]}" if event[MERGE_COUNT] > 1 else "")
        for event in events.to_dicts()
    }


def _removed(funnel: Funnel) -> Counter[str]:
    return sum((stage.removed for stage in funnel.stages.values()), Counter[str]())


def _table(head: str, rows: Sequence[Sequence[object]]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|" + "---|" * columns]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


@command_line
def main(arguments: Sequence[str]) -> None:
    """Write the page and the picture."""
    argparse.ArgumentParser(prog="python -m scripts.update_docs", description=__doc__).parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        cleaned = clean_generated(Path(folder))
        PICTURE.write_text(picture(cleaned), encoding="utf-8")
        page = update(PAGE.read_text(encoding="utf-8"), cleaned / "cleaning")
    PAGE.write_text(page, encoding="utf-8")
    print(f"{PAGE}\n{PICTURE}")


if __name__ == "__main__":
    sys.exit(main())

"""What cleaning learned from the training groups, and how it is applied: one order for batch, live and `recommend`.

dictionary (names to labels), redundant commands, equal neighbours, rare commands, equal neighbours, workflows.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import polars as pl
from pydantic import Field

from recsys.cleaning.dictionary import DICTIONARY_FILE, Dictionary
from recsys.cleaning.funnel import Funnel
from recsys.cleaning.profile import Profile
from recsys.cleaning.redundancy import Redundancy, redundancy_reasons
from recsys.cleaning.sessions import collapse, count_merged
from recsys.cleaning.workflows import WORKFLOWS_FILE, Workflows
from recsys.config import StrictModel, parse
from recsys.errors import InputError
from recsys.schema import ITEM_ID, SESSION_ID

RULES_FILE = "rules.json"


class _Saved(StrictModel):
    """``rules.json``."""

    dropped_commands: list[str] = Field(default_factory=list)
    redundancy: Redundancy | None = None


@dataclass(frozen=True)
class Rules:
    """What cleaning learned; all of it optional.

    A folder of it holds ``rules.json``, ``command_dictionary.csv`` and ``workflows.json``, the last two where used.
    """

    dropped_commands: list[str] = field(default_factory=list)  # rare in training, sorted
    redundancy: Redundancy | None = None
    dictionary: Dictionary | None = None
    workflows: Workflows | None = None

    def dropping(self, commands: list[str]) -> Self:
        """The same rules, with `commands` dropped."""
        return replace(self, dropped_commands=commands)

    def save(self, folder: Path) -> None:
        """Write the files into an existing folder."""
        saved = _Saved(dropped_commands=self.dropped_commands, redundancy=self.redundancy)
        text = json.dumps(saved.model_dump(mode="json"), indent=2, ensure_ascii=False)
        (folder / RULES_FILE).write_text(text + "\n", encoding="utf-8")
        if self.dictionary is not None:
            self.dictionary.save(folder / DICTIONARY_FILE)
        if self.workflows is not None:
            self.workflows.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a cleaning folder; one without any of the files has no rules.

        Raises:
            InputError: a file that cannot be read, or does not fit.
        """
        path = folder / RULES_FILE
        saved = _Saved()
        if path.is_file():
            try:
                saved = parse(_Saved, json.loads(path.read_text(encoding="utf-8")), path)
            except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
                raise InputError(f"{path}: cannot be read: {error}") from error
        dictionary, workflows = folder / DICTIONARY_FILE, folder / WORKFLOWS_FILE
        return cls(
            dropped_commands=saved.dropped_commands,
            redundancy=saved.redundancy,
            dictionary=Dictionary.load(dictionary) if dictionary.is_file() else None,
            workflows=Workflows.load(workflows) if workflows.is_file() else None,
        )


NO_RULES = Rules()


def apply_rules(events: pl.DataFrame, profile: Profile, rules: Rules, funnel: Funnel) -> pl.DataFrame:
    """Everything in `rules`, applied to cleaned events of whole sessions, rows of a session together and in order."""
    events = align_events(events, profile, rules, funnel)
    events = drop_commands(events, rules.dropped_commands, profile.collapse, funnel)
    return events if rules.workflows is None else rules.workflows.apply(events)


def align_events(events: pl.DataFrame, profile: Profile, rules: Rules, funnel: Funnel) -> pl.DataFrame:
    """Names become labels, redundant commands leave, equal neighbours that come about collapse."""
    if rules.dictionary is not None:
        aligned, unknown = rules.dictionary.apply_counted(events, profile.align)
        renamed = int((aligned[ITEM_ID] != events[ITEM_ID]).sum())
        funnel.count("align", events.height, events.height, {}, renamed=renamed, not_in_dictionary=unknown)
        events = aligned
    if rules.redundancy is not None:
        events = funnel.drop("redundancy", events, redundancy_reasons(events, SESSION_ID, rules.redundancy))
    if profile.collapse and (rules.dictionary is not None or rules.redundancy is not None):
        merged = collapse(events, SESSION_ID)
        count_merged("repeats after alignment", events, merged, funnel)
        events = merged
    return events


def drop_commands(events: pl.DataFrame, dropped: list[str], again: bool, funnel: Funnel) -> pl.DataFrame:
    """Drop events of the commands `dropped`; `again`: equal neighbours that come about collapse too."""
    if not dropped:
        return events
    rare = pl.col(ITEM_ID).is_in(dropped)
    reason = events.select(pl.when(rare).then(pl.lit("rare command")).otherwise(None)).to_series()
    kept = funnel.drop("rare", events, reason)
    if not again:
        return kept
    merged = collapse(kept, SESSION_ID)
    count_merged("repeats after rare", kept, merged, funnel)
    return merged

"""What alignment knows of each message before it merges any: count, category, id, name and language."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from data_processing.parts import read_table
from data_processing.services import UNKNOWN_LANGUAGE, LanguageIdentifier
from recsys.cleaning.dictionary import CommandIds
from recsys.cleaning.fitting import AlignConfig
from recsys.runtime import progress
from recsys.schema import CATEGORY, ITEM_ID, SESSION_ID

COUNT = "count"
ENGLISH = "en"
SHOWN_NAMES = 5
SHOWN_LENGTH = 100  # characters of a message in a note
_PARTS_AT_ONCE = 16  # of counts held before they are summed


@dataclass
class Message:
    """One item_id of the events."""

    text: str
    count: int  # events
    category: str | None  # the one it mostly has
    command_id: str | None  # None: without one, or it is not trusted
    name: str  # what is translated and compared
    language: str = UNKNOWN_LANGUAGE  # ISO 639 code
    translation: str | None = None  # None: not asked for, not needed, or failed

    @property
    def compared(self) -> str:
        """The name that clustering sees: in English where there is a translation, without case and key marks."""
        return plain_name(self.translation or self.name)


def plain_name(name: str) -> str:
    """A name without what menus add to it: ``&Save &As...``, ``保存(&S)`` become ``save as``, ``保存``."""
    text = unicodedata.normalize("NFKC", name)
    text = re.sub(r"\s*\(&\w\)", "", text).replace("&", "")
    text = re.sub(r"(\.\.\.|…)\s*$", "", text)
    return " ".join(text.split()).casefold() or name


def read_messages(parts: Sequence[Path], align: AlignConfig) -> list[Message]:
    """Every item_id of the events, most frequent first, equal counts by text."""
    counts: list[pl.DataFrame] = []
    for path in progress(parts, "messages", unit="part"):
        columns = [c for c in (ITEM_ID, CATEGORY) if c in pl.read_parquet_schema(path)]
        part = read_table(path, columns).drop_nulls(ITEM_ID)
        if CATEGORY not in columns:
            part = part.with_columns(pl.lit(None, pl.String).alias(CATEGORY))
        counts.append(part.group_by(ITEM_ID, CATEGORY).agg(pl.len().cast(pl.Int64).alias(COUNT)))
        if len(counts) >= _PARTS_AT_ONCE:
            counts = [_summed(counts)]
    by_category = _summed(counts).sort(ITEM_ID, COUNT, CATEGORY, descending=[False, True, False], nulls_last=True)
    table = by_category.group_by(ITEM_ID, maintain_order=True).agg(pl.col(COUNT).sum(), pl.col(CATEGORY).first())
    table = table.sort(COUNT, ITEM_ID, descending=[True, False])
    ids, named = CommandIds(align), re.compile(align.name_pattern) if align.name_pattern else None
    return [
        Message(text, count, category, ids.of(text), _name(text, named))
        for text, count, category in table.select(ITEM_ID, COUNT, CATEGORY).iter_rows()
    ]


def _summed(counts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(counts).group_by(ITEM_ID, CATEGORY).agg(pl.col(COUNT).sum())


def several_names(messages: list[Message], parts: Sequence[Path]) -> list[dict[str, Any]]:
    """Ids that go by several names within one session, which speaks one language: do different commands share them?

    One row an id, most suspect first: id, sessions (that hold it), several (sessions where it has two names or more),
    names (its most frequent ones). Names that a program makes up (``Open Recent - plan.vwx``) show up as well.
    """
    named: dict[str, list[Message]] = {}
    for message in messages:
        if message.command_id is not None:
            named.setdefault(message.command_id, []).append(message)
    suspects = {m.text: (i, m.compared) for i, group in named.items() if len(group) > 1 for m in group}
    if not suspects:
        return []
    rows = [(text, command_id, name) for text, (command_id, name) in suspects.items()]
    table = pl.DataFrame(rows, schema=dict.fromkeys((ITEM_ID, "id", "name"), pl.String), orient="row")
    held: Counter[str] = Counter()
    several: Counter[str] = Counter()
    for path in progress(parts, "ids", unit="part"):
        found = read_table(path, [SESSION_ID, ITEM_ID]).join(table, on=ITEM_ID, how="inner")
        names = found.group_by(SESSION_ID, "id").agg(pl.col("name").n_unique())
        held.update(names["id"].to_list())
        several.update(names.filter(pl.col("name") > 1)["id"].to_list())
    order = sorted(several, key=lambda i: (-several[i] / held[i], -several[i], i))
    return [
        {"id": i, "sessions": held[i], "several": several[i], "names": [m.text for m in named[i][:SHOWN_NAMES]]}
        for i in order
    ]


def _name(text: str, pattern: re.Pattern[str] | None) -> str:
    found = pattern.search(text) if pattern else None
    name = " ".join(group for group in found.groups() if group) if found else ""
    return name.strip() or text


def unused_patterns(messages: Sequence[Message], align: AlignConfig) -> list[str]:
    """A line for each pattern of the profile that matches no message, so that a mistake in it shows."""
    patterns = {"align.id_pattern": align.id_pattern, "align.name_pattern": align.name_pattern}
    return [
        f"{name} of the profile matches none of {len(messages):,} messages, of which the most frequent is "
        f"'{messages[0].text[:SHOWN_LENGTH]}'"
        for name, pattern in patterns.items()
        if pattern is not None and messages and not any(re.search(pattern, m.text) for m in messages)
    ]


def set_languages(messages: list[Message], parts: Sequence[Path], identifier: LanguageIdentifier) -> None:
    """Tell the language of each message: names vote on their session's, sessions on that of the names in them.

    A program speaks one language in a session, while the language of two or three words alone is often told wrong. A
    name votes with its probability; a name whose sessions are undecided keeps what was told of itself.
    """
    told = identifier.identify([message.name for message in messages])
    votes = pl.DataFrame(
        {
            ITEM_ID: [message.text for message in messages],
            "language": [language for language, _ in told],
            # Whole numbers: their sum does not depend on the order.
            "weight": [round(1000 * probability) for _, probability in told],
        },
        schema={ITEM_ID: pl.String, "language": pl.String, "weight": pl.Int64},
    ).filter((pl.col("language") != UNKNOWN_LANGUAGE) & (pl.col("weight") > 0))
    counts: list[pl.DataFrame] = []
    for path in progress(parts, "languages", unit="part"):
        counts.append(_session_votes(read_table(path, [SESSION_ID, ITEM_ID]), votes))
        if len(counts) >= _PARTS_AT_ONCE:
            counts = [_summed_votes(counts)]
    won = _summed_votes(counts).sort("sessions", "language", descending=[True, False])
    best = dict(won.unique(ITEM_ID, keep="first", maintain_order=True).select(ITEM_ID, "language").iter_rows())
    for message, (language, _) in zip(messages, told, strict=True):
        message.language = best.get(message.text, language)


def _session_votes(events: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
    """item_id, language, sessions: how many sessions of that language hold the item."""
    held = events.drop_nulls(ITEM_ID).unique([SESSION_ID, ITEM_ID])
    weights = held.join(votes, on=ITEM_ID, how="inner").group_by(SESSION_ID, "language").agg(pl.col("weight").sum())
    weights = weights.sort("weight", "language", descending=[True, False])
    spoken = weights.unique(SESSION_ID, keep="first", maintain_order=True).select(SESSION_ID, "language")
    pairs = held.join(spoken, on=SESSION_ID, how="inner").group_by(ITEM_ID, "language")
    return pairs.agg(pl.len().cast(pl.Int64).alias("sessions"))


def _summed_votes(counts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(counts).group_by(ITEM_ID, "language").agg(pl.col("sessions").sum())

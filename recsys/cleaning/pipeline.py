"""What applies a profile and fitted rules to rows: the one code path of batch, live and `recommend`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import polars as pl
from pydantic import Field

from recsys.cleaning.funnel import Funnel
from recsys.cleaning.parser import KIND, MESSAGE, REASON, parse_messages
from recsys.cleaning.profile import Profile
from recsys.cleaning.sessions import add_hash, clean_sessions, collapse, count_merged, key_column
from recsys.cleaning.sources import RAW_COLUMNS, LogReader
from recsys.config import StrictModel, parse
from recsys.errors import InputError
from recsys.schema import CATEGORY, ITEM_ID, SESSION_ID

RULES_FILE = "rules.json"


class Rules(StrictModel):
    """What cleaning learned from the training groups; applied alike to new rows."""

    dropped_commands: list[str] = Field(default_factory=list)  # rare in training, sorted

    def save(self, folder: Path) -> None:
        """Write ``rules.json``."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False)
        (folder / RULES_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``rules.json`` of a cleaning folder."""
        path = folder / RULES_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        return parse(cls, values, path)


def select_rows(frame: pl.DataFrame, profile: Profile, funnel: Funnel) -> pl.DataFrame:
    """Rows that carry a command or an undo: parsed, categories kept, noise dropped. Row by row, any frame will do.

    Returns the key, item_id, kind, timestamp and, where there are, user_id, cat and clock.
    """
    key = key_column(profile)
    rows = funnel.drop("read", frame, _incomplete(frame, key))
    if profile.categories is not None:
        other = pl.format("category {}", pl.col(CATEGORY).fill_null("(none)"))
        kept = pl.col(CATEGORY).is_in(profile.categories).fill_null(False)
        rows = funnel.drop("category", rows, rows.select(pl.when(kept).then(None).otherwise(other)).to_series())
    rows = rows.join(parse_messages(rows[MESSAGE], profile), on=MESSAGE, how="left", maintain_order="left")
    rows = funnel.drop("noise", rows, rows[REASON])
    wanted = [c for c in (*RAW_COLUMNS, ITEM_ID, KIND) if c in rows.columns and c != MESSAGE]
    return rows.select(wanted)


def _incomplete(frame: pl.DataFrame, key: str) -> pl.Series:
    no_key = pl.col(key).is_null()
    reason = pl.when(no_key).then(pl.lit(f"no {key}")).when(pl.col(MESSAGE).is_null()).then(pl.lit("no message"))
    return frame.select(reason.otherwise(None).alias(REASON)).to_series()


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


def clean_logs(logs: Path | Iterable[pl.DataFrame], profile: Profile, rules: Rules | None = None) -> pl.DataFrame:
    """Clean a log in memory: events with the columns of `EVENT_COLUMNS` that it has, sessions contiguous.

    Nothing is fitted and short sessions stay, so this is what serves a running session.

    Args:
        logs: a path as `LogReader` takes it, or frames with the columns of `RAW_COLUMNS`.
        profile: the rules.
        rules: fitted rules of a run; None drops nothing for being rare.

    Raises:
        InputError: unreadable input, or no event is left (names the stage that let nothing through).
    """
    funnel = Funnel()
    frames = LogReader(logs, profile).frames() if isinstance(logs, Path) else logs
    selected = [select_rows(frame, profile, funnel) for frame in frames]
    if not selected:
        raise InputError("logs: no frames")
    rows = add_hash(pl.concat(selected, how="diagonal"), profile)
    events = clean_sessions(rows, profile, funnel)
    events = drop_commands(events, rules.dropped_commands if rules else [], profile.collapse, funnel)
    funnel.require_rows(logs if isinstance(logs, Path) else "logs")
    return events

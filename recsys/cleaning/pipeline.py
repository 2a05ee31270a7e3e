"""What applies a profile and fitted rules to rows: the one code path of batch, live and `recommend`."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from recsys.cleaning.funnel import Funnel
from recsys.cleaning.parser import KIND, MESSAGE, REASON, Kind, MessageParser, parse_messages
from recsys.cleaning.profile import Profile
from recsys.cleaning.rules import NO_RULES, Rules, apply_rules
from recsys.cleaning.sessions import add_hash, clean_sessions, key_column
from recsys.cleaning.sources import RAW_COLUMNS, LogReader
from recsys.errors import InputError
from recsys.schema import ARGUMENTS, CATEGORY, ITEM_ID


def select_rows(
    frame: pl.DataFrame, profile: Profile, funnel: Funnel, parser: MessageParser | None = None
) -> pl.DataFrame:
    """Rows that carry a command or an undo: parsed, categories kept, noise dropped. Row by row, any frame will do.

    Returns the key, item_id, kind, timestamp and, where there are, user_id, cat and clock. Rows of `Kind.HIDDEN` are
    among them although they are counted as noise; `clean_sessions` drops them. `parser`: remembers messages from frame
    to frame, where there are many small ones.
    """
    key = key_column(profile)
    rows = funnel.drop("read", frame, _incomplete(frame, key)).rechunk()  # Polars 2.1 fails on a chunk without rows
    if profile.categories is not None:
        other = pl.format("category {}", pl.col(CATEGORY).fill_null("(none)"))
        kept = pl.col(CATEGORY).is_in(profile.categories).fill_null(False)
        rows = funnel.drop("category", rows, rows.select(pl.when(kept).then(None).otherwise(other)).to_series())
    parsed = parser(rows[MESSAGE]) if parser else parse_messages(rows[MESSAGE], profile)
    if rows.height:
        rows = rows.join(parsed, on=MESSAGE, how="left", maintain_order="left")
    else:  # in a live log most calls are for rows of other categories
        rows = rows.hstack(parsed.drop(MESSAGE))
    rows = funnel.drop("noise", rows, rows[REASON], hidden=rows[KIND].eq_missing(Kind.HIDDEN.value))
    wanted = [c for c in (*RAW_COLUMNS, ITEM_ID, KIND, ARGUMENTS) if c in rows.columns and c != MESSAGE]
    wanted += profile.columns.keep
    return rows.select(wanted)


def _incomplete(frame: pl.DataFrame, key: str) -> pl.Series:
    no_key = pl.col(key).is_null()
    reason = pl.when(no_key).then(pl.lit(f"no {key}")).when(pl.col(MESSAGE).is_null()).then(pl.lit("no message"))
    return frame.select(reason.otherwise(None).alias(REASON)).to_series()


def clean_logs(
    logs: Path | Iterable[pl.DataFrame],
    profile: Profile,
    rules: Rules = NO_RULES,
    *,
    funnel: Funnel | None = None,
    source: str = "logs",
) -> pl.DataFrame:
    """Clean a log in memory: events with the columns of `Profile.event_columns` that it has, sessions contiguous.

    Nothing is fitted and short sessions stay, so this is what serves a running session.

    Args:
        logs: a path as `LogReader` takes it, or frames with the columns of `RAW_COLUMNS`.
        profile: the rules.
        rules: what a run learned.
        funnel: takes the counts of every stage.
        source: what errors call frames; a path is called by itself.

    Raises:
        InputError: unreadable input, or no event is left (names the stage that let nothing through).
    """
    funnel = Funnel() if funnel is None else funnel
    frames = LogReader(logs, profile).frames() if isinstance(logs, Path) else logs
    name = str(logs) if isinstance(logs, Path) else source
    selected = [select_rows(frame, profile, funnel) for frame in frames]
    if not selected:
        raise InputError(f"{name}: no frames")
    rows = add_hash(pl.concat(selected, how="diagonal"), profile)
    events = clean_sessions(rows, profile, funnel)
    events = apply_rules(events, profile, rules, funnel)
    funnel.require_rows(name)
    return events

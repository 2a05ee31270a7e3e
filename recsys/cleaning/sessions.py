"""Rows to sessions of events: order, sub-second time, gaps, undo, repeats.

Order is that of a stable sort by session (or user) and time. Where a log has a process clock beside times of whole
seconds, the rows of one second keep the order of the file, and their time is the second plus the clock's advance
since the first of them, below one second: the clock says how far apart rows lie, not where in the second they are.
"""

import polars as pl

from recsys.buckets import bucket_column
from recsys.cleaning.funnel import Funnel
from recsys.cleaning.parser import CLOCK, KIND
from recsys.cleaning.profile import Profile
from recsys.cleaning.undo import undo_reasons
from recsys.schema import CATEGORY, ITEM_ID, MERGE_COUNT, SESSION_ID, TIMESTAMP, USER_ID

HASH = "key_hash"  # of the key: events are ordered by it, so that any number of buckets gives the same table
HASHES = 1 << 32
_NUMBER = "session_number"
_FIRST = "first_number_of_user"
EVENT_COLUMNS = (SESSION_ID, ITEM_ID, TIMESTAMP, USER_ID, CATEGORY, MERGE_COUNT)


def key_column(profile: Profile) -> str:
    """The column whose rows must be seen together: the session, or the user where sessions come from gaps."""
    return SESSION_ID if profile.columns.session else USER_ID


def add_hash(frame: pl.DataFrame, profile: Profile) -> pl.DataFrame:
    """Add the hash of the key."""
    return frame.with_columns(bucket_column(frame[key_column(profile)], HASHES).alias(HASH))


def clean_sessions(rows: pl.DataFrame, profile: Profile, funnel: Funnel) -> pl.DataFrame:
    """Events of whole sessions: the columns of `EVENT_COLUMNS` that `rows` has, ordered by hash, key and time.

    Sessions that come from gaps are named ``user-1``, ``user-2``, ...

    Args:
        rows: kept rows with `HASH`, in the log's order; all rows of a key must be there.
    """
    key = key_column(profile)
    rows = rows.sort(HASH, key, TIMESTAMP, maintain_order=True)
    rows = _with_clock(rows, key)
    rows = rows.with_columns(_session_starts(key, profile).cum_sum().alias(_NUMBER))
    # Sessions are numbered within a user before undo, which may empty one.
    of_user = (pl.col(key) != pl.col(key).shift()).fill_null(True)
    rows = rows.with_columns(pl.when(of_user).then(_NUMBER).forward_fill().alias(_FIRST))
    sessions = int(rows[_NUMBER][-1]) if rows.height else 0
    funnel.count("sessions", rows.height, rows.height, {}, sessions=sessions)
    rows = funnel.drop("undo", rows, undo_reasons(rows, _NUMBER, profile))
    return _named(_collapsed(rows, profile, funnel), key)


def _session_starts(key: str, profile: Profile) -> pl.Expr:
    new = pl.col(key) != pl.col(key).shift()
    if profile.gap_minutes is not None:
        gap = pl.col(TIMESTAMP) - pl.col(TIMESTAMP).shift()
        new = new | (gap > round(profile.gap_minutes * 60_000_000))
    return new.fill_null(True)


def _with_clock(rows: pl.DataFrame, key: str) -> pl.DataFrame:
    if CLOCK not in rows.columns:
        return rows
    if rows[CLOCK].null_count() < rows.height:
        # A run of rows of one key and one second; a clock that goes back within it stands still.
        run = ((pl.col(key) != pl.col(key).shift()) | (pl.col(TIMESTAMP) != pl.col(TIMESTAMP).shift())).fill_null(True)
        rows = rows.with_columns(run.cum_sum().alias("run"))
        advance = (pl.col(CLOCK).cum_max() - pl.col(CLOCK).first()).over("run").clip(0, 999_999).fill_null(0)
        rows = rows.with_columns(pl.col(TIMESTAMP) + advance)
    return rows.drop(CLOCK, "run", strict=False)


def _collapsed(rows: pl.DataFrame, profile: Profile, funnel: Funnel) -> pl.DataFrame:
    if MERGE_COUNT not in rows.columns:
        rows = rows.with_columns(pl.lit(1, dtype=pl.Int64).alias(MERGE_COUNT))
    if not profile.collapse:
        return rows
    events = collapse(rows, _NUMBER)
    funnel.count("repeats", rows.height, events.height, _some("merged into the event before", rows.height - events.height))
    return events


def _some(reason: str, count: int) -> dict[str, int]:
    return {reason: count} if count else {}


def collapse(rows: pl.DataFrame, session: str) -> pl.DataFrame:
    """Equal commands in a row within a session become the first of them; `merge_count` is summed."""
    first = ((pl.col(session) != pl.col(session).shift()) | (pl.col(ITEM_ID) != pl.col(ITEM_ID).shift())).fill_null(True)
    marked = rows.select(first.alias("first"), pl.col(MERGE_COUNT).cum_sum().alias("sum"))
    events = rows.filter(marked["first"])
    before = marked.with_columns(pl.col("sum").shift(fill_value=0)).filter("first")["sum"]
    total = int(marked["sum"][-1]) if marked.height else 0
    counts = before.extend_constant(total, 1).diff().slice(1)
    return events.with_columns(counts.cast(pl.Int64).alias(MERGE_COUNT))


def _named(events: pl.DataFrame, key: str) -> pl.DataFrame:
    if key == USER_ID:
        within = pl.col(_NUMBER) - pl.col(_FIRST) + 1
        events = events.with_columns(pl.format("{}-{}", USER_ID, within).alias(SESSION_ID))
    return events.select(c for c in EVENT_COLUMNS if c in events.columns)

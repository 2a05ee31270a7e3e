"""Rows to sessions of events: order, sub-second time, gaps, undo, repeats.

Order is that of a stable sort by session (or user) and time. The live log gives times of whole seconds beside a
process clock that counts microseconds from an unknown moment. Rows of one second keep the order of the file; their
time is the clock plus its offset, held within the second. The offset is the largest difference of second and clock
that the session has shown so far: it looks back only, so that a live tail gets the same times as the finished file.
A clock that goes back (another process) starts anew.
"""

import polars as pl

from recsys.buckets import bucket_column
from recsys.cleaning.funnel import Funnel
from recsys.cleaning.parser import CLOCK
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
    if USER_ID in rows.columns and key != USER_ID:  # files without the column, beside files with it
        rows = rows.with_columns(pl.col(USER_ID).forward_fill().backward_fill().over(_NUMBER))
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
        second, clock = pl.col(TIMESTAMP), pl.col(CLOCK)
        other = (pl.col(key) != pl.col(key).shift()).fill_null(True)
        process = (other | (clock < clock.shift()).fill_null(False)).cum_sum().alias("process")
        run = (other | (second != second.shift())).fill_null(True).cum_sum().alias("run")
        rows = rows.with_columns(process, run)
        offset = (second - clock).cum_max().over("process")
        rows = rows.with_columns((clock + offset - second).clip(0, 999_999).fill_null(0).alias("within"))
        rows = rows.with_columns(second + pl.col("within").cum_max().over("run"))
    return rows.drop(CLOCK, "process", "run", "within", strict=False)


def _collapsed(rows: pl.DataFrame, profile: Profile, funnel: Funnel) -> pl.DataFrame:
    if MERGE_COUNT not in rows.columns:
        rows = rows.with_columns(pl.lit(1, dtype=pl.Int64).alias(MERGE_COUNT))
    if not profile.collapse:
        return rows
    events = collapse(rows, _NUMBER)
    count_merged("repeats", rows, events, funnel)
    return events


def count_merged(stage: str, before: pl.DataFrame, after: pl.DataFrame, funnel: Funnel) -> None:
    """Count what `collapse` merged."""
    merged = before.height - after.height
    funnel.count(stage, before.height, after.height, {"merged into the event before": merged} if merged else {})


def collapse(rows: pl.DataFrame, session: str) -> pl.DataFrame:
    """Equal commands in a row within a session become the first of them; `merge_count` is summed."""
    new_session, new_item = (pl.col(c) != pl.col(c).shift() for c in (session, ITEM_ID))
    first = (new_session | new_item).fill_null(True)
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

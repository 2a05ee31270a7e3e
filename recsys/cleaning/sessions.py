"""Rows to sessions of events: order, sub-second time, gaps, undo, repeats.

Order is that of a stable sort by session (or user) and time. The live log gives times of whole seconds beside a
process clock that counts microseconds from an unknown moment. Rows of one second keep the order of the file; their
time is the clock plus its offset, held within the second. The offset is the largest difference of second and clock
that the session has shown so far: it looks back only, so that a live tail gets the same times as the finished file.
A clock that goes back (another process) starts anew.

A wall clock that jumps back (NTP, summer time): where the process clock went on meanwhile, it is believed. The row
comes as many whole seconds after the row before it in the file as the process clock counted, and the jump is added to
all later times of the session, so that the order of the file stands and pauses are right but for the one second.
Where both went back (a row that was written late), or there is no process clock, the wall clock orders the rows.
Either way rows that lie before the one before them in the file are counted as ``clock_went_back``.
"""

import polars as pl

from recsys.buckets import bucket_column
from recsys.cleaning.funnel import Funnel
from recsys.cleaning.parser import CLOCK, KIND, Kind
from recsys.cleaning.profile import Profile
from recsys.cleaning.undo import FOLLOWS_HIDDEN, undo_reasons
from recsys.schema import ITEM_ID, MERGE_COUNT, SESSION_ID, TIMESTAMP, USER_ID

HASH = "key_hash"  # of the key: events are ordered by it, so that any number of buckets gives the same table
HASHES = 1 << 32
NUMBER = "session_number"
FIRST = "first_number_of_user"
SECOND = 1_000_000


def key_column(profile: Profile) -> str:
    """The column whose rows must be seen together: the session, or the user where sessions come from gaps."""
    return SESSION_ID if profile.columns.session else USER_ID


def add_hash(frame: pl.DataFrame, profile: Profile) -> pl.DataFrame:
    """Add the hash of the key."""
    return frame.with_columns(bucket_column(frame[key_column(profile)], HASHES).alias(HASH))


def clean_sessions(rows: pl.DataFrame, profile: Profile, funnel: Funnel) -> pl.DataFrame:
    """Events of whole sessions: the columns of `Profile.event_columns` that `rows` has, ordered by hash, key and time.

    Sessions that come from gaps are named ``user-1``, ``user-2``, ...

    Args:
        rows: kept rows with `HASH`, in the log's order; all rows of a key must be there.
    """
    key = key_column(profile)
    rows, went_back = _in_order(rows, key)
    rows = _without_hidden(_with_clock(rows, key))
    rows = rows.with_columns(_session_starts(key, profile).cum_sum().alias(NUMBER))
    # Sessions are numbered within a user before undo, which may empty one.
    of_user = (pl.col(key) != pl.col(key).shift()).fill_null(True)
    rows = rows.with_columns(pl.when(of_user).then(NUMBER).forward_fill().alias(FIRST))
    return finish_sessions(rows, undo_reasons(rows, NUMBER, profile), profile, funnel, went_back)


def finish_sessions(
    rows: pl.DataFrame, reasons: pl.Series, profile: Profile, funnel: Funnel, went_back: int = 0
) -> pl.DataFrame:
    """The stateless end of `clean_sessions`, which a live log shares: undone rows leave, repeats collapse, names.

    Args:
        rows: all rows of their sessions in order, with the columns `NUMBER` (of the session, from 1) and `FIRST` (of
            the key's first session).
        reasons: why a row leaves; null: it stays.
        went_back: rows whose time lay before the row before them.
    """
    key = key_column(profile)
    if USER_ID in rows.columns and key != USER_ID:  # files without the column, beside files with it
        rows = rows.with_columns(pl.col(USER_ID).forward_fill().backward_fill().over(NUMBER))
    sessions = int(rows[NUMBER][-1]) if rows.height else 0
    funnel.count("sessions", rows.height, rows.height, {}, sessions=sessions, clock_went_back=went_back)
    rows = funnel.drop("undo", rows, reasons)
    return _named(_collapsed(rows, profile, funnel), key, profile)


def _in_order(rows: pl.DataFrame, key: str) -> tuple[pl.DataFrame, int]:
    """Rows by hash, key and time, jumps of the wall clock mended, and how many lay before the row before them."""
    rows = rows.sort(HASH, key, maintain_order=True)  # the order of the file within each key
    time, same = pl.col(TIMESTAMP), pl.col(key) == pl.col(key).shift()
    back = rows.select((same & (time < time.shift())).fill_null(False)).to_series()
    went_back = int(back.sum())
    if not went_back:
        return rows, 0
    if CLOCK in rows.columns:
        clock = pl.col(CLOCK)
        counted = (clock - clock.shift()) // SECOND * SECOND
        jump = pl.when(back & (counted >= 0)).then(time.shift() - time + counted).otherwise(0)
        jumps = rows.select(pl.col(key), jump.fill_null(0).alias("jump"))
        rows = rows.with_columns(time + jumps.select(pl.col("jump").cum_sum().over(key)).to_series())
    return rows.sort(HASH, key, TIMESTAMP, maintain_order=True), went_back


def _without_hidden(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of `Kind.HIDDEN` leave (they are counted already) and mark the row that comes after them."""
    hidden = rows[KIND] == Kind.HIDDEN.value
    if not hidden.any():
        return rows
    # That row may be of the next session: nothing begins its first event anyway.
    return rows.with_columns(hidden.shift(fill_value=False).alias(FOLLOWS_HIDDEN)).filter(~hidden)


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
    events = collapse(rows, NUMBER)
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


def _named(events: pl.DataFrame, key: str, profile: Profile) -> pl.DataFrame:
    if key == USER_ID:
        within = pl.col(NUMBER) - pl.col(FIRST) + 1
        events = events.with_columns(pl.format("{}-{}", USER_ID, within).alias(SESSION_ID))
    return events.select(c for c in profile.event_columns if c in events.columns)

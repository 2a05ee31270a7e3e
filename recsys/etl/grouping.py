"""Rows of events to sequences: one row a session and chunk, with list columns."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.etl.device import Device, collect
from recsys.etl.users import ORIGIN
from recsys.schema import SESSION_ID, TIMESTAMP, USER_ID

CHUNK = "chunk"
SAME_TIME = "same_session_and_time"  # reason in `Sequences.noted`
INFINITE = "infinite"  # likewise, with the column's name behind a colon


@dataclass(frozen=True)
class Sequences:
    """Sequences, and what was left out of them: rows (events) and whole sequences, by reason.

    `noted` counts rows that stayed and that a person should know of: ``same_session_and_time`` (a further event of a
    session at one time; they keep the order of the input) and ``infinite:<column>`` (taken as missing).
    """

    frame: pl.DataFrame
    rows_in: int
    rows_out: int
    dropped_rows: dict[str, int]
    dropped_sequences: dict[str, int]
    noted: dict[str, int] = field(default_factory=dict)


def in_time_order(frame: pl.DataFrame, device: Device = "cpu") -> pl.DataFrame:
    """A bucket (Enum sessions) sorted by session and time; equal times stay as they were read.

    Where sequences are users, equal times of two sessions go by the sessions' names, not by the order of files.
    """
    if device == "gpu":
        keys = [name for name in (SESSION_ID, TIMESTAMP, ORIGIN) if name in frame.columns]
        lazy = frame.lazy().select(pl.col(keys).to_physical()).with_row_index("row").sort(keys, maintain_order=True)
        return frame[collect(lazy.select("row"), device).to_series()]
    sessions, times = frame[SESSION_ID].to_physical().to_numpy(), frame[TIMESTAMP].to_numpy()
    if ORIGIN in frame.columns:
        origins = frame[ORIGIN].to_physical().to_numpy()
        return frame[np.lexsort((origins, times, sessions))]
    # Logs mostly are in the order of time already, and numpy sorts numbers of 16 bits by counting them.
    order = np.argsort(sessions, kind="stable")
    later = times[order]
    if bool(np.any((np.diff(later) < 0) & (np.diff(sessions[order].astype(np.int64)) == 0))):
        order = np.lexsort((times, sessions))
    return frame[order]


def noted_rows(prepared: pl.DataFrame, numbers: list[str]) -> dict[str, int]:
    """Counts for `Sequences.noted` of rows sorted by session and time; reasons that never occur are left out."""
    same = (pl.col(SESSION_ID) == pl.col(SESSION_ID).shift(1)) & (pl.col(TIMESTAMP) == pl.col(TIMESTAMP).shift(1))
    counts = prepared.select(
        same.sum().alias(SAME_TIME), *(pl.col(name).is_infinite().sum().alias(f"{INFINITE}:{name}") for name in numbers)
    )
    return {name: int(count) for name, count in counts.row(0, named=True).items() if count}


def group_rows(rows: pl.DataFrame, lists: list[str], once: Sequence[str] = ()) -> pl.DataFrame:
    """Neighbouring rows of one session and chunk to one row with list columns, without a hash table.

    Columns `once` have one value a session, and keep it.
    """
    new = (pl.col(SESSION_ID) != pl.col(SESSION_ID).shift(1)) | (pl.col(CHUNK) != pl.col(CHUNK).shift(1))
    starts = rows.select(new.fill_null(True)).to_series().arg_true()
    keys = [name for name in (SESSION_ID, USER_ID, CHUNK, *once) if name in rows.columns]
    offsets = pa.array([*starts, rows.height], type=pa.int64())
    columns = [rows[key].gather(starts) for key in keys]
    for name in lists:
        values = rows[name].rechunk().to_arrow()
        columns.append(pl.Series(name, pl.from_arrow(pa.LargeListArray.from_arrays(offsets, values))))
    return pl.DataFrame(columns)

"""Sequences that are users: their sessions read together, under the user's name."""

from collections.abc import Sequence

import polars as pl

from recsys.config import SplitConfig
from recsys.etl.split import group_column
from recsys.schema import SESSION_ID, USER_ID

ORIGIN = "session_of_origin"  # the session of an event whose sequence is a user's


def merges_users(config: SplitConfig, columns: Sequence[str], source: object = "events") -> bool:
    """Whether the split's sequences are users, whose sessions must be read together."""
    return config.cuts_sequences and group_column(config, columns, source) == USER_ID


def as_users(frame: pl.DataFrame) -> pl.DataFrame:
    """Events with the user as session_id (``session X`` where there is none) and the session as `ORIGIN`."""
    session = pl.format("session {}", SESSION_ID)
    return frame.with_columns(pl.col(SESSION_ID).alias(ORIGIN), pl.coalesce(USER_ID, session).alias(SESSION_ID))

"""Buckets are stable and keep a session's rows together."""

from zlib import crc32

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from recsys.buckets import bucket_column, bucket_of


@given(st.lists(st.text(), max_size=30), st.integers(1, 9))
def test_every_row_gets_the_bucket_of_its_key(keys, buckets):
    column = bucket_column(pl.Series(keys, dtype=pl.String), buckets)
    assert column.to_list() == [crc32(k.encode()) % buckets for k in keys]


def test_the_hash_never_changes():
    assert [bucket_of(k, 1000) for k in ("", "a", "session 1", "größe")] == [0, 907, 611, 153]


def test_numbers_and_nulls_have_buckets_too():
    one, nothing = bucket_of("1", 50), bucket_of("", 50)
    assert bucket_column(pl.Series([1, None, 1]), 50).to_list() == [one, nothing, one]

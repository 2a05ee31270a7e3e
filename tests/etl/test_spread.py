"""Rows spread over buckets come back whole, in their order, whatever their types and however they were batched."""

from datetime import date

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.buckets import bucket_of
from recsys.errors import InputError
from recsys.etl import events as events_module
from recsys.etl.events import open_events
from recsys.etl.grouping import in_time_order
from recsys.etl.spread import Batch, Coder, dictionary_of, spread

COLUMNS = ["session_id", "user_id", "item_id", "timestamp", "value"]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["", "a", "ä😀", "b,b", "10", "9"]),
        st.sampled_from([None, "u", ""]),
        st.sampled_from([None, "", "x", "y", "é"]),
        st.integers(-5, 5),
        st.sampled_from([None, 0.5, -1.0, float("inf")]),
    ),
    min_size=1,
    max_size=40,
)


def frame_of(rows):
    schema = dict(zip(COLUMNS, [pl.String, pl.String, pl.String, pl.Int64, pl.Float64], strict=True))
    return pl.DataFrame(rows, schema=schema, orient="row")


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 9), st.integers(1, 12))
def test_buckets_hold_whole_sessions_in_the_order_read(tmp_path_factory, rows, batch, bucket):
    work, whole = tmp_path_factory.mktemp("work"), frame_of(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events_module, "BATCH_ROWS", batch)
        patch.setattr(events_module, "BUCKET_ROWS", bucket)
        made = open_events(whole).spread(work, COLUMNS, ["value"])
    count = -(-len(rows) // bucket)
    parts = list(made.frames())
    for path, part in zip(made.paths, parts, strict=True):
        numbers = {bucket_of(name, count) for name in part["session_id"]}
        assert len(numbers) == 1 and path.stem == f"bucket-{numbers.pop():05d}"
        for (session,), mine in part.partition_by("session_id", as_dict=True).items():
            assert mine.select(COLUMNS).equals(whole.filter(pl.col("session_id") == session))
    assert sum(part.height for part in parts) == len(rows)
    for path, times in zip(made.paths, made.times(), strict=True):
        loaded = made.load(path)
        assert loaded["timestamp"].equals(times)
        names = loaded["session_id"].dtype.categories.to_list()
        assert names == sorted(names)
        ordered = in_time_order(loaded)
        keys = pl.col("session_id").cast(pl.String), pl.col("timestamp")
        assert ordered.equals(loaded.sort(*keys, maintain_order=True))
        made.save_sorted(path, ordered)
        assert made.load_sorted(path).equals(ordered)
        assert made.load_sorted(path).schema == ordered.schema


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(1, 9))
def test_users_for_sessions(tmp_path_factory, rows, batch):
    work, whole = tmp_path_factory.mktemp("work"), frame_of(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events_module, "BATCH_ROWS", batch)
        patch.setattr(events_module, "BUCKET_ROWS", 5)
        made = open_events(whole).spread(work, COLUMNS, ["value"], merge=True)
    found = pl.concat(made.frames())
    named = [u if u is not None else f"session {s}" for s, u, *_ in rows]
    expected = sorted(zip(named, [r[0] for r in rows], [r[3] for r in rows], strict=True))
    assert sorted(found.select("session_id", "session_of_origin", "timestamp").iter_rows()) == expected


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pl.Series([3, None, 3, -1]), ["3", None, "3", "-1"]),
        (pl.Series([True, False]), ["true", "false"]),
        (pl.Series([0.5, None]), ["0.5", None]),
        (pl.Series([date(2024, 1, 2)]), ["2024-01-02"]),
        (pl.Series(["b", None, "a"], dtype=pl.Categorical), ["b", None, "a"]),
        (pl.Series(["b", None, "a"], dtype=pl.Enum(["a", "b"])), ["b", None, "a"]),
        (pl.Series([None, None], dtype=pl.Null), [None, None]),
        (pl.Series(["", "x"]), ["", "x"]),
    ],
)
def test_values_of_any_plain_kind_are_text_as_polars_spells_them(values, text):
    assert values.cast(pl.String).to_list() == text
    made = dictionary_of(values.to_arrow())
    assert pl.Series(pl.from_arrow(made)).cast(pl.String).to_list() == text
    coder = Coder()
    codes = coder.codes(made)
    names = coder.values().cast(pl.String).to_list()
    assert [None if code < 0 else names[code] for code in codes.tolist()] == text


def test_a_coder_numbers_in_the_order_of_meeting():
    coder = Coder()
    first = coder.codes(pa.array(["b", "a", None, "b"]).dictionary_encode())
    second = coder.codes(pa.array(["c", "a"]).dictionary_encode())
    assert first.tolist() == [0, 1, -1, 0] and second.tolist() == [2, 1]
    assert coder.values().to_list() == ["b", "a", "c"]


def test_no_batch_is_no_row_and_a_failing_reader_is_heard(tmp_path):
    with pytest.raises(InputError, match="events: a header and no rows"):
        spread([], 10, 5, 5, tmp_path, "events")

    def broken():
        words = {"session_id": pa.array(["s"]).dictionary_encode()}
        yield Batch(words, {"timestamp": np.array([1])})
        raise InputError("b.parquet: cut off")

    with pytest.raises(InputError, match="cut off"):
        spread(broken(), 10, 5, 5, tmp_path, "events")

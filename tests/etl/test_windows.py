"""Chunks and newest slices against plain Python."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import ChunkConfig
from recsys.etl.windows import chunk_column, chunk_lengths, newest, session_seeds


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=20),
    st.integers(1, 12),
    st.integers(0, 30),
    st.integers(0, 9),
)
def test_chunks_fill_the_session_and_a_short_tail_joins_the_chunk_before(lengths, smallest, more, seed):
    config = ChunkConfig(min_items=smallest, max_items=smallest + more)
    seeds = session_seeds([f"s{n}" for n in range(len(lengths))], seed)
    for length, chunks in zip(lengths, chunk_lengths(np.array(lengths), seeds, config), strict=True):
        assert chunks.sum() == length
        if length < smallest:
            assert chunks.tolist() == [length]
            continue
        assert (chunks >= smallest).all()
        # Only the last may be longer than drawn: by the tail that was too short to stand alone.
        assert (chunks[:-1] <= config.max_items).all()
        assert chunks[-1] < config.max_items + smallest


def test_a_tail_one_short_is_merged_and_a_tail_just_long_enough_is_not():
    config = ChunkConfig(min_items=10, max_items=10)
    seeds = session_seeds(["a"] * 4, 0)
    found = [c.tolist() for c in chunk_lengths(np.array([9, 19, 20, 39]), seeds, config)]
    assert found == [[9], [19], [10, 10], [10, 10, 19]]


def test_lengths_are_uniform_with_both_ends():
    config = ChunkConfig(min_items=3, max_items=6)
    seeds = session_seeds([f"s{n}" for n in range(4000)], 7)
    first = np.array([c[0] for c in chunk_lengths(np.full(4000, 100), seeds, config)])
    second = np.array([c[1] for c in chunk_lengths(np.full(4000, 100), seeds, config)])
    for drawn in (first, second):
        assert np.allclose(np.bincount(drawn)[3:7] / 4000, 0.25, atol=0.03)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_a_session_is_cut_alike_wherever_it_stands_and_seeds_differ():
    config = ChunkConfig()
    one = pl.Series(["a"] * 300 + ["b"] * 200)
    other = pl.Series(["b"] * 200 + ["c"] * 50 + ["a"] * 300)
    first, second = chunk_column(one, config, 1), chunk_column(other, config, 1)
    assert first[:300].to_list() == second[250:].to_list()
    assert first[300:].to_list() == second[:200].to_list()
    assert not chunk_column(one, config, 2).equals(first)
    assert first.dtype == pl.Int32 and first[0] == 0


def test_newest_keeps_the_last_rows_of_each_sequence():
    frame = pl.DataFrame({"s": list("aaabbc"), "v": [1, 2, 3, 4, 5, 6]})
    assert frame.filter(newest(["s"], 2))["v"].to_list() == [2, 3, 4, 5, 6]

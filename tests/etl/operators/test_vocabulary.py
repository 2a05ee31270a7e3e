"""Vocabularies against counting and CRC-32 of the standard library."""

from collections import Counter
from zlib import crc32

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.etl.operators.vocabulary import Vocabulary, count_values, merge_counts

VALUES = st.lists(
    st.one_of(st.none(), st.sampled_from(["", "a", "B", "é", "😀", "a,b", 'say "x"', "\n"]), st.text(max_size=2))
)


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES, VALUES, st.integers(1, 3), st.one_of(st.none(), st.integers(1, 4)), st.integers(0, 3))
def test_ids_follow_count_then_code_points(first, second, new, min_count, top_k, buckets):
    parts = [count_values(pl.Series(part, dtype=pl.String)) for part in (first, second)]
    vocabulary = Vocabulary.fit(merge_counts(parts), min_count, dropped=["B"], top_k=top_k, hash_buckets=buckets)
    counts = Counter(v for v in first + second if v is not None)
    kept = [v for v in counts if counts[v] >= min_count and v != "B"]
    kept.sort(key=lambda v: (-counts[v], v))
    kept = kept[:top_k]
    ids = {value: 3 + place for place, value in enumerate(kept)}
    assert vocabulary.decode() == [None, None, None, *kept, *[None] * buckets]
    assert vocabulary.cardinality == 3 + len(kept) + buckets
    assert vocabulary.null_count == (first + second).count(None)
    assert vocabulary.oov_count == sum(n for v, n in counts.items() if v not in ids)
    frame = pl.DataFrame({"c": pl.Series(new, dtype=pl.String)}).select(vocabulary.encode("c"))

    def tail(value):
        return 3 + len(kept) + crc32(value.encode()) % buckets if buckets else 2

    assert frame["c"].to_list() == [1 if v is None else ids[v] if v in ids else tail(v) for v in new]
    assert frame["c"].dtype == pl.Int32


def test_weights_count_rows_of_train():
    counts = count_values(pl.Series(["x", "y", "x", None]), pl.Series([1, 5, 2, 4]))
    assert dict(counts.iter_rows()) == {"x": 3, "y": 5, None: 4}
    assert Vocabulary.fit(counts).values.to_list() == ["y", "x"]


def test_equal_sizes_with_other_values_have_another_hash():
    first, second, third = (
        Vocabulary(pl.Series("value", v), pl.Series([1, 1])).sha256 for v in (["a", "b"], ["b", "a"], ["a,b", ""])
    )
    assert len({first, second, third}) == 3


def test_hashed_ids_stay_as_they_are():
    # A trained embedding depends on them: fixed numbers, not our own function again.
    vocabulary = Vocabulary(pl.Series("value", ["known"]), pl.Series([1]), hash_buckets=100)
    frame = pl.DataFrame({"c": ["known", "rare", "Ü", "", None]})
    expected = [3, 4 + 0x89B698BF % 100, 4 + 0x58B7491D % 100, 4 + 0, 1]
    assert frame.select(vocabulary.encode("c"))["c"].to_list() == expected
    lazy = frame.lazy().select(vocabulary.encode("c")).collect(engine="streaming")
    assert lazy["c"].to_list() == expected


@settings(max_examples=50, deadline=None)
@given(VALUES, st.integers(0, 2))
def test_a_given_vocabulary_keeps_its_order(values, buckets):
    given_values = ["z", "B", "never seen", ""]
    vocabulary = Vocabulary.given(pl.Series(given_values), count_values(pl.Series(values, dtype=pl.String)), buckets)
    counts = Counter(values)
    assert vocabulary.values.to_list() == given_values
    assert vocabulary.counts.to_list() == [counts[v] for v in given_values]
    assert vocabulary.null_count == counts[None]
    assert vocabulary.oov_count == sum(n for v, n in counts.items() if v is not None and v not in given_values)
    assert vocabulary.cardinality == 7 + buckets
    assert pl.DataFrame({"c": ["B", "z"]}).select(vocabulary.encode("c"))["c"].to_list() == [4, 3]


@settings(max_examples=80, deadline=None)
@given(VALUES, VALUES, st.integers(1, 3), st.one_of(st.none(), st.integers(1, 4)), st.integers(0, 3))
def test_extending_moves_no_id_and_counts_every_row(old, new, min_count, top_k, buckets):
    before = Vocabulary.fit(count_values(pl.Series(old, dtype=pl.String)), top_k=top_k, hash_buckets=buckets)
    counts = count_values(pl.Series(new, dtype=pl.String))
    after = before.extended(counts, min_count, dropped=["B"], top_k=top_k)
    known, seen = before.values.to_list(), Counter(v for v in new if v is not None)
    fresh = (
        []
        if buckets
        else sorted(
            (v for v in seen if v not in known and seen[v] >= min_count and v != "B"), key=lambda v: (-seen[v], v)
        )
    )
    assert after.values.to_list() == known + fresh[:top_k]
    assert after.null_count + after.oov_count + after.counts.sum() == len(old) + len(new)
    assert after.cardinality == before.cardinality + len(fresh[:top_k])
    # A value keeps its id unless it had none of its own and has one now: also in the buckets behind the values.
    frame = pl.DataFrame({"c": pl.Series(old + new + ["never"], dtype=pl.String)})
    ids = [frame.select(v.encode("c"))["c"].to_list() for v in (before, after)]
    for value, was, now in zip(frame["c"], *ids, strict=True):
        assert now == was or (was == 2 and value in fresh), value
    same = before.counted(counts)
    assert same.values.equals(before.values) and same.cardinality == before.cardinality
    assert same.counts.to_list() == [old.count(v) + new.count(v) for v in known]

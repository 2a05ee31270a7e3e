"""Rows come back in whole keys, in order, whatever the sizes."""

import itertools

import polars as pl
import pytest

from recsys.cleaning import spill
from recsys.cleaning.profile import load_profile
from recsys.cleaning.sessions import HASH, add_hash

VS = load_profile("visual_studio")
SCHEMA = {"user_id": pl.String(), "row": pl.Int64(), "more": pl.String(), HASH: pl.UInt32()}


def frames():
    rows = pl.DataFrame({"user_id": [f"u{i * 7 % 31}" for i in range(1000)], "row": range(1000)})
    return [add_hash(rows[start : start + 130], VS) for start in range(0, 1000, 130)]


def groups_of(spilled, rows):
    found = [spilled.read(*limits) for limits in spilled.ranges(rows)]
    return [group for group in found if group is not None]


@pytest.mark.parametrize("rows_a_file", [1, 300, 10_000])
@pytest.mark.parametrize("rows_a_group", [1, 200, 10_000])
def test_groups_hold_whole_keys_in_order(tmp_path, monkeypatch, rows_a_file, rows_a_group):
    monkeypatch.setattr(spill, "ROWS_A_FILE", rows_a_file)
    store = spill.Spill(tmp_path, SCHEMA, fine=64)
    for frame in frames():
        store.add(frame)
    groups = groups_of(store.finish(), rows_a_group)
    users = [set(g["user_id"]) for g in groups]
    assert sum(map(len, users)) == len(set.union(*users)) == 31
    back = pl.concat(groups)
    assert sorted(back["row"]) == list(range(1000))
    assert back["more"].null_count() == 1000
    for _, rows in back.group_by("user_id"):
        assert rows["row"].is_sorted()
    ranges = [(g[HASH].min(), g[HASH].max()) for g in groups]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    if rows_a_group == 200:
        assert len(groups) > 3


def test_nothing_in_nothing_out(tmp_path):
    store = spill.Spill(tmp_path, SCHEMA)
    store.add(frames()[0].clear())
    assert groups_of(store.finish(), 10) == []


def test_rows_of_two_spills_follow_each_other(tmp_path):
    parts = []
    for name, chosen in (("a", frames()[:3]), ("b", frames()[3:])):
        (tmp_path / name).mkdir()
        store = spill.Spill(tmp_path / name, SCHEMA, fine=64)
        for frame in chosen:
            store.add(frame)
        parts.append(store.finish())
    back = pl.concat(groups_of(parts[0] + parts[1], 200))
    assert sorted(back["row"]) == list(range(1000))
    assert all(rows["row"].is_sorted() for _, rows in back.group_by("user_id"))


def test_more_buckets_for_larger_inputs():
    small, large, huge = (spill.fine_buckets(size) for size in (10**6, 20 * 10**9, 10**15))
    assert spill.FEWEST == small < large < huge == spill.MOST

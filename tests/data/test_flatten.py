"""Parquet shards to flat arrays: any cut into batches of rows gives the same, and bad shards are refused by name."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data import flatten as module
from recsys.data.flatten import flatten, open_flat
from recsys.errors import InputError
from tests.data.sequences import make_frame

DTYPES = {"item_id": "int32", "timestamp_interval": "float32"}


def write(folder: Path, *frames: pl.DataFrame, **options: int) -> list[Path]:
    files = [folder / f"part-{i}.parquet" for i in range(len(frames))]
    for frame, file in zip(frames, files, strict=True):
        frame.write_parquet(file, **options)
    return files


@pytest.mark.parametrize("at_once", [1, 7, 10**6])
def test_batches_of_rows_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int):
    lengths = np.random.default_rng(0).integers(0, 9, 200).tolist()
    frame = make_frame(lengths).with_columns(scored_from=pl.int_range(pl.len(), dtype=pl.Int32) % 5)
    files = write(tmp_path, frame[:90], frame[90:90], frame[90:], row_group_size=13)
    monkeypatch.setattr(module, "_EVENTS_AT_ONCE", at_once)
    (tmp_path / "flat").mkdir()
    flatten(files, DTYPES, tmp_path / "flat")
    flat = open_flat(tmp_path / "flat")
    assert flat.offsets.tolist() == [0, *np.cumsum(lengths).tolist()]
    for name, dtype in DTYPES.items():
        values = [v for row in frame[name].to_list() for v in row]
        assert flat.columns[name].tolist() == values and flat.columns[name].dtype == dtype
    assert flat.keys == frame["session_id"].to_list() and flat.groups == frame["user_id"].to_list()
    assert flat.scored_from is not None and flat.scored_from.tolist() == frame["scored_from"].to_list()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.lit([None], dtype=pl.List(pl.Int32)).alias("item_id"), "column 'item_id' holds nulls"),
        (pl.lit(None, dtype=pl.List(pl.Int32)).alias("item_id"), "column 'item_id' holds nulls"),
        (pl.lit(3).alias("item_id"), "column 'item_id' is int32, not a list"),
        (pl.lit([2**40]).alias("item_id"), "column 'item_id': .*1099511627776"),
        (pl.col("item_id").list.head(1), "lists of 'timestamp_interval' and 'item_id' differ in length"),
        (pl.lit(1, dtype=pl.Int32).alias("scored_from"), "column 'scored_from' is here and not in part-0.parquet"),
    ],
)
def test_bad_shards_are_named(tmp_path: Path, change: pl.Expr, message: str):
    frame = make_frame([2, 3])
    files = write(tmp_path, frame, frame.with_columns(change))
    with pytest.raises(InputError, match=rf"part-1\.parquet: {message}"):
        flatten(files, DTYPES, tmp_path)


def test_columns_that_only_some_shards_have_are_named(tmp_path: Path):
    frame = make_frame([2, 3])
    for column in ("user_id", "item_id"):
        with pytest.raises(InputError, match=rf"part-1\.parquet: column '{column}' is missing"):
            flatten(write(tmp_path, frame, frame.drop(column)), DTYPES, tmp_path)


def test_places_are_checked_and_their_row_named(tmp_path: Path):
    frame = make_frame([2, 3, 4, 5])
    for bad, shown in ((-1, "-1"), (None, "None")):
        scored = frame.with_columns(scored_from=pl.Series([1, 2, bad, 1], dtype=pl.Int32))
        with pytest.raises(InputError, match=rf"part-0\.parquet: row 3: 'scored_from' is {shown}"):
            flatten(write(tmp_path, scored, row_group_size=2), DTYPES, tmp_path)


def test_damaged_files_are_named(tmp_path: Path):
    (file,) = write(tmp_path, make_frame([200] * 50))
    whole = file.read_bytes()
    for damaged in (whole[:100], b"", whole[:50] + bytes(2000) + whole[2050:]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"part-0\.parquet: not readable as Parquet: .*; preprocess again"):
            flatten([file], DTYPES, tmp_path)

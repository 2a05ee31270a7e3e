"""Sequences as flat arrays, and windows gathered from them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import SequenceDataset, Windows
from recsys.errors import InputError
from tests.data.sequences import make_dataset, make_frame, make_items, make_schema, write_dataset


def test_gather_equals_slicing_row_by_row():
    data = make_dataset([3, 0, 7, 1])
    windows = Windows(np.array([0, 2, 2, 3]), np.array([0, 3, 5, 10]), np.array([3, 7, 10, 11]))
    columns, lengths = data.gather(windows)
    assert lengths.tolist() == [3, 4, 5, 1]
    for name, padded in columns.items():
        assert padded.shape == (4, 5) and padded.dtype == data.columns[name].dtype
        for row, (start, stop) in enumerate(zip(windows.start, windows.stop, strict=True)):
            assert padded[row, : stop - start].tolist() == data.columns[name][start:stop].tolist()
            assert (padded[row, stop - start :] == 0).all()


def test_no_windows_and_empty_windows_gather_nothing():
    data = make_dataset([2, 2])
    columns, lengths = data.gather(Windows(*(np.zeros(0, dtype=np.int64),) * 3))
    assert lengths.shape == (0,) and columns["item_id"].shape == (0, 0)
    columns, lengths = data.gather(Windows(np.array([0, 0]), np.array([0, 0]), np.array([0, 2])))
    assert lengths.tolist() == [0, 2] and columns["item_id"][0].tolist() == [0, 0]


def test_columns_are_narrow():
    frame = make_frame([3, 2]).with_columns(pl.col("item_id").cast(pl.List(pl.Int64)))
    data = SequenceDataset.from_frame(frame, make_schema(), make_items())
    assert {name: str(values.dtype) for name, values in data.columns.items()} == {
        "item_id": "int32",
        "cat": "int32",
        "timestamp_interval": "float32",
        "merge_count": "float32",
    }
    assert data.items.tolist() == [i for row in frame["item_id"].to_list() for i in row]


def test_item_columns_and_groups_come_along():
    data = make_dataset([2, 2, 2])
    assert data.keys == ["s0", "s1", "s2"]
    assert data.groups == ["u0", "u0", "u1"]
    assert data.item_columns["classification"].tolist() == make_items()["classification"].to_list()
    alone = SequenceDataset.from_frame(make_frame([2]).drop("user_id"), make_schema(), make_items())
    assert alone.groups is alone.keys


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("without", [[], ["user_id"], ["scored_from"]])
def test_mapped_from_disk_it_is_the_same_as_in_memory(tmp_path: Path, shards: int, without: list[str]):
    lengths = [4, 0, 1, 30, 2, 2, 9]
    frame = (
        make_frame(lengths).with_columns(scored_from=pl.Series([1, 0, 1, 29, 3, 1, 4], dtype=pl.Int32)).drop(without)
    )
    data = write_dataset(tmp_path, frame, shards)
    expected = SequenceDataset.from_frame(frame, make_schema(), make_items())
    for _ in range(2):  # built, then opened
        found = SequenceDataset.load(data, "train")
        assert found.offsets.tolist() == expected.offsets.tolist()
        assert found.columns.keys() == expected.columns.keys()
        for name, values in expected.columns.items():
            assert found.columns[name].dtype == values.dtype and found.columns[name].tolist() == values.tolist()
        assert found.keys == expected.keys and found.groups == expected.groups
        assert (found.groups is found.keys) == ("user_id" in without)
        assert found.first_scored.tolist() == ([1] * 7 if "scored_from" in without else [1, 1, 1, 29, 3, 1, 4])
        assert (found.scored_from is None) == ("scored_from" in without)


def test_a_split_without_a_sequence_loads(tmp_path: Path):
    found = SequenceDataset.load(write_dataset(tmp_path, make_frame([3]).clear(), 1), "train")
    assert len(found) == 0 and found.items.tolist() == [] and list(found.keys) == []


def test_missing_split_and_folder_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="is no sequence dataset"):
        SequenceDataset.load(tmp_path, "train")
    write_dataset(tmp_path, make_frame([3]), 1)
    with pytest.raises(InputError, match="no split 'test'"):
        SequenceDataset.load(tmp_path, "test")


def test_a_missing_column_is_named():
    data = pl.DataFrame({"session_id": ["a"], "timestamp": [[1]], "item_id": [[3]]})
    with pytest.raises(InputError, match="column 'cat' of the schema is missing"):
        SequenceDataset.from_frame(data, make_schema(), make_items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cat": [[3, 4], [None]]}, "column 'cat' has 2 values for 3 events"),
        ({"cat": [[3], [3]]}, "column 'cat' has 2 values for 3 events"),
        ({"scored_from": [1, -2]}, "row 2: 'scored_from' is -2"),
    ],
)
def test_frames_that_do_not_hold_together_are_refused(change: dict[str, list[object]], message: str):
    frame = make_frame([2, 1]).with_columns(pl.Series(name, values) for name, values in change.items())
    with pytest.raises(InputError, match=message):
        SequenceDataset.from_frame(frame, make_schema(), make_items())

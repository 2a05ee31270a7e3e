"""Sequences as flat arrays, and windows gathered from them."""

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import SequenceDataset, Windows
from recsys.errors import InputError
from tests.data.sequences import make_dataset, make_items, make_schema


def test_gather_equals_slicing_row_by_row():
    data = make_dataset([3, 0, 7, 1])
    windows = Windows(np.array([0, 2, 2, 3]), np.array([0, 3, 5, 10]), np.array([3, 7, 10, 11]))
    columns, lengths = data.gather(windows)
    assert lengths.tolist() == [3, 4, 5, 1]
    for name, padded in columns.items():
        assert padded.shape == (4, 5)
        for row, (start, stop) in enumerate(zip(windows.start, windows.stop, strict=True)):
            assert padded[row, : stop - start].tolist() == data.columns[name][start:stop].tolist()
            assert (padded[row, stop - start :] == 0).all()


def test_item_columns_and_groups_come_along():
    data = make_dataset([2, 2, 2])
    assert data.keys == ["s0", "s1", "s2"]
    assert data.groups == ["u0", "u0", "u1"]
    assert data.item_columns["classification"].tolist() == make_items()["classification"].to_list()


def test_load_reads_what_preprocess_writes(tmp_path):
    make_schema().save(tmp_path / "schema.json")
    (tmp_path / "workflow").mkdir()
    make_items().write_parquet(tmp_path / "workflow" / "items.parquet")
    (tmp_path / "train").mkdir()
    for shard, ids in enumerate(([[3, 4]], [[5], []])):
        pl.DataFrame(
            {
                "session_id": [f"{shard}-{n}" for n in range(len(ids))],
                "timestamp": pl.Series([list(range(len(i))) for i in ids], dtype=pl.List(pl.Int64)),
                "item_id": pl.Series(ids, dtype=pl.List(pl.Int32)),
                "cat": pl.Series(ids, dtype=pl.List(pl.Int32)),
                "timestamp_interval": pl.Series(ids, dtype=pl.List(pl.Float32)),
                "merge_count": pl.Series(ids, dtype=pl.List(pl.Float32)),
            }
        ).write_parquet(tmp_path / "train" / f"part-{shard:05d}.parquet")
    data = SequenceDataset.load(tmp_path, "train")
    assert data.items.tolist() == [3, 4, 5]
    assert data.lengths.tolist() == [2, 1, 0]
    assert data.groups == data.keys == ["0-0", "1-0", "1-1"]
    with pytest.raises(InputError, match="no split 'test'"):
        SequenceDataset.load(tmp_path, "test")


def test_a_missing_column_is_named():
    data = pl.DataFrame({"session_id": ["a"], "timestamp": [[1]], "item_id": [[3]]})
    with pytest.raises(InputError, match="column 'cat' of the schema is missing"):
        SequenceDataset.from_frame(data, make_schema(), make_items())

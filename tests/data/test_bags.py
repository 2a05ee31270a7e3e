"""Lists of ids in flat arrays against plain lists: taken, gathered, written and mapped again, put into batches."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.bags import Bags
from recsys.data.collate import Collator
from recsys.data.dataset import SequenceDataset, Windows
from recsys.errors import InputError
from recsys.nn.masking import causal
from recsys.schema import Column, Kind, Schema, Scope, Tag
from tests.data.sequences import make_frame, make_items, make_schema

LENGTHS = [3, 0, 5, 1, 4]
MORE = [
    Column(name="tags", kind=Kind.CATEGORICAL, cardinality=9, multi_valued=True),
    Column(name="country", kind=Kind.CATEGORICAL, cardinality=6, scope=Scope.SEQUENCE, tags=[Tag.CONTEXT]),
    Column(name="age", kind=Kind.CONTINUOUS, scope=Scope.SEQUENCE, dtype="float32", tags=[Tag.CONTEXT]),
]
SCHEMA = Schema(columns=[*make_schema().columns, *MORE])


def tagged_frame(lengths: list[int] = LENGTHS, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    tags = [[rng.integers(1, 9, rng.integers(0, 4)).tolist() for _ in range(n)] for n in lengths]
    return make_frame(lengths).with_columns(
        pl.Series("tags", tags, dtype=pl.List(pl.List(pl.Int32))),
        pl.Series("country", [3 + n % 3 for n in range(len(lengths))], dtype=pl.Int32),
        pl.Series("age", rng.normal(size=len(lengths)), dtype=pl.Float32),
    )


def tagged() -> SequenceDataset:
    return SequenceDataset.from_frame(tagged_frame(), SCHEMA, make_items())


def write(folder: Path, frame: pl.DataFrame, shards: int = 3) -> Path:
    SCHEMA.save(folder / "schema.json")
    (folder / "workflow").mkdir(exist_ok=True)
    make_items().write_parquet(folder / "workflow" / "items.parquet")
    (folder / "train").mkdir(exist_ok=True)
    rows = -(-frame.height // shards)
    for shard in range(shards):
        frame[shard * rows : (shard + 1) * rows].write_parquet(folder / "train" / f"part-{shard}.parquet")
    return folder


@given(st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=8), st.data())
def test_lists_are_taken_as_asked(lists: list[list[int]], data: st.DataObject) -> None:
    offsets = np.cumsum([0, *map(len, lists)])
    bags = Bags(np.array([i for ids in lists for i in ids], dtype=np.int32), offsets)
    events = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=10))
    keep = data.draw(st.lists(st.booleans(), min_size=len(events), max_size=len(events)))
    for mask in (None, np.array(keep, dtype=bool)):
        values, ends = bags.take(np.array(events, dtype=np.int64), mask)
        expected = [lists[e] if mask is None or kept else [] for e, kept in zip(events, keep, strict=True)]
        assert [values[a:b].tolist() for a, b in pairwise(ends)] == expected
        assert values.dtype == ends.dtype == np.int64


def test_mapped_from_files_as_in_memory(tmp_path: Path) -> None:
    expected, found = tagged(), SequenceDataset.load(write(tmp_path, tagged_frame()), "train")
    assert set(found.columns) == set(expected.columns) == {"item_id", "cat", "timestamp_interval", "merge_count"}
    for dataset in (expected, found):
        assert dataset.bags["tags"].values.dtype == np.int32
        assert dataset.context["country"].tolist() == [3, 4, 5, 3, 4] and dataset.context["age"].dtype == np.float32
    for array in ("values", "offsets"):
        assert np.array_equal(getattr(found.bags["tags"], array), getattr(expected.bags["tags"], array))
    assert np.array_equal(found.context["age"], expected.context["age"])
    again = SequenceDataset.load(tmp_path, "train")
    assert np.array_equal(again.bags["tags"].values, expected.bags["tags"].values)


@pytest.mark.parametrize("ahead", [True, False])
def test_batches_hold_the_lists_of_their_events(ahead: bool) -> None:
    dataset, lists = tagged(), tagged_frame()["tags"].to_list()
    rows = np.array([4, 0, 2])
    windows = Windows(rows, dataset.offsets[rows] + np.array([1, 0, 0]), dataset.offsets[rows + 1])
    values, offsets = dataset.gather_bags(windows, ahead)["tags"]
    time = 5 - ahead
    assert offsets.shape == (3 * time + 1,)
    found = [values[a:b].tolist() for a, b in pairwise(offsets)]
    for place, (row, first) in enumerate(zip(rows, (1, 0, 0), strict=True)):
        own = lists[row][first : len(lists[row]) - ahead]
        assert found[place * time : (place + 1) * time] == own + [[]] * (time - len(own))


def test_a_batch_of_every_form() -> None:
    dataset = tagged()
    rows = np.array([2, 4])
    batch = Collator(dataset, ["item_id"], causal)(Windows(rows, dataset.offsets[rows], dataset.offsets[rows + 1]))
    inputs = batch.inputs
    assert inputs["item_id"].shape == (2, 4) and inputs["tags.offsets"].shape == (9,)
    assert inputs["country"].tolist() == [5, 4]
    assert np.array_equal(inputs["age"].numpy(), dataset.context["age"][rows])
    events = dataset.events(np.array([int(dataset.offsets[2]), int(dataset.offsets[4])]))
    assert events["country"].tolist() == [[5, 4]] and events["item_id"].shape == (1, 2)
    assert events["tags"].tolist() == [i for row in (2, 4) for i in tagged_frame()["tags"].to_list()[row][0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tags": pl.col("item_id")}, r"'tags' is .*list.*, not a list of lists a sequence; preprocess again"),
        ({"tags": pl.col("tags").list.head(1)}, "lists of 'tags' and of other columns differ in length"),
        ({"country": pl.col("item_id")}, "'country' is .*list.*, not one value a sequence; preprocess again"),
        ({"country": pl.lit(None, pl.Int32)}, "'country' holds nulls, not one value a sequence"),
        ({"item_id": pl.col("tags")}, "column 'item_id'.*preprocess again"),
    ],
)
def test_shards_of_another_form_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    folder = write(tmp_path, tagged_frame().with_columns(**change), shards=1)
    with pytest.raises(InputError, match=rf"part-0.parquet: .*{message}"):
        SequenceDataset.load(folder, "train")


def test_a_torn_copy_is_built_again(tmp_path: Path) -> None:
    write(tmp_path, tagged_frame())
    SequenceDataset.load(tmp_path, "train")
    (copy,) = tmp_path.glob(".cache/train-*")
    np.save(copy / "bag-0.npy", np.zeros(2, dtype=np.int32))
    found = SequenceDataset.load(tmp_path, "train")
    assert np.array_equal(found.bags["tags"].values, tagged().bags["tags"].values)

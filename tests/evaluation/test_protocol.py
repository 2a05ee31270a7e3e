"""Hashes that tell data apart, and the groups of the bootstrap."""

import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl

from recsys.data.dataset import SequenceDataset
from recsys.data.names import Names
from recsys.evaluation.protocol import dataset_source, events_source, groups
from tests.data.sequences import make_items, select
from tests.data.test_bags import SCHEMA, tagged, tagged_frame


def test_hash_changes_with_the_data_alone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    data = Path(shutil.copytree(folders[0], tmp_path / "copy"))
    original = dataset_source(folders[0], "test")
    assert dataset_source(data, "test") == original
    (file,) = (data / "test").glob("*.parquet")
    pl.read_parquet(file).head(-1).write_parquet(file)
    changed = dataset_source(data, "test")
    assert changed["sha256"]["test"] != original["sha256"]["test"]
    assert changed["sha256"]["train"] == original["sha256"]["train"]
    assert "uncovered" not in changed["rule"]


def test_hash_of_events_sees_every_column_and_order(dataset: SequenceDataset) -> None:
    original = events_source(dataset)["sha256"]
    assert events_source(select(dataset, range(len(dataset))))["sha256"] == original
    assert events_source(select(dataset, range(len(dataset))[::-1]))["sha256"] != original
    for name, values in dataset.columns.items():
        other = values.copy()
        other[0] += 1
        assert events_source(replace(dataset, columns={**dataset.columns, name: other}))["sha256"] != original


def test_session_stands_in_for_an_unknown_user(dataset: SequenceDataset) -> None:
    users = list(dataset.groups)
    partly = replace(dataset, groups=Names.of([None if i == 1 else user for i, user in enumerate(users)]))
    found = groups(partly).to_list()
    assert found[1] == f"session {dataset.keys[1]}"
    assert found[:1] + found[2:] == users[:1] + users[2:]


def test_lists_and_context_are_part_of_the_hash() -> None:
    original = events_source(tagged())["sha256"]
    assert events_source(tagged())["sha256"] == original
    for changed in (
        tagged_frame().with_columns(tags=pl.col("tags").list.reverse()),
        tagged_frame().with_columns(country=pl.col("country").reverse()),
    ):
        assert events_source(SequenceDataset.from_frame(changed, SCHEMA, make_items()))["sha256"] != original

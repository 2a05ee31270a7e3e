"""What a saved workflow looks like to another program, and that nothing is lost on the way."""

import json
from pathlib import Path

import polars as pl
import pytest

from recsys.errors import SchemaError
from recsys.etl import Workflow
from recsys.etl.storage import ITEMS_FILE, WORKFLOW_FILE, load, save, vocabulary_file
from tests.tiny_run import make_commands, make_config, make_events


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    workflow = Workflow(make_config()).fit(make_events(sessions=20), make_commands())
    workflow.save(tmp_path / "workflow")
    return tmp_path / "workflow"


def test_files_are_readable_without_us(folder: Path) -> None:
    events = make_events(sessions=20)
    counted = events["item_id"].value_counts().sort(["count", "item_id"], descending=[True, False])
    vocabulary = pl.read_parquet(folder / vocabulary_file("item_id"))
    assert vocabulary.columns == ["item_id", "item_id_size"]
    assert vocabulary.rows() == counted.rows()
    items = pl.read_parquet(folder / ITEMS_FILE)
    assert items["id"].to_list() == list(range(3 + counted.height))
    assert items.select("item_id", "count").rows()[3:] == counted.rows()
    values = json.loads((folder / WORKFLOW_FILE).read_text())
    assert values["version"] == 1 and values["reserved_counts"]["item_id"] == {"null": 0, "oov": 0}
    assert {path.suffix for path in folder.iterdir()} == {".json", ".parquet", ".pbtxt"}


def test_what_is_loaded_and_saved_again_is_the_same(folder: Path, tmp_path: Path) -> None:
    fitted = load(folder)
    save(tmp_path / "again", fitted)
    for path in folder.iterdir():
        other = tmp_path / "again" / path.name
        if path.suffix != ".parquet":
            assert other.read_text() == path.read_text()
        else:
            assert pl.read_parquet(other).equals(pl.read_parquet(path))
    assert len(list((tmp_path / "again").iterdir())) == len(list(folder.iterdir()))


def test_vocabulary_of_other_values_is_refused(folder: Path) -> None:
    path = folder / vocabulary_file("classification")
    table = pl.read_parquet(path)
    table.with_columns(pl.col("classification").reverse()).write_parquet(path)
    with pytest.raises(SchemaError, match=r"unique\.classification\.parquet: other values than workflow\.json"):
        load(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"version": 1}', '{"version": 99}', "\x00"])
def test_workflow_json_of_another_form_is_named(text: str, folder: Path) -> None:
    (folder / WORKFLOW_FILE).write_text(text)
    with pytest.raises(SchemaError, match=r"workflow\.json: (not a saved workflow|version 99; this program reads)"):
        load(folder)

"""A bundle whose parts do not fit each other."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from recsys.errors import InputError
from recsys.serving.bundle import Bundle
from recsys.serving.integrity import MANIFEST, read_manifest, seal, sha256_of
from tests.shared_bundle import shared_bundle


@pytest.mark.parametrize(("table", "axis"), [("streams", 0), ("output", 1)])
def test_tables_of_other_items_than_the_vocabulary_are_refused(
    table: str, axis: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Sealed again by whoever added a row: it would rank an item that has no name."""
    folder = Path(shutil.copytree(shared_bundle(tmp_path_factory).bundle, tmp_path / "b"))
    file = folder / "tables" / f"{table}.npy"
    values = np.load(file)
    np.save(file, np.concatenate([values, values.take([-1], axis)], axis))
    manifest = read_manifest(folder)
    manifest["files"][f"tables/{table}.npy"] = {"sha256": sha256_of(file), "bytes": file.stat().st_size}
    (folder / MANIFEST).write_text(seal(manifest))
    with pytest.raises(
        InputError, match=rf"'table.{table}' has shape .*18.*, the vocabulary 17 ids; export the run again"
    ):
        Bundle.open(folder)

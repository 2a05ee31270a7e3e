"""The flat copy of a split: built once, shared, rebuilt when it must be, and no part of the dataset."""

import errno
import fcntl
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from recsys.data import cache
from recsys.data.dataset import SequenceDataset
from recsys.errors import InputError
from recsys.run_directory import dataset_fingerprint
from tests.data.sequences import make_frame, write_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return write_dataset(path, make_frame([4, 2, 7, 1]), 2)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that copies were built in; building takes a moment, so that others come in between."""
    seen: list[Path] = []
    original = cache.flatten

    def slow(files, dtypes, work, further=None):
        seen.append(work)
        time.sleep(0.05)
        original(files, dtypes, work, further)

    monkeypatch.setattr(cache, "flatten", slow)
    return seen


def copies(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / ".cache").iterdir() if p.is_dir())


def test_built_once_and_mapped(folder: Path, builds: list[Path]):
    items = SequenceDataset.load(folder, "train").items
    again = SequenceDataset.load(folder, "train").items
    assert len(builds) == 1 and len(copies(folder)) == 1
    assert items.tolist() == again.tolist()
    assert not again.flags.writeable and type(again.base).__name__ == "memmap"


def test_the_dataset_does_not_change(folder: Path, tmp_path: Path):
    before = dataset_fingerprint(folder)
    plain = shutil.copytree(folder, tmp_path / "plain")
    expected = SequenceDataset.load(folder, "train").items.tolist()
    assert dataset_fingerprint(folder) == before == dataset_fingerprint(plain)
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    assert SequenceDataset.load(copied, "train").items.tolist() == expected
    shutil.rmtree(folder / ".cache")
    assert SequenceDataset.load(folder, "train").items.tolist() == expected


def test_changed_shards_make_a_new_copy_and_the_old_one_goes(folder: Path, builds: list[Path]):
    shutil.copytree(folder / "train", folder / "train-more")
    old = SequenceDataset.load(folder, "train")
    other = SequenceDataset.load(folder, "train-more")
    before, first = old.items.tolist(), copies(folder)
    (file, *_) = sorted((folder / "train").glob("*.parquet"))
    pl.read_parquet(file).reverse().write_parquet(file)
    new = SequenceDataset.load(folder, "train")
    assert new.keys[:2] == ["s1", "s0"] and len(builds) == 3
    assert len(copies(folder)) == 2 and len(set(copies(folder)) & set(first)) == 1
    assert old.items.tolist() == before == other.items.tolist()  # still mapped
    assert len(SequenceDataset.load(folder, "train-more")) == 4 and len(builds) == 3


def test_another_schema_makes_another_copy(folder: Path, builds: list[Path]):
    SequenceDataset.load(folder, "train")
    text = (folder / "schema.json").read_text()
    (folder / "schema.json").write_text(text.replace('"cat"', '"merge_count2"'))
    with pytest.raises(InputError, match="part-00000.parquet: column 'merge_count2' is missing"):
        SequenceDataset.load(folder, "train")


def test_many_at_once_share_one_copy(folder: Path, builds: list[Path]):
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda _: SequenceDataset.load(folder, "train").items.tolist(), range(5)))
    assert len(builds) == 1 and all(items == found[0] for items in found)


def test_without_locks_the_first_copy_stays(folder: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch):
    meet = threading.Barrier(3)
    original = cache.flatten

    def together(files, dtypes, work, further=None):
        meet.wait(timeout=20)
        original(files, dtypes, work, further)

    def unknown(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(cache, "flatten", together)
    monkeypatch.setattr(fcntl, "flock", unknown)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: SequenceDataset.load(folder, "train").items.tolist(), range(3)))
    assert len(builds) == 3 and all(items == found[0] for items in found)
    assert len(copies(folder)) == 1 and not copies(folder)[0].startswith(".")


def test_read_only_datasets_have_their_copy_in_the_temporary_folder(
    folder: Path,
    builds: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (folder / ".cache").write_text("in the way")
    first = SequenceDataset.load(folder, "train")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{folder}: is not writable" in said and str(tmp_path / "tmp") in said
    assert SequenceDataset.load(folder, "train").items.tolist() == first.items.tolist()
    assert len(builds) == 1 and capsys.readouterr().err == ""
    (base,) = (tmp_path / "tmp").iterdir()
    base.chmod(0o777)
    with pytest.raises(InputError, match="is not a private folder"):
        SequenceDataset.load(folder, "train")


def test_a_copy_that_is_there_is_used_though_nothing_can_be_written(folder: Path, builds: list[Path]):
    expected = SequenceDataset.load(folder, "train").items.tolist()
    (folder / ".cache" / "train.lock").unlink()
    (folder / ".cache" / "train.lock").mkdir()  # cannot be opened as a file
    assert SequenceDataset.load(folder, "train").items.tolist() == expected
    assert len(builds) == 1


@pytest.mark.parametrize("file", ["column-0.npy", "names.arrow", "contents.json", "offsets.npy"])
def test_damaged_copies_are_built_again(folder: Path, builds: list[Path], file: str):
    expected = SequenceDataset.load(folder, "train")
    (copy,) = copies(folder)
    path = folder / ".cache" / copy / file
    path.write_bytes(path.read_bytes()[:-10])
    found = SequenceDataset.load(folder, "train")
    assert found.items.tolist() == make_items_of(folder) and found.keys == ["s0", "s1", "s2", "s3"]
    assert len(builds) == 2 and len(copies(folder)) == 1 and len(expected) == 4


def make_items_of(folder: Path) -> list[int]:
    frame = pl.read_parquet(folder / "train" / "*.parquet")
    return [item for row in frame["item_id"].to_list() for item in row]


def test_what_killed_builds_left_is_removed(folder: Path):
    left = folder / ".cache" / ".train-0123456789abcdef.xyz"
    left.mkdir(parents=True)
    (left / "column-0.npy").write_bytes(b"half")
    SequenceDataset.load(folder, "train")
    assert not left.exists() and len(copies(folder)) == 1


def test_no_room_is_said_and_nothing_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("recsys.data.flatten._Growing.append", full)
    with pytest.raises(InputError, match=r"cannot write the flat copy of 'train': .*No space left.*make room"):
        SequenceDataset.load(folder, "train")
    assert copies(folder) == []

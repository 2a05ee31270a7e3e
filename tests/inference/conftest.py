"""One tiny run for all tests of inference."""

from pathlib import Path

import pytest

from recsys.data.dataset import SequenceDataset
from recsys.inference import LoadedRun, load
from tests.tiny_run import make_run


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a dataset and of a run."""
    return make_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def run(folders: tuple[Path, Path]) -> LoadedRun:
    return load(folders[1], device="cpu")


@pytest.fixture(scope="session")
def dataset(folders: tuple[Path, Path]) -> SequenceDataset:
    return SequenceDataset.load(folders[0], "test")

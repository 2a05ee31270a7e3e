"""Pretrained models and a dataset on disk, made once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peft_ext.cases import save_data, save_model


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a pretrained model of a kind."""
    root = tmp_path_factory.mktemp("bases")

    def base(kind: str) -> Path:
        if not (root / kind).exists():
            save_model(kind, root / kind)
        return root / kind

    return base


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence dataset."""
    return save_data(tmp_path_factory.mktemp("data") / "dataset")

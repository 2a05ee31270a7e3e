"""One bundle over every kind of column, and a server of it, for all tests of the server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recsys.export import export
from recsys.serving.bundle import Bundle
from recsys.serving.verify import GOLDEN
from tests.tiny_bundle import make_rich_run
from tests.tiny_server import Served, serving


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rich_run(tmp_path_factory.mktemp("rich"), backbone={"name": "sasrec", "hidden_size": 8})


@pytest.fixture(scope="session")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("bundle") / "b").path


@pytest.fixture(scope="session")
def bundle(folder: Path) -> Bundle:
    return Bundle.open(folder)


@pytest.fixture(scope="session")
def golden(folder: Path) -> list[dict[str, Any]]:
    """Golden requests: `columns`, `remove_seen`."""
    requests: list[dict[str, Any]] = json.loads((folder / GOLDEN).read_text())["requests"]
    return requests


@pytest.fixture(scope="session")
def served(bundle: Bundle) -> Iterator[Served]:
    with serving(bundle) as running:
        yield running

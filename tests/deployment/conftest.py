"""One Triton for all tests that need the real one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.shared_bundle import shared_bundle

if TYPE_CHECKING:
    from tests.tiny_triton import Running


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Running"]:
    from tests.tiny_triton import triton  # PyTorch, which most files here do without

    made = shared_bundle(tmp_path_factory)
    with triton(tmp_path_factory.mktemp("served"), made.run, made.bundle) as started:
        yield started

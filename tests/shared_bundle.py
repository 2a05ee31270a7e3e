"""One bundle for all tests of a session that only read it: exporting takes ten seconds."""

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Shared:
    """A LLaMA that reads every kind of column, and its bundle; no test may change them."""

    run: Path
    bundle: Path


def shared_bundle(factory: pytest.TempPathFactory) -> Shared:
    """Make it, or find what another process of the same session of pytest (xdist) has made."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = folder / "made"
        found = Shared(made / "run", made / "bundle")
        if not found.bundle.exists():  # `export` writes it at one blow
            from recsys.export import export  # loads PyTorch, which whoever finds a bundle does not need
            from tests.tiny_bundle import make_rich_run

            shutil.rmtree(made, ignore_errors=True)  # of somebody who was stopped
            made.mkdir()
            export(make_rich_run(made), found.bundle)
        return found

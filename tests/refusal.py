"""Fixtures of the tests of commands that must refuse; a test module that wants them imports them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers.trainer  # noqa: F401  (says on standard output, once and on import, that wandb is offline)

from recsys.cli import main
from recsys.config import save_config
from recsys.data.cache import CACHE
from tests.tiny_run import make_config, make_events, make_run

Check = Callable[..., str]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset/ and run/, not to be written to."""
    folder = tmp_path_factory.mktemp("tiny")
    make_run(folder)
    return folder


@pytest.fixture
def work(tiny: Path, tmp_path: Path) -> Path:
    """A folder of a test's own with dataset/, run/, config.yaml and events.csv."""
    folder = tmp_path / "work"
    shutil.copytree(tiny, folder)
    save_config(make_config(), folder / "config.yaml")
    make_events().write_csv(folder / "events.csv")
    return folder


@pytest.fixture
def refused(work: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run a command that must fail: status 2, one line on standard error, no file made, changed or removed."""

    def check(*arguments: object, entry: Callable[[list[str]], int] = main) -> str:
        before = contents(work)
        capsys.readouterr()
        status = entry([str(a) for a in arguments])
        printed = capsys.readouterr()
        assert status == 2, printed
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1 and printed.err.endswith("\n"), printed.err
        assert printed.out == ""
        assert contents(work) == before
        return printed.err

    return check


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and time of change; a dataset's own cache may come and go."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if CACHE not in path.parts):
        facts = path.stat()
        found[str(path.relative_to(folder))] = (facts.st_size if path.is_file() else 0, facts.st_mtime_ns)
    return found

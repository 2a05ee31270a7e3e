"""The server's environment: made whole or not at all, and never taken for another. pip and venv are stand-ins."""

import os
import platform
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployment import triton_environment
from deployment.triton_environment import MARKER, NUMPY, PACKAGES, WHEEL, Environment, default_folder, prepare
from recsys.errors import RecsysError, RunError

SERVER = "pytriton/tritonserver"
STUB = f"{SERVER}/python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
FILES = (
    STUB,
    f"{SERVER}/bin/tritonserver",
    f"{SERVER}/backends/python/libtriton_python.so",
    "nvidia_pytriton.libs/a.so",
)
OTHER = ("pytriton/__init__.py", "nvidia_pytriton.dist-info/METADATA")
PYTHON = """#!/bin/sh
printf '%s\\n' "$*" >> '{calls}'
case "$*" in
*' pip '*' install '*) {install} ;;
*' pip '*' download '*)
    {download}
    while [ "$1" != --dest ]; do shift; done
    cp '{wheel}' "$2" ;;
*) PYTHONPATH='{modules}' exec '{python}' -S "$@" ;;
esac
"""
"""Does nothing as pip but hand out a local wheel; runs code with the modules of one folder only."""


@dataclass
class Index:
    """What pip and the models' Python do from now on, and what they were asked."""

    folder: Path
    install: str = "true"
    download: str = "true"

    @property
    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def create(self, place: Path, **options: bool) -> None:
        """In place of `venv.create`."""
        assert options == {"with_pip": True, "symlinks": True}
        names = {"calls": "calls", "wheel": "triton.whl", "modules": "modules"}
        paths = {key: str(self.folder / name) for key, name in names.items()}
        text = PYTHON.format(**paths, install=self.install, download=self.download, python=sys.executable)
        python = place / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(text)
        python.chmod(0o755)

    def pack(self, *names: str) -> None:
        with zipfile.ZipFile(self.folder / "triton.whl", "w") as archive:
            for name in names:
                archive.writestr(name, name)

    def module(self, name: str, text: str = "") -> None:
        (self.folder / "modules").mkdir(exist_ok=True)
        (self.folder / "modules" / f"{name}.py").write_text(text)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    folder = tmp_path / "index"
    folder.mkdir()
    made = Index(folder)
    made.pack(*FILES, *OTHER)
    made.module("numpy", f"__version__ = '{NUMPY}'")
    made.module("onnxruntime")
    monkeypatch.setattr(venv, "create", made.create)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "triton"


def refusal(folder: Path, kind: type[RecsysError] = RunError) -> str:
    """The line that says why there is no environment."""
    with pytest.raises(kind) as caught:
        prepare(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_made_once_of_what_is_pinned(index: Index, folder: Path) -> None:
    environment = prepare(folder)
    install, download, *checks = index.calls
    assert install.endswith(f" install --only-binary=:all: {' '.join(PACKAGES)}")
    assert " download --no-deps --only-binary=:all: " in download and download.endswith(WHEEL)
    assert [call.partition(" ")[0] for call in checks] == ["-c"] * 3
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "dist", "venv"]
    copy = f"{SERVER}/backends/python/triton_python_backend_stub"
    unpacked = {str(p.relative_to(folder / "dist")) for p in (folder / "dist").rglob("*") if p.is_file()}
    assert unpacked == {*FILES, copy}
    for program in (environment.server / "bin" / "tritonserver", folder / "dist" / copy):
        assert os.access(program, os.X_OK)

    assert prepare(folder) == environment
    assert index.calls[5:] == checks, "the next start only looks whether all is well"


@pytest.mark.parametrize(
    ("step", "does", "said"),
    [
        (
            "install",
            "echo 'ERROR: no numpy'>&2; echo 'ERROR: No match'>&2; exit 1",
            "models: {} index: ERROR: No match",
        ),
        (
            "download",
            "echo 'WARNING: Retrying'>&2; echo 'ERROR: No net' >&2; exit 1",
            WHEEL + ": {} index: ERROR: No net",
        ),
        ("download", "exit 3", WHEEL + ": {} index: it said nothing"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing(step: str, does: str, said: str, index: Index, folder: Path) -> None:
    setattr(index, step, does)
    assert refusal(folder).endswith(said.format("cannot be had from the package"))
    assert not list(folder.parent.iterdir())
    setattr(index, step, "true")
    assert prepare(folder) == Environment(folder), "the next start makes it whole"


def test_a_wheel_for_other_pythons_leaves_nothing(index: Index, folder: Path) -> None:
    index.pack(*(name for name in FILES if name != STUB), STUB.replace("/3.", "/2."))
    assert refusal(folder) == f"{WHEEL} has no stub for Python {STUB.split('/')[3]}; run this with Python 3.11"
    assert not list(folder.parent.iterdir())


def test_an_interrupt_leaves_nothing(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(place: Path, **options: bool) -> None:
        index.create(place, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(venv, "create", create)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder)
    assert not list(folder.parent.iterdir())


def test_a_python_without_venv(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian's, where ensurepip is a package of its own: the venv is there, its pip cannot be made."""

    def create(place: Path, **options: bool) -> None:
        place.mkdir()
        raise subprocess.CalledProcessError(1, "python -m ensurepip")

    monkeypatch.setattr(venv, "create", create)
    said = refusal(folder)
    assert said.startswith(f"{sys.executable}: cannot make a venv with pip; install python3.") and "-venv" in said
    assert not list(folder.parent.iterdir())


def test_another_machine_is_told_so_first(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert refusal(folder) == "Linux aarch64: the server's wheel is for Linux on x86_64"
    assert not index.calls and not folder.parent.exists()


def test_a_folder_that_is_not_whole_is_left_as_it_is(index: Index, folder: Path) -> None:
    index.create(folder / "venv", with_pip=True, symlinks=True)  # all but the marker, the last that is written
    (folder / "dist").mkdir()
    assert refusal(folder) == f"{folder}: holds no whole environment of the server; remove it or choose another place"
    assert sorted(path.name for path in folder.iterdir()) == ["dist", "venv"] and not index.calls


@pytest.mark.parametrize("number", range(len(PACKAGES) + 1))
def test_other_versions_are_not_taken_for_these(number: int, index: Index, folder: Path) -> None:
    prepare(folder)
    versions = [WHEEL, *PACKAGES]
    versions[number] += "1"
    (folder / MARKER).write_text("\n".join(versions) + "\n")
    said = refusal(folder)
    assert said.startswith(f"{folder}: made of other versions than {WHEEL}, {PACKAGES[0]}, ")
    assert said.endswith(f"{PACKAGES[-1]}; remove {folder} and start again")


def test_new_versions_are_kept_beside_the_old(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = prepare()
    assert first.folder == default_folder() and first.folder.is_relative_to(tmp_path / "cache" / "recsys")
    monkeypatch.setattr(triton_environment, "WHEEL", "nvidia-pytriton==9.9.9")
    second = prepare()
    assert "9.9.9" in second.folder.name and sum(" download " in call for call in index.calls) == 2
    assert (first.folder / MARKER).is_file()


@pytest.mark.parametrize(
    ("module", "text"),
    [("numpy", "__version__ = '2.0.0'"), ("numpy", "raise ImportError"), ("onnxruntime", "raise ImportError")],
)
def test_models_need_their_packages(module: str, text: str, index: Index, folder: Path) -> None:
    prepare(folder)
    index.module(module, text)
    wanted = f"{folder}: the server's models need numpy {NUMPY} and onnxruntime; remove {folder} and start again"
    assert refusal(folder) == wanted


def test_models_need_the_library_of_python(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(folder)
    monkeypatch.setattr(triton_environment, "_PYTHON", "3.99")
    wanted = "need libpython3.99.so.1.0; install it (Debian: apt-get install libpython3.99)"
    assert refusal(folder) == f"{folder}: the server's models {wanted}"


def test_a_python_that_is_gone(index: Index, folder: Path) -> None:
    environment = prepare(folder)
    environment.python.unlink()
    environment.python.symlink_to(folder / "python-of-last-year")
    wanted = f"{folder}: the Python of the server's models is gone; remove {folder} and start again"
    assert refusal(folder) == wanted


def test_the_server_sees_nothing_of_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "secret")
    variables = Environment(folder).variables()
    assert "secret" not in variables.values()
    assert variables["PATH"].split(os.pathsep)[0] == str(folder / "venv" / "bin")

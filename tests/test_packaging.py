"""The lock files, pyproject and the imports in the sources say the same thing."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import combinations
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
OWN = {"recsys", "data_processing", "model", "peft_ext", "deployment", "scripts", "tests"}


def read_lock(extra: str = "") -> dict[str, str]:
    text = (ROOT / f"requirements{'-' if extra else ''}{extra}.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), "name==version only"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def read_archives() -> dict[str, str]:
    """The source archives that pip would refuse by their own requirements (pyproject.toml says why)."""
    lines = (ROOT / "archives-nvtabular.lock").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


EXTRAS = ("dev", "llm", "nvtabular", "rag", "ray", "track")


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_lock_meets_the_bounds_of_pyproject(extra: str, project: dict) -> None:
    pins = read_lock() | read_lock(extra)
    wanted = project["optional-dependencies"][extra] if extra else project["dependencies"]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_locks_agree_where_they_overlap() -> None:
    base, locks = read_lock(), [read_lock(extra) for extra in EXTRAS]
    for one, other in combinations(locks, 2):
        both = one.keys() & other.keys()
        assert {name: one[name] for name in both} == {name: other[name] for name in both}
    assert not any(base.keys() & lock.keys() for lock in locks)


def imported_distributions(package: str) -> set[str]:
    """The distributions that a package's sources import; what is not installed stands under its own name."""
    known = packages_distributions()
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for top in {name.split(".")[0] for name in names} - OWN - set(sys.stdlib_module_names):
                found.add(canonicalize_name(known.get(top, [top])[0]))
    return found


@pytest.mark.parametrize("package", ["recsys", "peft_ext", "data_processing"])
def test_every_import_is_declared(package: str, project: dict) -> None:
    extras = {name: texts for name, texts in project["optional-dependencies"].items() if name != "dev"}
    texts = [*project["dependencies"], *(text for texts in extras.values() for text in texts)]
    declared = {canonicalize_name(Requirement(text).name) for text in texts} | set(read_archives())
    assert imported_distributions(package) - declared == set()

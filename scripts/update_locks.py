"""Write the lock files from the packages installed in this environment.

`requirements.lock` gets the exact versions of everything that pyproject's dependencies need, and
`requirements-<extra>.lock` what each locked extra needs beyond that. Versions only: no addresses, no hashes.
To move a pin: install the new version into `.venv`, run the tests, run this, read the diff.

Example: .venv/bin/python scripts/update_locks.py
"""

import argparse
import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOCKED_EXTRAS = ("dev", "llm", "nvtabular", "rag", "ray", "serve", "track")


def closure(requirements: list[str]) -> dict[str, str]:
    """Return {name: exact version} of the requirements and all that they need on this platform.

    Raises `importlib.metadata.PackageNotFoundError` where one of them is not installed here.
    """
    pins: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    queue = [(Requirement(text), "") for text in requirements]
    while queue:
        requirement, wanted_by_extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": wanted_by_extra}):
            continue
        found = importlib.metadata.distribution(requirement.name)
        # The local part (+cpu, +cu130) names a build, which is the machine's affair and not the lock's.
        pins[found.metadata["Name"]] = Version(found.version).public
        for extra in ("", *requirement.extras):
            if (key := (canonicalize_name(requirement.name), extra)) not in done:
                done.add(key)
                queue += [(Requirement(text), extra) for text in found.requires or []]
    return pins


def write_lock(path: Path, pins: dict[str, str]) -> None:
    """Write one `name==version` a line, sorted by name, under a line that says where it comes from."""
    lines = [f"{name}=={version}" for name, version in sorted(pins.items(), key=lambda pin: pin[0].lower())]
    path.write_text("\n".join(["# Written by scripts/update_locks.py", *lines]) + "\n", encoding="utf-8")
    print(f"{path.name}: {len(lines)} packages")


def main() -> None:
    """Write every lock file of the project."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    # setup.sh installs the project without build isolation, so the build's own needs are pinned too.
    base = closure(pyproject["project"]["dependencies"] + pyproject["build-system"]["requires"])
    write_lock(ROOT / "requirements.lock", base)
    for extra in LOCKED_EXTRAS:
        pins = closure(pyproject["project"]["optional-dependencies"][extra])
        added = {name: version for name, version in pins.items() if name not in base}
        write_lock(ROOT / f"requirements-{extra}.lock", added)


if __name__ == "__main__":
    main()

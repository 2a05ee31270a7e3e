"""What stands for an input in the key of a stage: files by size and time, small ones by content."""

from pathlib import Path
from typing import Any

from data_processing.side_information_table import FIELDS
from recsys.cleaning.dictionary import LABEL, MESSAGE, labels_of
from recsys.cleaning.fitting import AlignConfig, ServiceConfig, SideInformationConfig
from recsys.cleaning.profile import Profile
from recsys.cleaning.redundancy import read_decisions
from recsys.cleaning.small_tables import read_rows
from recsys.cleaning.workflows import Workflows
from recsys.errors import InputError
from recsys.runtime import sha256_file
from recsys.schema import ITEM_ID


def listing(path: Path) -> list[list[Any]]:
    """Names, sizes and times of the files under a path: reading terabytes to see that nothing changed is no option."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [[str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def content(path: Path | None) -> str | None:
    """Hash of a file."""
    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder; name a file' if path.is_dir() else 'no such file'}")
    return sha256_file(path)


def require_readable(
    profile: Profile,
    *,
    dictionary_overrides: Path | None,
    redundancy_overrides: Path | None,
    workflows: Path | None,
    side_information_overrides: Path | None,
) -> None:
    """Read what a person has decided, so that a mistake in the file shows before the first stage and not hours later.

    Raises:
        InputError, ConfigError: names file, row and fix. Whether commands exist is seen when their stage runs.
    """
    if dictionary_overrides is not None:
        labels_of(read_rows(dictionary_overrides, (MESSAGE, LABEL)), dictionary_overrides)
    if redundancy_overrides is not None and profile.redundancy is not None:
        read_decisions(redundancy_overrides, profile.redundancy.drop)
    if workflows is not None:
        Workflows.load(workflows)
    if side_information_overrides is not None:
        read_rows(side_information_overrides, (ITEM_ID,), any_of=FIELDS)


def service_files(section: AlignConfig | SideInformationConfig | None) -> dict[str, list[list[Any]]]:
    """The files that services of a section read."""
    services = [value for _, value in section or () if isinstance(value, ServiceConfig)]
    return {s.path: listing(Path(s.path)) for s in services if s.path is not None and Path(s.path).exists()}

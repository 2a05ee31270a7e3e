"""A small run of all stages for the tests of the chain: its log and profile, how it dies, what lies in a folder."""

import hashlib
import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import polars as pl

from data_processing import chain
from data_processing.chain import Settings
from data_processing.reconstruct import reconstruct
from data_processing.run import run
from data_processing.simulate import NoiseConfig, simulate
from recsys.cleaning.fitting import RedundancyConfig, WorkflowConfig
from recsys.cleaning.profile import Profile, RareConfig, load_profile

ROWS_A_PART = 150
STAGES = ["reconstruct", "split", "align", "redundancy", "filter", "workflows"]
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["data_processing.run"])


def small_profile(**change: object) -> Profile:
    """Vectorworks with thresholds so low that every stage finds something in a small log, and rare commands leave."""
    sections = {
        "redundancy": RedundancyConfig(min_count=3, min_at_once=0, min_confidence=0.8),
        "workflows": WorkflowConfig(merges=20, min_count=4),
        "rare": RareConfig(min_count=3, action="drop"),
    }
    return load_profile("vectorworks").model_copy(update=sections | change)


def small_logs(folder: Path, **change: Any) -> Path:
    """Folder of two or three log files of twelve users."""
    values = {"users": 12, "sessions_per_user": 3, "events_per_session": 25, "seed": 4, "rows_per_file": 3000} | change
    noise = NoiseConfig(rare_rate=0.1, short_session_rate=0.1)
    simulate(folder / "simulated", file_format="parquet", noise=noise, **values)
    return folder / "simulated" / "logs"


def run_in_parts(settings: Settings, out: Path, report: Callable[[str], None] = lambda line: None) -> Path:
    """`run` with parts so small that there are several."""
    small = partial(reconstruct, rows_a_part=ROWS_A_PART)
    before, chain.reconstruct = chain.reconstruct, small  # type: ignore[assignment]
    try:
        return run(settings, out, report)
    finally:
        chain.reconstruct = before


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file, hidden ones too."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def inodes(folder: Path) -> dict[str, tuple[int, int]]:
    """Number and time of change of every file and folder."""
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*"))}


def rerun(settings: Settings, out: Path, **how: Any) -> list[str]:
    """The stages that ran, in order; those that did not are as they were, to the last inode."""
    before = {name: events_of(out / name) for name in STAGES if (out / name).exists()}
    lines: list[str] = []
    run(settings, out, lines.append, **how)
    ran = [line.split()[0] for line in lines if "finished before" not in line and "not of this run" not in line]
    for name in before.keys() - ran:
        assert events_of(out / name) == before[name], name
    for name in {line.split()[0] for line in lines if "not of this run" not in line}:
        profile = out / name / "cleaning" / "profile.yaml"
        assert not profile.exists() or load_profile(profile) == settings.profile, name
    assert not list(out.glob(".*"))
    return ran


def events_of(stage: Path) -> dict[str, tuple[int, int]]:
    """Number and time of change of all that only a run of the stage writes: the profile is handed on."""
    return {name: number for name, number in inodes(stage).items() if name not in ("cleaning", "cleaning/profile.yaml")}


@dataclass(frozen=True)
class Death:
    """Where a run dies: in the write whose path in OUT matches `path`, half-way, or (`after`) once it is done."""

    path: str  # regular expression
    after: bool = False


def run_apart(settings: Settings, out: Path, death: Death | None = None) -> int:
    """`run_in_parts` in a process of its own; returns its exit code, -9 where it died as it was told."""
    process = _PROCESSES.Process(target=_run_apart, args=(settings, out, death))
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _run_apart(settings: Settings, out: Path, death: Death | None) -> None:
    if death is not None:
        pl.DataFrame.write_parquet = _dying(pl.DataFrame.write_parquet, out, death)  # type: ignore[method-assign]
        Path.write_text = _dying(Path.write_text, out, death)  # type: ignore[method-assign]
        Path.rename = _dying(Path.rename, out, death)  # type: ignore[method-assign]
    run_in_parts(settings, out)


def _dying(function: Callable[..., Any], out: Path, death: Death) -> Callable[..., Any]:
    is_rename = function.__name__ == "rename"
    is_method_of_path = function.__name__ == "write_text"

    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        target = Path(given[0] if is_method_of_path else given[1])
        name = str(target.relative_to(out)) if target.is_relative_to(out) else ""
        if not re.search(death.path, name):
            return function(*given, **named)
        if death.after:
            function(*given, **named)
        elif not is_rename:
            target.write_bytes(b"{ cut off")
        os.kill(os.getpid(), signal.SIGKILL)

    return call

"""Makes the throw-away environment of the peers and runs each one's training script in a process of its own."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.errors import InputError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REQUIREMENTS = HERE / "requirements.txt"
STAMP = "peers.json"
START_SECONDS = 600  # of wall time a process may take beside training: imports, reading, warm-up on a busy machine


@dataclass(frozen=True)
class Tool:
    """One library: the name of its figures, its training script, and the Python that has it.

    Attributes:
        missing: why it cannot be measured; None where it can.
    """

    name: str
    script: Path
    python: Path
    version: str
    missing: str | None = None


@dataclass
class Tally:
    """What a tool's runs at one length add up to; `reason` says why there is nothing."""

    labels: int = 0
    seconds: float = 0.0
    peak_memory_gb: float = 0.0
    differs: list[str] = field(default_factory=list)
    reason: str | None = None

    @property
    def rate(self) -> float | None:
        """Label positions per CPU second."""
        return self.labels / self.seconds if self.reason is None and self.seconds else None

    @property
    def memory(self) -> float | None:
        """Peak memory in GB."""
        return self.peak_memory_gb if self.rate else None


Tallies = dict[tuple[str, int], Tally]


def read_requirements(path: Path = REQUIREMENTS) -> dict[str, str]:
    """Exact requirement of each distribution: ``{"torch": "torch==2.13.0", ...}``."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {line.split("==")[0].split("[")[0]: line for line in lines if line}


def peer_environment(folder: Path, requirements: Path = REQUIREMENTS) -> list[Tool]:
    """The peers in the environment `folder`, which is made (with pip's own settings) unless it is there already.

    A peer that pip refuses is left out and says so; the rest are installed.

    Raises:
        InputError: `folder` is inside the repository, or holds something else.
    """
    folder = folder.resolve()
    if folder.is_relative_to(ROOT):
        raise InputError(f"--peers-env {folder}: is inside the repository; name a folder outside {ROOT}")
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = folder / STAMP
    found = json.loads(stamp.read_text()) if stamp.is_file() else None
    if found is None and folder.is_dir() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise InputError(f"--peers-env {folder}: holds something else; name an empty or a new folder")
    wanted = read_requirements(requirements)
    python = folder / "bin" / "python"
    if found is None or found["requirements"] != digest:
        failures = _install(folder, python, wanted)
        found = {"requirements": digest, "failures": failures}
        stamp.write_text(json.dumps(found, indent=2) + "\n")
    peers = [name for name in wanted if name != "torch"]
    return [
        Tool(
            name=peer.split("-")[0],
            script=HERE / f"train_{peer.split('-')[0]}.py",
            python=python,
            version=wanted[peer].split("==")[1],
            missing=found["failures"].get(peer),
        )
        for peer in peers
    ]


def _install(folder: Path, python: Path, wanted: dict[str, str]) -> dict[str, str]:
    """All together where that works, else one after the other; gives pip's last word on those that failed."""
    print(f"making {folder}: {', '.join(wanted.values())}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    if _pip(python, list(wanted.values())) is None:
        return {}
    lines = {name: [wanted["torch"], line] for name, line in wanted.items() if name != "torch"}
    return {name: reason for name, line in lines.items() if (reason := _pip(python, line)) is not None}


def _pip(python: Path, requirements: list[str]) -> str | None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--progress-bar", "off", *requirements]
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    return None if done.returncode == 0 else "cannot be installed: " + last_line(done.stderr)


def last_line(text: str) -> str:
    """The last line that says something, cut to a readable length."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def run_once(tool: Tool, data: Path, length: int, seconds: float) -> dict[str, Any]:
    """One training of `tool`: the figures of its JSON line, or ``{"reason": ...}``."""
    if tool.missing:
        return {"reason": tool.missing}
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    environment = {**os.environ, **one, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)  # our packages must not pass for the peers'
    command = [str(tool.python), str(tool.script), str(data.absolute()), f"--length={length}", f"--seconds={seconds}"]
    limit = START_SECONDS + 10 * seconds
    try:
        with tempfile.TemporaryDirectory() as work:  # some libraries write where they stand
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=work, timeout=limit)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"reason": f"failed at length {length}: {last_line(str(error))}"}
    if done.returncode:
        return {"reason": f"failed at length {length}: {last_line(done.stderr)}"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(tools: Sequence[Tool], data: Path, lengths: Sequence[int], seconds: float, rounds: int) -> Tallies:
    """Every tool at every length, `rounds` times in turn, about `seconds` of CPU in all for each."""
    tallies = {(tool.name, length): Tally() for length in lengths for tool in tools}
    for _ in range(rounds):
        for (name, length), tally in tallies.items():
            if tally.reason is not None:
                continue
            tool = next(tool for tool in tools if tool.name == name)
            found = run_once(tool, data, length, seconds / rounds)
            print(f"{name}, length {length}: {found}", file=sys.stderr, flush=True)
            tally.reason = found.get("reason")
            if tally.reason is None:
                tally.labels += found["labels"]
                tally.seconds += found["seconds"]
                tally.peak_memory_gb = max(tally.peak_memory_gb, found["peak_memory_gb"])
                tally.differs = found["differs"]
    return tallies


def figures(ours: str, tools: Sequence[Tool], tallies: Tallies, lengths: Sequence[int]) -> dict[str, Any]:
    """Flat figures: of each tool at each length, then ours against the best peer; null where there is nothing.

    The memory ratio is the worst of the lengths, each against the peer that took least.
    """
    found: dict[str, Any] = {}
    for tool in tools:
        found[f"{tool.name}_version"] = tool.version
        reasons = []
        for length in lengths:
            tally = tallies[tool.name, length]
            found[f"{tool.name}_positions_per_cpu_second_len{length}"] = rounded(tally.rate, 0)
            found[f"{tool.name}_peak_memory_gb_len{length}"] = rounded(tally.memory, 3)
            reasons += [tally.reason] if tally.reason else []
        found[f"{tool.name}_differs"] = "; ".join(tallies[tool.name, lengths[0]].differs)
        found[f"{tool.name}_reason"] = "; ".join(dict.fromkeys(reasons)) or None
    ratios = []
    for length in lengths:
        peers = [tallies[tool.name, length] for tool in tools if tool.name != ours]
        rates = [tally.rate for tally in peers if tally.rate]
        memories = [tally.memory for tally in peers if tally.memory]
        own = tallies[ours, length]
        found[f"speedup_vs_best_peer_len{length}"] = rounded(own.rate / max(rates), 2) if own.rate and rates else None
        ratios += [own.memory / min(memories)] if own.memory and memories else []
    found["peak_memory_ratio_vs_best_peer"] = rounded(max(ratios), 3) if len(ratios) == len(lengths) else None
    return found


def rounded(value: float | None, digits: int) -> float | None:
    """None stays None; no digits give an integer."""
    return None if value is None else round(value, digits or None)


def table(ours: str, tools: Sequence[Tool], found: dict[str, Any], lengths: Sequence[int]) -> str:
    """The figures for a person."""
    head = "".join(f"{f'len {n}':>12}{'GB':>8}" for n in lengths)
    lines = [f"{'SASRec shape':<14}{head}   label positions per CPU second and peak memory, one thread"]
    for tool in tools:
        cells = ""
        for length in lengths:
            rate = found[f"{tool.name}_positions_per_cpu_second_len{length}"]
            memory = found[f"{tool.name}_peak_memory_gb_len{length}"]
            cells += f"{'-' if rate is None else format(rate, ','):>12}{'-' if memory is None else memory:>8}"
        why = found[f"{tool.name}_reason"]
        lines.append(f"{tool.name:<14}{cells}   {tool.version}{f'  {why}' if why else ''}")
    speedups = ", ".join(f"{found[f'speedup_vs_best_peer_len{n}']}x at length {n}" for n in lengths)
    lines.append(f"{ours} against the best peer: {speedups}; memory {found['peak_memory_ratio_vs_best_peer']}x")
    return "\n".join(lines)

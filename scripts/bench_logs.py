"""Speed and memory of cleaning, stage by stage, on generated Vectorworks logs, beside a plain row-by-row reference.

    python scripts/bench_logs.py --rows 20000000 --json bench_logs.json

The logs have the real log's mix: 85 % CTS, 12 % UNDO, 3 % Tool and Menu rows. Each size runs in a process of its own,
so that its peak memory is its own. `raw_rows_per_second` is of stages 1 and 4 together (reading, undo, splits,
dictionary, redundancy, rare commands); `memory_growth` compares the largest size with a tenth of it,
`memory_growth_of_doubling` with half of it. The core-hours for 32 billion rows (the original's log) follow from the CPU
seconds of the largest size.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data_processing.chain import Chain, Settings
from data_processing.parts import EventsFolder
from data_processing.simulate import NoiseConfig, simulate
from recsys.cleaning.profile import load_profile
from recsys.runtime import atomic_file, command_line, peak_memory_gb

CTS = 0.85  # share of CTS rows in the real log
ROWS_A_USER = 11_300  # of the generator with that share, about
ALL_ROWS = 32_000_000_000  # of the original log
REFERENCE_ROWS = 1_000_000
_ROW = re.compile(r"(Tool|Menu|End Event|Undo Event|Redo Event|Undo and Remove Action): *(?:\(MAX-\d+\) *)?(.*)", re.S)


def clean_row_by_row(path: Path) -> dict[str, list[tuple[str, datetime, int]]]:
    """The same rules as a person would write them first: one pass over the rows, lists a session, no library."""
    profile = load_profile("vectorworks")
    noise, ids = tuple(profile.noise.prefixes), set(profile.noise.ids)
    sessions: dict[str, list[tuple[datetime, str, str]]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["cat"] not in ("UNDO", "Menu", "Tool"):
                continue
            parts = _ROW.fullmatch(row["message"])
            if parts is None or row["message"].startswith(noise):
                continue
            kind, name = parts.group(1), " ".join(parts.group(2).split())
            if kind == "Menu":
                name = re.sub(r"(\(-?\d+\)) ?\(\d+\)$", r"\1", name)
            number = re.search(r"\((-?\d+)\)$", name)
            if kind != "Menu" and number and int(number.group(1)) in ids:
                continue
            time_ = datetime.strptime(row["ts"], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
            sessions[row["session_anonymized"]].append((time_, kind, name))
    return {s: _without_undone(sorted(rows, key=lambda r: r[0])) for s, rows in sessions.items()}


def _without_undone(rows: list[tuple[datetime, str, str]]) -> list[tuple[str, datetime, int]]:
    keep = [kind in ("Tool", "Menu", "End Event") for _, kind, _ in rows]
    done: list[tuple[str, list[int]]] = []
    undone: list[tuple[str, list[int]]] = []
    starter: int | None = None
    for at, (_, kind, name) in enumerate(rows):
        if kind in ("Tool", "Menu"):
            starter = at
        elif kind == "End Event":
            done.append((name, [at] if starter is None else [at, starter]))
            starter, undone = None, []
        else:
            source, target = (undone, done) if kind == "Redo Event" else (done, undone)
            for entry in reversed(source):
                if entry[0] == name:
                    source.remove(entry)
                    if kind != "Undo and Remove Action":
                        target.append(entry)
                    for row in entry[1]:
                        keep[row] = kind == "Redo Event"
                    break
    events: list[tuple[str, datetime, int]] = []
    for (moment, kind, name), kept in zip(rows, keep, strict=True):
        item = f"{kind}: {name}"
        if kept and events and events[-1][0] == item:
            events[-1] = (item, events[-1][1], events[-1][2] + 1)
        elif kept:
            events.append((item, moment, 1))
    return events


def measure(logs: Path, out: Path) -> dict[str, Any]:
    """Run every stage on `logs` here: seconds and CPU seconds of each, and the most memory this process ever used."""
    chain = Chain(Settings(logs, load_profile("vectorworks")), out)
    chain.open()
    stages: dict[str, dict[str, float]] = {}
    for stage in chain.stages():
        key = chain.key(stage)
        began, cpu = time.perf_counter(), time.process_time()
        stage.make(out / stage.name)
        stages[stage.name] = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        chain.finish(stage, key)
    report = EventsFolder(out / "filter").report()
    facts = {"rows": report["stages"][0]["rows_in"], "events": report["result"]["events"]}
    return {**facts, "stages": stages, "peak_memory_gb": peak_memory_gb()}


def cleaning_seconds(found: dict[str, Any]) -> float:
    """Seconds of stages 1 and 4."""
    return sum(found["stages"][name]["seconds"] for name in ("reconstruct", "split", "filter"))


def _in_a_process(logs: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", str(logs), str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _run_sizes(rows: int, file_format: str, folder: Path) -> list[dict[str, Any]]:
    found = []
    for share in (10, 2, 1):
        logs = folder / f"logs-{share}"
        users = max(1, round(rows / share / ROWS_A_USER))
        simulate(logs, users=users, log_format="batch", file_format=file_format, noise=NoiseConfig(cts_share=CTS))
        found.append({"users": users, **_in_a_process(logs / "logs", folder / f"events-{share}")})
        print_stages(found[-1])
        if share > 1:
            _remove(logs)
    return found


def print_stages(found: dict[str, Any]) -> None:
    """A line a stage."""
    rows = found["rows"]
    print(f"\n{rows:,} rows of {found['users']:,} users, {found['events']:,} events, {found['peak_memory_gb']:.3f} GB")
    for name, took in {**found["stages"], "stages 1 and 4": {"seconds": cleaning_seconds(found)}}.items():
        cpu = f"{took['cpu']:>9.2f} CPU s" if "cpu" in took else ""
        print(f"  {name:<15} {took['seconds']:>9.2f} s {rows / took['seconds']:>14,.0f} raw rows/s {cpu}")


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _reference(folder: Path) -> tuple[float, float]:
    """Rows per second of the row-by-row reference and of ours, on one CSV log."""
    users = max(1, round(REFERENCE_ROWS / ROWS_A_USER))
    simulate(folder / "reference", users=users, log_format="batch", file_format="csv", noise=NoiseConfig(cts_share=CTS))
    logs = sorted((folder / "reference" / "logs").iterdir())
    started = time.perf_counter()
    events = [clean_row_by_row(path) for path in logs]
    seconds = time.perf_counter() - started
    ours = measure(folder / "reference" / "logs", folder / "reference-stages")
    plain, fast = ours["rows"] / seconds, ours["rows"] / cleaning_seconds(ours)
    sessions = sum(len(part) for part in events)
    print(
        f"\n{ours['rows']:,} rows row by row: {plain:,.0f} rows/s, {sessions} sessions; ours on the same: {fast:,.0f}"
    )
    return plain, fast


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python scripts/bench_logs.py --rows 2000000 --json bench_logs.json",
    )
    parser.add_argument("--rows", type=int, default=20_000_000, help="rows of the largest log, about")
    parser.add_argument("--file-format", choices=("csv", "parquet"), default="parquet")
    parser.add_argument("--work", type=Path, help="folder for the logs, made and removed (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="write the figures as one flat object")
    parser.add_argument("--measure", nargs=2, type=Path, metavar=("LOGS", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.measure:
        print(json.dumps(measure(*given.measure)))
        return
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        sizes = _run_sizes(given.rows, given.file_format, Path(work))
        row_by_row, on_the_same = _reference(Path(work))
    tenth, half, full = sizes
    hours = {name: took["cpu"] / full["rows"] * ALL_ROWS / 3600 for name, took in full["stages"].items()}
    figures = {
        "rows": full["rows"],
        "raw_rows_per_second": round(full["rows"] / cleaning_seconds(full)),
        "row_by_row_rows_per_second": round(row_by_row),
        "speedup_vs_row_by_row": round(on_the_same / row_by_row, 2),
        "peak_memory_gb": round(full["peak_memory_gb"], 3),
        "memory_growth": round(full["peak_memory_gb"] / tenth["peak_memory_gb"], 3),
        "memory_growth_of_doubling": round(full["peak_memory_gb"] / half["peak_memory_gb"], 3),
        "core_hours_for_32_billion_rows": round(sum(hours.values())),
    }
    figures |= {f"core_hours_{name}": round(value, 1) for name, value in hours.items()}
    print()
    for name, value in figures.items():
        print(f"{name:<32} {value:,}")
    if given.json:
        with atomic_file(given.json) as path:
            path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())

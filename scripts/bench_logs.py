"""Speed and memory of cleaning (stages 1 and 4) on generated Vectorworks logs, beside a plain row-by-row reference.

    python scripts/bench_logs.py --rows 20000000 --json bench_logs.json

Each size runs in a process of its own, so that its peak memory is its own. `memory_growth` compares the largest size
with a tenth of it, `memory_growth_of_doubling` with half of it.
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

from data_processing import clean
from data_processing.simulate import simulate
from recsys.cleaning.profile import load_profile
from recsys.runtime import atomic_file, command_line, peak_memory_gb

ROWS_A_USER = 3350  # of the generator's defaults, about
REFERENCE_ROWS = 200_000
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
    """Clean `logs` here and say how long it took and how much memory this process has ever used."""
    started = time.perf_counter()
    result = clean(logs, "vectorworks", out)
    rows = result.report["stages"][0]["rows_in"]
    seconds = time.perf_counter() - started
    return {"rows": rows, "seconds": seconds, "peak_memory_gb": peak_memory_gb(), **result.report["result"]}


def _in_a_process(logs: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", str(logs), str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _run_sizes(rows: int, file_format: str, folder: Path) -> list[dict[str, Any]]:
    found = []
    for share in (10, 2, 1):
        logs = folder / f"logs-{share}"
        users = max(1, round(rows / share / ROWS_A_USER))
        simulate(logs, users=users, log_format="batch", file_format=file_format)
        found.append({"users": users, **_in_a_process(logs / "logs", folder / f"events-{share}")})
        print(
            f"{found[-1]['rows']:>12,} rows {users:>7,} users {found[-1]['seconds']:>8.2f} s "
            f"{found[-1]['rows'] / found[-1]['seconds']:>12,.0f} rows/s  peak {found[-1]['peak_memory_gb']:.3f} GB"
        )
        if share > 1:
            _remove(logs)
    return found


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _reference(folder: Path) -> float:
    """Rows per second of the row-by-row reference, on a log of its own; its answer is checked against ours."""
    users = max(1, round(REFERENCE_ROWS / ROWS_A_USER))
    simulate(folder / "reference", users=users, log_format="batch", file_format="csv")
    logs = sorted((folder / "reference" / "logs").iterdir())
    started = time.perf_counter()
    events = [clean_row_by_row(path) for path in logs]
    seconds = time.perf_counter() - started
    ours = measure(folder / "reference" / "logs", folder / "reference-events")
    sessions = sum(len(part) for part in events)
    speed = ours["rows"] / seconds
    print(f"{ours['rows']:>12,} rows row by row {seconds:>8.2f} s {speed:>12,.0f} rows/s, {sessions} sessions")
    return speed


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python scripts/bench_logs.py --rows 2000000 --json bench_logs.json",
    )
    parser.add_argument("--rows", type=int, default=20_000_000, help="rows of the largest log, about")
    parser.add_argument("--file-format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--work", type=Path, help="folder for the logs, made and removed (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="write the figures as one flat object")
    parser.add_argument("--measure", nargs=2, type=Path, metavar=("LOGS", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.measure:
        print(json.dumps(measure(*given.measure)))
        return
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        sizes = _run_sizes(given.rows, given.file_format, Path(work))
        row_by_row = _reference(Path(work))
    tenth, half, full = sizes
    speed = full["rows"] / full["seconds"]
    figures = {
        "rows": full["rows"],
        "raw_rows_per_second": round(speed),
        "row_by_row_rows_per_second": round(row_by_row),
        "speedup_vs_row_by_row": round(speed / row_by_row, 2),
        "peak_memory_gb": round(full["peak_memory_gb"], 3),
        "memory_growth": round(full["peak_memory_gb"] / tenth["peak_memory_gb"], 3),
        "memory_growth_of_doubling": round(full["peak_memory_gb"] / half["peak_memory_gb"], 3),
    }
    for name, value in figures.items():
        print(f"{name:<28} {value:,}")
    if given.json:
        with atomic_file(given.json) as path:
            path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())

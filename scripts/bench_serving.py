"""Latency, throughput, cold start and memory of a served model: Triton's fused model and ensemble, and `recsys serve`.

    python scripts/bench_serving.py --json bench_serving.json
    python scripts/bench_serving.py --quick
    python scripts/bench_serving.py --minutes 10 --json bench_load.json
    python scripts/bench_serving.py --faults --json bench_faults.json

Makes a run on generated sessions (LLaMA of width 256 and 2 layers over five streams fused at width 256, 4,000 items, a
384-d text table, length 110, a few training steps), exports it, and asks each server in turn: callers that ask again
as soon as they have their answer, 1, 8 and 32 of them, with sessions of the full length, fused and ensemble in turns.
Every answer is compared with `recommend` of the run offline. Callers and servers share the cores; `--threads` of these
compute one request together, and each Triton model has as many instances, and `recsys serve` as many workers, as there
are cores for (two cores: two of one thread, or with `--threads 2` one of two).

`--minutes` measures instead how memory and answers hold: 8 callers on Triton's models and then on `recsys serve` for so
long each, with sessions of 1 event to twice the full length; memory at the begin, in the middle and at the end.

`--faults` measures instead how Triton comes back: while 8 callers ask `fused`, the process of a model is killed and
stopped, and the server itself is killed and made to hang, three times each; the slowest of the three is told.

| figure | what it is |
|---|---|
| `<way>_p50_ms_<n>_clients`, `..._p99_ms_...`, `..._requests_per_second_...` | as the caller sees it |
| `fused_p50_ms`, `ensemble_p50_over_fused` | of one caller |
| `requests_per_second_8_clients` | of the fused model |
| `in_process_p50_ms` | the same requests by `Bundle.recommend`, without any server |
| `fused_triton_share`, `ensemble_triton_share` | of a request's time in Triton, what no model computes (one caller) |
| `fused_cpu_ms`, `ensemble_cpu_ms` | processor time of all of Triton's processes a request (one caller) |
| `<server>_cold_start_seconds` | from the start of the process to the first right answer |
| `<server>_memory_mb` | of all its processes after the load, what they share counted once |
| `errors`, `wrong_answers` | of all requests |
| `<fault>_noticed_seconds`, `<fault>_mended_seconds` | until the supervisor acts, until right answers come again |
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deployment.export_triton import Settings, export_triton
from recsys.errors import RunError
from recsys.export.bundle import export
from recsys.runtime import atomic_file, command_line
from recsys.serving.bundle import Bundle
from scripts.serving.faults import suffer
from scripts.serving.load import K, Question, Tally, Way, drive, make_questions
from scripts.serving.made_run import Size, make_run
from scripts.serving.servers import Running, cores, local, own_share, supervised, triton

CLIENTS = (1, 8, 32)
ROUNDS = 4
LOADED = 8
"""Callers of the long load."""
SMALL = Size(items=400, length=40, width=64, layers=2)
ATTEMPTS = 200


@dataclass(frozen=True)
class Prepared:
    """What the servers answer from, and what they are asked."""

    bundle: Path
    repository: Path
    full: list[Question]
    mixed: list[Question]
    tolerance: float
    workers: int
    threads: int
    folder: Path


def prepare(folder: Path, size: Size, threads: int) -> Prepared:
    """Make the run, the bundle, the model repository, and questions with their answers."""
    run = make_run(folder, size)
    exported = export(run, folder / "bundle")
    workers = max(1, cores() // threads)
    repository = export_triton(exported.path, folder / "models", Settings(instances=workers, threads=threads))
    names = list(exported.manifest["requests"])
    lengths = np.random.default_rng(2).integers(1, 2 * size.length + 1, 64).tolist()
    full = make_questions(run, [size.length] * 32, names, seed=3)
    mixed = make_questions(run, lengths, names, seed=4)
    tolerance = float(exported.manifest["tolerance"])
    return Prepared(exported.path, repository, full, mixed, tolerance, workers, threads, folder)


def in_process(prepared: Prepared) -> float:
    """Median milliseconds of `Bundle.recommend`."""
    bundle = Bundle.open(prepared.bundle, threads=prepared.threads)
    seconds = []
    for n in range(ATTEMPTS):
        history = prepared.full[n % len(prepared.full)].history
        begin = time.perf_counter()
        bundle.recommend([history], K)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds)) * 1000


def measure(running: Running, prepared: Prepared, seconds: float) -> dict[tuple[str, int], Tally]:
    """Tallies by way and number of callers; ways in turns, so that what else the machine does meets them all."""
    found: dict[tuple[str, int], Tally] = {}
    for clients in CLIENTS:
        for way in running.ways:
            drive(way, clients, min(1.0, seconds), prepared.full, prepared.tolerance)  # connections, caches
        for _ in range(ROUNDS):
            for way in running.ways:
                tally = drive(way, clients, seconds / ROUNDS, prepared.full, prepared.tolerance)
                found.setdefault((way.name, clients), Tally()).add(tally)
    return found


def shares(running: Running, prepared: Prepared, seconds: float) -> dict[str, float]:
    """Triton's own part of the time of a request, and the processor time that one takes."""
    figures = {}
    for way in running.ways[:2]:
        before, begin = running.statistics(), running.cpu_seconds()
        drive(way, 1, seconds, prepared.full, prepared.tolerance)
        after, end = running.statistics(), running.cpu_seconds()
        figures[f"{way.name}_triton_share"] = round(own_share(before, after, way.model), 3)
        figures[f"{way.name}_cpu_ms"] = round((end - begin) * 1000 / (after[way.model][0] - before[way.model][0]), 2)
    return figures


def compare(prepared: Prepared, seconds: float) -> dict[str, Any]:
    """Figures of the servers in turn."""
    tallies: dict[tuple[str, int], Tally] = {}
    figures: dict[str, Any] = {"in_process_p50_ms": round(in_process(prepared), 2)}
    with triton(prepared.repository, prepared.folder / "triton.log") as running:
        figures["triton_cold_start_seconds"] = round(running.cold_start, 2)
        figures |= shares(running, prepared, seconds / 2)
        tallies |= measure(running, prepared, seconds)
        figures["triton_memory_mb"] = round(running.memory(), 1)
    with local(prepared.bundle, prepared.workers, prepared.threads, prepared.full[0]) as running:
        figures["local_cold_start_seconds"] = round(running.cold_start, 2)
        tallies |= measure(running, prepared, seconds)
        figures["local_memory_mb"] = round(running.memory(), 1)
    tell(list(tallies.values()))
    return {**headline(tallies), **figures, **details(tallies)}


def tell(tallies: Sequence[Tally]) -> None:
    """Print what went wrong, a few lines of it."""
    for line in sorted({line for tally in tallies for line in (*tally.errors, *tally.wrong)})[:5]:
        print(f"went wrong: {line}")


def headline(tallies: dict[tuple[str, int], Tally]) -> dict[str, Any]:
    """The figures that are asked for first."""
    fused, ensemble = (tallies[name, 1].milliseconds(50) for name in ("fused", "ensemble"))
    return {
        "fused_p50_ms": round(fused, 2),
        "ensemble_p50_over_fused": round(ensemble / fused, 3),
        "requests_per_second_8_clients": round(tallies["fused", 8].rate, 1),
        "errors": sum(len(tally.errors) for tally in tallies.values()),
        "wrong_answers": sum(len(tally.wrong) for tally in tallies.values()),
        "answers_compared": sum(len(tally.seconds) + len(tally.wrong) for tally in tallies.values()),
    }


def details(tallies: dict[tuple[str, int], Tally]) -> dict[str, float]:
    """Figures of every way and number of callers."""
    figures = {}
    for (name, clients), tally in tallies.items():
        for percent in (50, 99):
            figures[f"{name}_p{percent}_ms_{clients}_clients"] = round(tally.milliseconds(percent), 2)
        figures[f"{name}_requests_per_second_{clients}_clients"] = round(tally.rate, 1)
    return figures


def show(figures: dict[str, Any]) -> None:
    """One table, then the rest."""
    ways = [name.removesuffix("_p50_ms_1_clients") for name in figures if name.endswith("_p50_ms_1_clients")]
    if ways:
        print(f"{'':<12}" + "".join(f"{f'{clients} callers':>30}" for clients in CLIENTS))
        print(f"{'way':<12}" + f"{'p50 ms':>10}{'p99 ms':>10}{'a second':>10}" * len(CLIENTS))
    shown = set()
    for way in ways:
        names = [f"{way}_{part}_{n}_clients" for n in CLIENTS for part in ("p50_ms", "p99_ms", "requests_per_second")]
        shown |= set(names)
        print(f"{way:<12}" + "".join(f"{figures[name]:>10.1f}" for name in names))
    for name, value in figures.items():
        if name not in shown:
            print(f"{name}: {value}")


def endure(prepared: Prepared, minutes: float) -> dict[str, Any]:
    """Figures of a long load on Triton's models and then on the local server."""
    figures: dict[str, Any] = {"errors": 0, "wrong_answers": 0}
    for name in ("triton", "local"):
        with ExitStack() as stack:
            if name == "triton":
                running = stack.enter_context(triton(prepared.repository, prepared.folder / "triton.log"))
            else:
                server = local(prepared.bundle, prepared.workers, prepared.threads, prepared.full[0])
                running = stack.enter_context(server)
            warm = Tally()
            for way in running.ways:
                warm.add(drive(way, LOADED, 2.0, prepared.mixed, prepared.tolerance))
            found = {"begin": running.memory()}
            tallies = [warm]
            for part in ("middle", "end"):
                tallies += load_all(running.ways, minutes * 30, prepared)
                found[part] = running.memory()
        tell(tallies)
        figures["errors"] += sum(len(tally.errors) for tally in tallies)
        figures["wrong_answers"] += sum(len(tally.wrong) for tally in tallies)
        figures[f"{name}_load_answers"] = sum(len(tally.seconds) for tally in tallies)
        figures |= {f"{name}_memory_mb_{part}": round(size, 1) for part, size in found.items()}
        figures[f"{name}_memory_growth"] = round(found["end"] / found["begin"], 3)
    return figures


def load_all(ways: Sequence[Way], seconds: float, prepared: Prepared) -> list[Tally]:
    """Let the callers ask all ways at the same time."""
    tallies: list[Tally] = []

    def ask(way: Way, callers: int) -> None:
        tallies.append(drive(way, callers, seconds, prepared.mixed, prepared.tolerance))

    parts = [len(range(n, LOADED, len(ways))) for n in range(len(ways))]
    threads = [threading.Thread(target=ask, args=pair) for pair in zip(ways, parts, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tallies


@command_line
def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        prog="bench_serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="a measurement (default 10)")
    parser.add_argument("--quick", action="store_true", help="a smaller run and short measurements: about a minute")
    parser.add_argument("--threads", type=int, default=1, help="that compute a request together (default 1)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--minutes", type=float, help="load each server for so long instead")
    instead.add_argument("--faults", action="store_true", help="kill and stop Triton's processes under load instead")
    parser.add_argument("--json", "--out", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as work:
        prepared = prepare(Path(work), SMALL if options.quick else Size(), options.threads)
        if options.faults:
            made = partial(supervised, prepared.repository, prepared.folder / "triton.log")
            figures = suffer(made, prepared.full, prepared.tolerance)
        elif options.minutes:
            figures = endure(prepared, options.minutes)
        else:
            figures = compare(prepared, min(options.seconds, 1.0) if options.quick else options.seconds)
    show(figures)
    if options.json:
        with atomic_file(options.json) as file:
            file.write_text(json.dumps(figures, indent=2) + "\n")
    errors = figures.get("errors", 0)  # a server that is killed gives some
    if errors or figures["wrong_answers"]:
        raise RunError(f"{errors} errors and {figures['wrong_answers']} wrong answers; some stand above")


if __name__ == "__main__":
    sys.exit(main(None))

"""The servers that are measured: how long they take to start, what they hold in memory, where Triton's time goes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployment.triton import Supervisor
from deployment.triton_environment import prepare
from deployment.triton_server import ADMIN_KEY, Canary, Place, Server
from recsys.client import Client
from recsys.errors import RunError
from scripts.serving.load import K, Question, Way

PATIENCE = 180.0
_KEY = "of-the-benchmark"
_INFER = {"ensemble": ("transform", "embed", "rank", "decode"), "fused": ("fused",)}
"""Models that compute for a request to a model."""


@dataclass(frozen=True)
class Running:
    """A server that runs: its process, how long it took to its first right answer, and its models."""

    process: int
    cold_start: float
    ways: list[Way]
    address: str = ""

    def memory(self) -> float:
        """Megabytes of the process and all below it; what several share counts once (PSS)."""
        return sum(proportional_size(process) for process in [self.process, *below(self.process)]) / 1e6

    def cpu_seconds(self) -> float:
        """Of the process and all below it, since they started."""
        return sum(cpu_seconds(process) for process in [self.process, *below(self.process)])

    def statistics(self) -> dict[str, tuple[int, float, float]]:
        """Of each of Triton's models: requests, milliseconds in all, milliseconds of computing; since the start."""
        request = urllib.request.Request(f"{self.address}/v2/models/stats", headers={ADMIN_KEY: _KEY})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            models = json.load(answer)["model_stats"]
        found = {}
        for model in models:
            counted = model["inference_stats"]
            times = [counted[part]["ns"] / 1e6 for part in ("success", "compute_infer")]
            found[model["name"]] = (counted["success"]["count"], times[0], times[1])
        return found


def own_share(
    before: dict[str, tuple[int, float, float]], after: dict[str, tuple[int, float, float]], model: str
) -> float:
    """The part of a model's requests between two `Running.statistics` in which none of its steps computed."""
    requests = after[model][0] - before[model][0]
    whole = (after[model][1] - before[model][1]) / requests
    computing = 0.0
    for step in _INFER[model]:
        computing += (after[step][2] - before[step][2]) / (after[step][0] - before[step][0])
    return 1.0 - computing / whole


@contextmanager
def triton(repository: Path, log: Path) -> Iterator[Running]:
    """NVIDIA Triton on a model repository."""
    supervisor = supervised(repository, log, lambda _: None)
    place, address = supervisor.server.place, supervisor.canary.address
    begin = time.perf_counter()
    try:
        supervisor.start()
        taken = time.perf_counter() - begin
        assert supervisor.server.process is not None
        ways = [
            Way("fused", address, "fused"),
            Way("ensemble", address, "ensemble"),
            Way("fused_grpc", f"grpc://{place.host}:{place.grpc}", "fused"),
        ]
        yield Running(supervisor.server.process.pid, taken, ways, address)
    finally:
        supervisor.server.stop()


def supervised(repository: Path, log: Path, tell: Callable[[str], None]) -> Supervisor:
    """Of NVIDIA Triton on a model repository, at ports that are free; not started."""
    place = Place("127.0.0.1", *_free_ports(3))
    return Supervisor(Server(prepare(), repository, place, log, _KEY), Canary(repository, place), tell)


@contextmanager
def local(bundle: Path, workers: int, threads: int, first: Question) -> Iterator[Running]:
    """`recsys serve` on a bundle."""
    command = [sys.executable, "-m", "recsys.cli", "serve", "--bundle", str(bundle), "--port", "0"]
    begin = time.perf_counter()
    command += ["--workers", str(workers), "--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"(http://[\d.:]+)/v2/models/(\w+)", process.stdout.readline())
        if found is None:
            raise RunError("recsys serve did not start; what it printed stands above")
        way = Way("local", found[1], found[2])
        with Client(way.url, model=way.model, deadline=PATIENCE) as client:
            client.recommend(first.history, K)
        yield Running(process.pid, time.perf_counter() - begin, [way])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def below(process: int) -> list[int]:
    """Processes that a process has started, and those that these have."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:  # it has ended meanwhile
            continue
        children.setdefault(int(parent), []).append(int(place.name))
    found = children.get(process, [])
    return [*found, *(other for child in found for other in below(child))]


def proportional_size(process: int) -> int:
    """Bytes of a process in memory, of shared ones its part; 0 where it has ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def cpu_seconds(process: int) -> float:
    """Seconds of processor time of a process; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))

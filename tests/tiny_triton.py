"""A bundle on the real NVIDIA Triton, run as a person runs it, for tests."""

import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deployment.export_triton import Settings, export_triton
from deployment.triton_environment import prepare
from deployment.triton_server import Canary, Place
from recsys.serving import integrity, wire
from recsys.serving.bundle import Answer, Bundle
from recsys.serving.verify import difference

KEY = "a-key-of-the-tests"
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Running:
    """A supervised server, and what it has said."""

    place: Place
    run: Path
    bundle: Bundle
    canary: Canary
    process: subprocess.Popen[str]
    repository: Path
    told: list[str] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self.news:
                self.told.append(line.strip())
                self.news.notify_all()

    def wait_for(self, text: str, count: int = 1) -> None:
        with self.news:
            assert self.news.wait_for(lambda: sum(text in line for line in self.told) >= count, 120), self.told

    def ask(self, model: str, sessions: list[Any], k: int = 5, seen: bool = False, changed: Any = None) -> list[Answer]:
        tensors = {**wire.to_tensors(self.canary.fields, sessions, k, seen), **(changed or {})}
        return [Answer(*a) for a in wire.read_answers(self.canary._infer(model, tensors, 30), len(sessions))]

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.canary.address + path, headers=names)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    @property
    def urls(self) -> dict[str, str]:
        return {"http": f"http://127.0.0.1:{self.place.http}", "grpc": f"grpc://127.0.0.1:{self.place.grpc}"}

    @property
    def histories(self) -> list[Any]:
        return [request["columns"] for request in self.canary.requests]


def free_ports() -> Place:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return Place("127.0.0.1", *ports)


@contextmanager
def triton(folder: Path, run: Path, bundle: Path) -> Iterator[Running]:
    """Start `deployment.triton` on a run's bundle, and stop it after the block; it must leave nothing behind."""
    repository, place = export_triton(bundle, folder / "models", Settings(instances=2, delay=2_000)), free_ports()
    (folder / "key").write_text(KEY)
    prepare()
    ports = ["--http-port", place.http, "--grpc-port", place.grpc, "--metrics-port", place.metrics]
    command = [sys.executable, "-m", "deployment.triton", "--repository", repository, *ports]
    command += ["--log", folder / "log", "--admin-key-file", folder / "key"]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    found = Running(place, run, Bundle.open(bundle), Canary(repository, place), process, repository)
    listener = threading.Thread(target=found.listen)
    listener.start()
    try:
        found.wait_for("NVIDIA Triton answers at")
        yield found
    finally:
        process.terminate()
        assert process.wait(60) == 0
        listener.join()
    assert found.told[-1] == "stopped"
    integrity.check(repository)  # the server left nothing in it
    assert not list(Path("/dev/shm").glob(f"recsys_triton_{process.pid}_*"))
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", place.http), timeout=5)


def assert_same(found: list[Answer], wanted: list[Answer]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert difference(one, other, 1e-5) is None


def stub_of(running: Running, model: str) -> int:
    """Process of one of the model's instances."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if b"triton_python_backend_stub" in command and f"{running.repository}/{model}/".encode() in command:
            return int(place.name)
    raise AssertionError(f"no process of {model}")

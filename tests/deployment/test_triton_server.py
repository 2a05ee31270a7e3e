"""The real NVIDIA Triton over HTTP and gRPC: same answers, errors that say what is wrong, a model that is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from deployment.export_triton import Settings, export_triton
from deployment.triton_environment import prepare
from deployment.triton_server import Canary, Place, Server
from recsys.errors import RunError
from recsys.export.bundle import export
from recsys.serving import integrity, wire
from recsys.serving.bundle import Answer, Bundle
from recsys.serving.verify import difference
from tests import kserve_grpc
from tests.tiny_bundle import make_rich_run

pytestmark = pytest.mark.slow
MODELS = ("ensemble", "fused")
KEY = "a-key-of-the-tests"
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Running:
    """A supervised server, and what it has said."""

    place: Place
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
    def histories(self) -> list[Any]:
        return [request["columns"] for request in self.canary.requests]


def free_ports() -> Place:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return Place("127.0.0.1", *ports)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served")
    bundle = export(make_rich_run(folder), folder / "bundle").path
    repository, place = export_triton(bundle, folder / "models", Settings(instances=2)), free_ports()
    (folder / "key").write_text(KEY)
    prepare()
    ports = ["--http-port", place.http, "--grpc-port", place.grpc, "--metrics-port", place.metrics]
    command = [sys.executable, "-m", "deployment.triton", "--repository", repository, *ports]
    command += ["--log", folder / "log", "--admin-key-file", folder / "key"]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    found = Running(place, Bundle.open(bundle), Canary(repository, place), process, repository)
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


@pytest.mark.parametrize("model", MODELS)
def test_answers_are_those_of_the_bundle(running: Running, model: str) -> None:
    for k, seen in ((1, False), (5, True), (10_000, True)):
        wanted = running.bundle.recommend(running.histories, k, remove_seen=seen)
        assert_same(running.ask(model, running.histories, k, seen), wanted)


def test_requests_of_any_length_at_once(running: Running) -> None:
    wanted = [running.bundle.recommend([history], 3) for history in running.histories]

    def ask(n: int) -> None:
        place = n % len(wanted)
        assert_same(running.ask(MODELS[n % 2], [running.histories[place]], 3), wanted[place])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(96)))


@pytest.mark.parametrize("model", MODELS)
def test_grpc_gives_the_same(running: Running, model: str) -> None:
    history = running.histories[3]
    message = kserve_grpc.request_of(model, wire.to_tensors(running.canary.fields, [history], 5, True))
    answer = kserve_grpc.answer_of(kserve_grpc.call(f"127.0.0.1:{running.place.grpc}", "ModelInfer", message))
    found = [Answer(*row) for row in wire.read_answers(answer, 1)]
    assert_same(found, running.bundle.recommend([history], 5, remove_seen=True))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"k": np.zeros((1, 1), np.int32)}, "k (0) must be a whole number of at least 1"),
        ({"lengths": np.zeros((1, 1), np.int32)}, "the history is empty; give at least one event"),
        ({"lengths": np.full((1, 1), 99, np.int32)}, "input 'lengths', session 1: 99"),
        ({"item_id": np.full((1, 3), b"\xff", object)}, "not UTF-8 text"),
        ({"item_id": np.full((1, 2), b"x", object)}, "has shape [1, 2]"),
        ({"item_id": np.zeros((1, 3))}, "data-type is 'FP64'"),
        ({"timestamp": np.full((1, 3), 2**62)}, "expected microseconds"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(running: Running, model: str, changed: Any, said: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        running.ask(model, [running.histories[1]], changed=changed)
    text = json.loads(caught.value.read())["error"]
    assert caught.value.code == 400
    assert said in text
    assert "/" not in text.replace(model, "")  # no folder of the server's machine


@pytest.mark.parametrize("model", MODELS)
def test_long_histories(running: Running, model: str) -> None:
    long = {name: values * 5000 for name, values in running.histories[1].items()}
    assert_same(running.ask(model, [long], seen=True), running.bundle.recommend([long], remove_seen=True))


def test_the_apis_of_the_administrator_want_their_key(running: Running) -> None:
    for path in ("/v2/models/fused/config", "/v2/models/fused/stats", "/v2/logging", "/v2/systemsharedmemory/status"):
        assert running.get(path)[0] == 403
        assert running.get(path, recsys_admin="another-key")[0] == 403
        assert running.get(path, recsys_admin=KEY)[0] == 200
    with pytest.raises(grpc.RpcError) as caught:
        kserve_grpc.call(f"127.0.0.1:{running.place.grpc}", "RepositoryIndex")
    assert "restricted" in caught.value.details()


def test_metrics_count_every_model(running: Running) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{running.place.metrics}/metrics") as answer:
        text = answer.read().decode()
    for model in (*MODELS, "transform", "embed", "rank", "decode"):
        assert f'nv_inference_request_success{{model="{model}",version="1"}}' in text


def test_a_model_that_is_killed_under_load_comes_back(running: Running) -> None:
    wanted = [running.bundle.recommend([history])[0] for history in running.histories]
    done, wrong, right = threading.Event(), [], []

    def load() -> None:
        n = 0
        while not done.is_set():
            n += 1
            try:
                found = running.ask(MODELS[n % 2], [running.histories[n % len(wanted)]])[0]
            except (OSError, wire.WireError):
                done.wait(0.05)
                continue
            (right if difference(found, wanted[n % len(wanted)], 1e-5) is None else wrong).append(n)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for count, name in enumerate((signal.SIGKILL, signal.SIGSTOP), 1):
            os.kill(stub_of(running, "rank"), name)
            running.wait_for("starting anew", count)
            running.wait_for("ready after", count + 1)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert right and not wrong
    assert_same([running.ask("ensemble", [running.histories[0]])[0]], wanted[:1])


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


def test_a_port_that_is_taken(running: Running) -> None:
    server = Server(prepare(), running.repository, running.place, None, KEY)
    with pytest.raises(RunError, match=rf"127\.0\.0\.1:{running.place.http}: cannot be listened on"):
        server.start()

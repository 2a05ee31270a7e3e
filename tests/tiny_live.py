"""The live app: in a thread before an endpoint that does as a test says, or as a process of its own."""

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import uvicorn
from websockets import Origin
from websockets.sync.client import ClientConnection, connect

from deployment.web.app import App
from deployment.web.board import Board
from deployment.web.feed import Cleaning, Feed
from deployment.web.listening import make_server
from recsys.cleaning.profile import load_profile
from recsys.cleaning.rules import NO_RULES
from recsys.client import EndpointError
from recsys.errors import InputError
from recsys.server.listening import listen, run
from tests.tiny_server import PATIENCE, Reply, wait_for

ROOT = Path(__file__).resolve().parent.parent
VECTORWORKS = Cleaning(load_profile("vectorworks"), NO_RULES, Path())


def log_line(command: str, second: int, session: str = "s", user: str = "anna") -> bytes:
    """A row of the live log that is an event, unless `command` says otherwise."""
    row = {"ts": f"01/02/2025 10:{second // 60:02d}:{second % 60:02d} {second}.5 +0000", "session": session}
    message = command if ":" in command else f"End Event: '{command}' (900)"
    return json.dumps(row | {"sn": user, "cat": "UNDO", "message": message}).encode() + b"\n"


def append(path: Path, *data: bytes) -> None:
    with path.open("ab") as file:
        file.write(b"".join(data))


@dataclass
class Endpoint:
    """Stands for `recsys.client.Client` and the server behind it."""

    up: bool = True
    refused: set[str] = field(default_factory=set)
    """Newest items of histories that are refused."""
    asked: list[list[str]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    """While it is not set, questions hang."""
    clients: int = 0
    under_way: int = 0
    most: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def connect(self) -> "Endpoint":
        self.clients += 1
        return self

    def recommend(self, history: Any, k: int = 5) -> Any:
        names = list(history["item_id"])
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            self.asked.append(names)
            assert self.gate.wait(PATIENCE)
            if not self.up:
                raise EndpointError("http://there: nobody\nat home")
            if names[-1] in self.refused:
                raise InputError(f"{names[-1]} is not taken")
        finally:
            self.under_way -= 1
        return suggest(names, k)

    def ready(self) -> bool:
        return self.up

    def close(self) -> None:
        """Nothing is open."""


def suggest(names: Sequence[str], k: int) -> Any:
    """What the endpoint suggests after a history: it can be told from the suggestions what was asked."""
    items = [names[-1], f"after {len(names)}", *(f"other {n}" for n in range(k))][:k]
    scores = [float(k - n) for n in range(k)]
    return SimpleNamespace(items=items, scores=scores, probabilities=[score / 100 for score in scores])


@dataclass
class Live:
    """An app that runs in a thread."""

    port: int
    app: App
    server: uvicorn.Server
    endpoint: Endpoint

    def ask(self, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def page(self, **options: Any) -> ClientConnection:
        """A WebSocket as a page of the app opens it."""
        place = f"127.0.0.1:{self.port}"
        return connect(f"ws://{place}/ws", origin=Origin(f"http://{place}"), compression=None, **options)

    def session(self, name: str = "s") -> Any:
        """A session as /state has it; None: there is none."""
        return next((s for s in self.ask("/state").json["sessions"] if s["id"] == name), None)


@contextmanager
def live(paths: Sequence[Path], endpoint: Any = None, *, host: str = "127.0.0.1", names: Sequence[str] = (),
         pages: int = 8, board: Board | None = None, cleaning: Cleaning = VECTORWORKS,
         static: Path | None = None) -> Iterator[Live]:  # fmt: skip
    """Follow `paths` while the block runs; then stop as SIGTERM would, and wait for it."""
    endpoint = endpoint or Endpoint()
    feed = Feed(paths, cleaning, tell=lambda _: None)
    connect_to = endpoint.connect
    app = App(feed, board or Board(), connect_to, name="http://there", model="recommend", pages=pages)
    failures: list[BaseException] = []
    app.failed = failures.append
    app.start()
    built = app.build(host, names) if static is None else app.build(host, names, static)
    server = make_server(built, pages)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=run, args=(server, listener), daemon=True)
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield Live(listener.getsockname()[1], app, server, endpoint)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert not failures, failures


def next_message(page: ClientConnection, kind: str, **wanted: Any) -> Any:
    """The next message of a kind whose session, or endpoint, has these values; others are passed over."""
    while True:
        message = json.loads(page.recv(PATIENCE))
        inside = message.get(kind, {})
        if message["type"] == kind and all(inside.get(name) == value for name, value in wanted.items()):
            return inside if isinstance(inside, dict) and inside else message


class Process:
    """The app as a person starts it, on a free port."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "deployment.web", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout and self.process.stderr
        line = self.process.stdout.readline()
        assert line.startswith("live: http://"), (line, self.process.poll() and self.process.stderr.read())
        self.url = line.split()[1]

    def page(self) -> ClientConnection:
        """A WebSocket as a page of the app opens it."""
        return connect(self.url.replace("http", "ws") + "/ws", origin=Origin(self.url))

    def stop(self) -> tuple[int, str, str]:
        """Status and what it wrote, after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


def shown(page: ClientConnection, run: Path, log: Path, events: Mapping[str, int]) -> dict[str, Any]:
    """Sessions of a page once they have so many events and fresh lists, which are those that the run itself gives."""
    from recsys.inference import recommend  # PyTorch, which most tests of the app do without

    found: dict[str, Any] = {}

    def settled() -> bool:
        message = json.loads(page.recv(PATIENCE))
        for session in [*message.get("sessions", []), message.get("session", {"id": ""})]:
            found[session["id"]] = session
        return all(found.get(n, {}).get("events") == e and not found[n]["stale"] for n, e in events.items())

    wait_for(settled)
    expected = recommend(run, log, k=5)
    for name in events:
        lists, rows = expected.filter(session_id=name), found[name]["suggestions"]
        assert [row["command"] for row in rows] == lists["item_id"].to_list()
        assert np.allclose([row["score"] for row in rows], lists["score"], atol=1e-3)
        assert np.allclose([row["probability"] for row in rows], lists["probability"], atol=1e-4)
    return {name: found[name] for name in events}

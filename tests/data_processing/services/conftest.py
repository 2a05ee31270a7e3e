"""A real HTTP server on the loopback address that answers what a test tells it to."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from data_processing.services.http import HttpClient
from data_processing.services.protocols import Stats

KEY = "sk-very-secret-0123456789"


@dataclass
class Reply:
    """One answer; `body` may be anything that JSON holds, or bytes as they are."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False  # answers nothing until the test ends
    drip: bool = False  # three seconds of blanks, one at a time, come before the body
    cut: bool = False  # the body is shorter than announced


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: Any


class Server:
    """Gives `replies` one after another, the last one again and again; a function makes a reply of what was asked."""

    Reply = Reply  # for tests, which cannot import this file

    def __init__(self) -> None:
        self.replies: list[Reply | Callable[[Asked], Reply]] = []
        self.asked: list[Asked] = []
        self.done = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                outer.give(self, Asked(self.path, dict(self.headers), json.loads(self.rfile.read(length))))

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def give(self, handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        reply = self.replies[min(len(self.asked), len(self.replies) - 1)]
        self.asked.append(asked)
        reply = reply(asked) if callable(reply) else reply
        if reply.hang:
            self.done.wait(10)
            return
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        if not reply.drip:
            handler.send_header("Content-Length", str(len(data) + (10 if reply.cut else 0)))
        handler.end_headers()
        try:
            for _ in range(150 if reply.drip else 0):
                if self.done.wait(0.02):
                    break
                handler.wfile.write(b" ")
                handler.wfile.flush()
            handler.wfile.write(data)
        except OSError:
            return  # the client has gone, as it should after its time-out

    def close(self) -> None:
        self.done.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """See `Server`."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEST_KEY", KEY)
    one = Server()
    yield one
    one.close()


@pytest.fixture
def waits() -> list[float]:
    """Seconds that `client` would have slept between tries."""
    return []


@pytest.fixture
def client(server: Server, waits: list[float]) -> HttpClient:
    """Connection to `server` that sends the key and sleeps no time."""
    return HttpClient(
        service="tested",
        url=server.url,
        headers={"Authorization": f"Bearer {KEY}"},
        key_variable="TEST_KEY",
        timeout=5.0,
        attempts=4,
        stats=Stats(),
        sleep=waits.append,
    )

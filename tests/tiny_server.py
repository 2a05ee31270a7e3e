"""A bundle behind the local server on a free port of this machine, for tests."""

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from recsys.server.app import App
from recsys.server.limits import Limits
from recsys.server.listening import listen, make_server, run, url_of
from recsys.server.model import Model
from recsys.serving.bundle import Bundle

PATIENCE = 30.0


@dataclass
class Served:
    """A server that runs in a thread: where it is, and its parts."""

    url: str
    app: App
    server: uvicorn.Server
    thread: threading.Thread

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> "Reply":
        """One request with the standard library's client; what is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def serving(bundle: Path | Bundle, limits: Limits | None = None, port: int = 0) -> Iterator[Served]:
    """Serve while the block runs; then stop as SIGTERM would, and wait for it."""
    limits = limits or Limits()
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    app = App(Model("recommend", opened, limits))
    server = make_server(app.build(), limits)
    with listen("127.0.0.1", port) as listener:
        thread = threading.Thread(target=run, args=(server, listener), daemon=True)
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield Served(url_of(listener), app, server, thread)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


def wait_for(what: Any) -> None:
    until = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < until, "did not happen"
        time.sleep(0.005)

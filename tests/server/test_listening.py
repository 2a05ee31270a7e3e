"""Callers who ask and do not take the answer."""

import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from recsys.client import Client
from recsys.server.limits import Limits
from recsys.server.listening import STEP, PatientProtocol
from recsys.server.model import Reply
from recsys.serving.bundle import Bundle
from tests.tiny_server import serving, wait_for

INFER = b"POST /v2/models/recommend/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{"
MORE_THAN_KERNELS_HOLD = 16 << 20


@pytest.mark.parametrize(("requests", "idle_seconds"), [(1, 1), (1, 60), (2, 60)])
def test_who_never_reads_is_let_go(
    bundle: Bundle, golden: list[Any], monkeypatch: pytest.MonkeyPatch, requests: int, idle_seconds: float
) -> None:
    """Whether uvicorn closes the connection meanwhile, leaves it open, or has one more answer to send."""
    asked: list[None] = []

    def large(*_: Any) -> Reply:
        asked.append(None)
        return Reply(bytes(MORE_THAN_KERNELS_HOLD), None, 1)

    with serving(bundle, Limits(send_seconds=1.5, idle_seconds=idle_seconds)) as served:
        monkeypatch.setattr(served.app.model, "infer", large)
        connections = served.server.server_state.connections
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            caller.connect(("127.0.0.1", served.port))
            caller.sendall(requests * INFER)
            wait_for(lambda: len(asked) == requests)
            wait_for(lambda: not connections)
        monkeypatch.undo()
        with Client(served.url) as client:
            assert client.recommend(golden[0]["columns"]).items


def test_the_last_bytes_of_an_answer_count_too(bundle: Bundle) -> None:
    """Of fewer than 64 KiB that wait asyncio would not tell, and closing would wait for them as well."""
    with serving(bundle, Limits(send_seconds=7)) as served, socket.create_connection(("127.0.0.1", served.port)):
        connections = served.server.server_state.connections
        wait_for(lambda: connections)
        assert [(c.send_seconds, c.transport.get_write_buffer_limits()) for c in connections] == [(7, (0, 0))]


class Loop:
    """Calls later when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def call_later(self, _: float, call: Callable[[], None]) -> Any:
        self.waiting.append(call)
        return SimpleNamespace(cancel=lambda: self.waiting.remove(call))


class Writing(PatientProtocol):
    """A connection over which an answer goes, without a server around it."""

    def __init__(self, unsent: int) -> None:
        self.later, self.unsent, self.aborted = Loop(), unsent, False
        self.loop: Any = self.later
        self.flow: Any = SimpleNamespace(pause_writing=lambda: None, resume_writing=lambda: None)
        self.transport: Any = SimpleNamespace(get_write_buffer_size=lambda: self.unsent, abort=self.abort)
        self.pause_writing()

    def abort(self) -> None:
        self.aborted = True

    def time_is_over(self, taken: int) -> None:
        self.unsent -= taken
        self.later.waiting.pop()()


def test_who_reads_slowly_but_steadily_gets_all() -> None:
    caller = Writing(3 * STEP + 1)
    for _ in range(3):
        caller.time_is_over(taken=STEP)
    assert not caller.aborted and len(caller.later.waiting) == 1
    caller.resume_writing()
    assert not caller.aborted and not caller.later.waiting


@pytest.mark.parametrize(("unsent", "taken"), [(10 * STEP, 0), (10 * STEP, STEP - 1), (5, 4)])
def test_who_takes_too_little_gets_no_more(unsent: int, taken: int) -> None:
    caller = Writing(unsent)
    caller.time_is_over(taken)
    assert caller.aborted and not caller.later.waiting

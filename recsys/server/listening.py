"""The socket, the process and the connections of the local server: uvicorn with time limits on slow clients."""

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from recsys.errors import InputError
from recsys.server.limits import Limits

_BACKLOG = 256
STEP = 1 << 20
"""Bytes of an answer that a caller takes within `send_seconds` at least, or what is left of it."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket (port 0: any that is free); InputError where there is none to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from error
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, and each answer took 40 ms more.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where the socket is reached over HTTP."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(app: Starlette, limits: Limits) -> uvicorn.Server:
    """A server for `run`."""

    class Protocol(PatientProtocol):
        header_seconds = limits.header_seconds
        send_seconds = limits.send_seconds

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections + 1,
        timeout_keep_alive=max(1, round(limits.idle_seconds)),
        timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
        backlog=_BACKLOG,
    )
    return uvicorn.Server(config)


def run(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serve until SIGINT, SIGTERM or `server.should_exit`; requests under way are answered first."""
    with _quiet_signals():
        server.run(sockets=[listener])


@contextmanager
def _quiet_signals() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more when it is done; here that shall not end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class PatientProtocol(H11Protocol):
    """Ends a connection that makes uvicorn wait for ever.

    One whose request head takes longer than `header_seconds` is closed. One that does not take its answer is aborted:
    closing would wait until all of it is sent.
    """

    header_seconds = 10.0
    send_seconds = 30.0
    _head_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None
    _unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the first head."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.transport.set_write_buffer_limits(high=0)  # every byte that waits is heard of, also the last ones
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Wait on where a head has begun, stop waiting where it is there."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Watch the head of the next request, of which a part may be there."""
        super().on_response_complete()
        if self.conn.trailing_data[0]:
            self._watch()

    def pause_writing(self) -> None:
        """Start to wait for the caller to take what could not be sent at once."""
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        """Stop waiting: all is sent."""
        self._stop_watching_sending()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_watching()
        self._stop_watching_sending()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.header_seconds, self._give_up)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()

    def _watch_sending(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(self.send_seconds, self._give_up_sending)

    def _stop_watching_sending(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _give_up_sending(self) -> None:
        self._send_timer = None
        if self._unsent - self.transport.get_write_buffer_size() < STEP:
            self.transport.abort()
        else:
            self._watch_sending()

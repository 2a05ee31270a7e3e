"""The way to a server over HTTP and HTTPS, with the standard library's connections."""

import http.client
import io
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import SplitResult, quote

from recsys.client.transport import MOST_BYTES, Failed, Passing, Refused, left_of, plain
from recsys.errors import one_line
from recsys.serving import kserve, wire

ASKED_AGAIN = {408, 429, 502, 503, 504}
"""Statuses of servers that are busy or starting, and of proxies in front of such ones."""
_OFTEN = 1 << 16
_BROKEN = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class _Response:
    status: int
    body: bytes
    header_length: str | None


class Http:
    """Connections that are kept between requests, as many as there are threads that ask at once.

    Args:
        address: of the server; its path stands in front of the protocol's own.
        model: that is asked.
        token: sent as a bearer token.
        trust: certificates for HTTPS.
    """

    def __init__(self, address: SplitResult, model: str, token: str | None, trust: ssl.SSLContext | None) -> None:
        self._host, self._port, self._trust = address.hostname or "", address.port, trust
        self._path = f"{address.path.rstrip('/')}/v2/models/{quote(model, safe='')}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._idle: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        """Close all connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def metadata(self, until: float) -> Mapping[str, Any]:
        """Inputs and outputs of the model."""
        try:
            found = json.loads(self._ask("GET", "", until).body)
        except (ValueError, RecursionError) as error:
            raise Failed(one_line(error)) from None
        return found if isinstance(found, dict) else {}

    def infer(self, tensors: Mapping[str, wire.Array], until: float) -> Mapping[str, wire.Array]:
        """The model's outputs."""
        body, length = kserve.dump("inputs", tensors, True, {"parameters": {"binary_data_output": True}})
        headers = {"Content-Type": "application/octet-stream", kserve.HEADER: str(length)}
        response = self._ask("POST", "/infer", until, body, headers)
        try:
            return kserve.load("outputs", response.body, response.header_length).tensors
        except wire.WireError as error:
            raise Failed(str(error)) from None

    def ready(self, until: float) -> bool:
        """Whether the model says that it is ready."""
        self._ask("GET", "/ready", until)
        return True

    def _ask(
        self, method: str, path: str, until: float, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> _Response:
        """The server's answer with status 200."""
        try:
            response = self._once(method, path, until, body, headers or {})
        except _BROKEN as error:
            raise Passing(one_line(error) or type(error).__name__) from None
        if response.status == 200:
            return response
        reason = f"status {response.status}: {_told(response.body)}"
        if response.status in ASKED_AGAIN:
            raise Passing(reason)
        raise (Refused if 400 <= response.status < 500 else Failed)(reason)

    def _once(self, method: str, path: str, until: float, body: bytes, headers: Mapping[str, str]) -> _Response:
        """One try; a kept connection that the server has closed meanwhile does not count as one."""
        while True:
            try:
                connection, kept = self._idle.pop(), True
            except IndexError:
                connection, kept = self._connect(), False
            try:
                response = self._send(connection, method, path, until, body, headers)
            except (ConnectionError, http.client.RemoteDisconnected):
                connection.close()
                if not kept:
                    raise
                continue
            except BaseException:
                connection.close()
                raise
            if connection.sock is not None:
                self._idle.append(connection)
            return response

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        until: float,
        body: bytes,
        headers: Mapping[str, str],
    ) -> _Response:
        _allow(connection, until)
        if connection.sock is None:
            connection.connect()  # sets TCP_NODELAY
        connection.request(method, self._path + path, body or None, {**self._headers, **headers})
        connection.response_class = partial(_Answer, until)  # type: ignore[assignment]
        answer = connection.getresponse()
        header_length, chunks, size = answer.getheader(kserve.HEADER), [], 0
        while chunk := answer.read1(_OFTEN):
            chunks.append(chunk)
            size += len(chunk)
            if size > MOST_BYTES:
                raise http.client.HTTPException(f"the answer is above {MOST_BYTES:,} bytes")
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        answer.close()  # else the connection counts as busy
        return _Response(answer.status, b"".join(chunks), header_length)

    def _connect(self) -> http.client.HTTPConnection:
        if self._trust is not None:
            return http.client.HTTPSConnection(self._host, self._port, context=self._trust)
        return http.client.HTTPConnection(self._host, self._port)


class _Answer(http.client.HTTPResponse):
    """An answer that is there, head and body, before the time is over, in however small pieces it comes."""

    def __init__(self, until: float, place: socket.socket, debuglevel: int = 0, method: str | None = None) -> None:
        super().__init__(place, debuglevel, method)
        self.fp = io.BufferedReader(_Pieces(until, place, self.fp.detach()))


class _Pieces(io.RawIOBase):
    """What a socket receives. A timeout holds for one piece only, so each gets what the ones before it have left."""

    def __init__(self, until: float, place: socket.socket, received: io.RawIOBase) -> None:
        self._until, self._place, self._received = until, place, received

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._place.settimeout(left_of(self._until))
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


def _allow(connection: http.client.HTTPConnection, until: float) -> None:
    """Let the next step of a connection take what is left of the time."""
    left = left_of(until)
    connection.timeout = left
    if connection.sock is not None:
        connection.sock.settimeout(left)


def _told(body: bytes) -> str:
    """What a server says of an error."""
    try:
        text = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = body[:200].decode("utf-8", "replace")
    return plain(text)

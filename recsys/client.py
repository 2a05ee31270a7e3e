"""Ask a served model what comes next, over HTTP: `recsys serve`, or any other KServe v2 server of a bundle.

Example::

    from recsys.client import Client

    with Client("http://127.0.0.1:8000", deadline=0.5) as client:
        answer = client.recommend({"item_id": ["Line", "Wall"], "timestamp": [1_600_000_000.5, 1_600_000_004.0]}, k=5)
        print(answer.items, answer.scores)

Needs numpy only. The histories hold what `recsys.serving.bundle.Bundle.recommend` takes, and the answers are the same.
"""

import http.client
import json
import random
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult, quote, urlsplit

from recsys.errors import ConfigError, InputError, RecsysError, one_line
from recsys.serving import kserve, wire

History = Mapping[str, Any]
_AGAIN = {408, 429, 502, 503, 504}
"""Statuses of servers that are busy or starting, and of proxies in front of such ones."""
_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_MOST_BYTES = 256 << 20
_OFTEN = 1 << 16
_BROKEN = (OSError, http.client.HTTPException)


class EndpointError(RecsysError):
    """The server gave no answer in time, or one that cannot be read; the request may be good."""


@dataclass(frozen=True)
class Recommendation:
    """The most likely next items of a session, best first; fewer than k where there are no more."""

    items: list[str]
    scores: list[float]
    probabilities: list[float]


@dataclass(frozen=True)
class _Response:
    status: int
    body: bytes
    header_length: str | None


class Client:
    """Connections to one model; safe to use from several threads.

    Args:
        url: of the server, for instance http://127.0.0.1:8000; with a path where a proxy serves it under one.
        model: its name there.
        protocol: "http" is the one there is.
        deadline: seconds that a call may take with all its tries.
        retries: tries after the first, where the server cannot be reached or says that it is busy. Asking twice
            changes nothing on a server.
        batch: histories sent at a time.
        token: sent as a bearer token, for a proxy that asks for one.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        model: str = "recommend",
        protocol: str = "http",
        deadline: float = 10.0,
        retries: int = 3,
        batch: int = 32,
        token: str | None = None,
    ) -> None:
        parts = _split(url)
        if protocol != "http":
            raise ConfigError(f"protocol '{protocol}' is unknown; known: http")
        if not deadline > 0 or retries < 0 or batch < 1:
            given = f"deadline {deadline}, retries {retries}, batch {batch}"
            raise ConfigError(f"{given}: expected above 0, 0 or more, 1 or more")
        self.url, self.model, self.deadline, self.retries, self.batch = url.rstrip("/"), model, deadline, retries, batch
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname or "", parts.port
        self._path = f"{parts.path.rstrip('/')}/v2/models/{quote(model, safe='')}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._context = ssl.create_default_context() if self._secure else None
        self._idle: list[http.client.HTTPConnection] = []
        self._fields: list[wire.Field] | None = None

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close its connections."""
        self.close()

    def close(self) -> None:
        """Close all connections that are not in use; the next call opens new ones."""
        while self._idle:
            self._idle.pop().close()

    def recommend(self, history: History, k: int = 5, *, remove_seen: bool = False) -> Recommendation:
        """The k most likely next items of one session.

        Args:
            history: for each column that the model reads a value an event. Others are not sent.
            k: items wanted, at least 1.
            remove_seen: leave out the items of the history.

        Raises:
            InputError: the history or k is refused, here or by the server.
            EndpointError: no answer within the deadline.
        """
        return self.recommend_batch([history], k, remove_seen=remove_seen)[0]

    def recommend_batch(
        self, histories: Sequence[History], k: int = 5, *, remove_seen: bool = False
    ) -> list[Recommendation]:
        """As `recommend`, for any number of sessions; `batch` of them a request, all within one deadline."""
        until = time.monotonic() + self.deadline
        fields = self._fields_of_model(until)
        found: list[Recommendation] = []
        for start in range(0, len(histories), self.batch):
            part = histories[start : start + self.batch]
            try:
                tensors = wire.to_tensors(fields, part, k, remove_seen)
            except wire.WireError as error:
                raise InputError(str(error)) from None
            body, length = kserve.dump("inputs", tensors, True, {"parameters": {"binary_data_output": True}})
            headers = {"Content-Type": "application/octet-stream", kserve.HEADER: str(length)}
            response = self._ask("POST", "/infer", until, body, headers)
            try:
                outputs = kserve.load("outputs", response.body, response.header_length).tensors
                found += [Recommendation(*answer) for answer in wire.read_answers(outputs, len(part))]
            except wire.WireError as error:
                raise EndpointError(f"{self.url}: {error}") from None
        return found

    def ready(self) -> bool:
        """Whether the model answers that it is ready; one try. A true answer can only come of `recommend`."""
        try:
            return self._once("GET", "/ready", time.monotonic() + self.deadline, b"", {}).status == 200
        except _BROKEN:
            return False

    def _fields_of_model(self, until: float) -> list[wire.Field]:
        """What the model reads, asked for once."""
        if self._fields is None:
            response = self._ask("GET", "", until)
            try:
                self._fields = wire.fields_of_metadata(json.loads(response.body))
            except (ValueError, RecursionError) as error:
                raise EndpointError(f"{self.url}: {one_line(error)}") from None
        return self._fields

    def _ask(
        self, method: str, path: str, until: float, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> _Response:
        """The server's answer with status 200, after as many tries as it takes and there are."""
        reason, tries = "no time was left", 0
        while time.monotonic() < until:
            try:
                response = self._once(method, path, until, body, headers or {})
            except _BROKEN as error:
                reason = one_line(error) or type(error).__name__
            else:
                if response.status == 200:
                    return response
                reason = f"status {response.status}: {_told(response.body)}"
                if response.status not in _AGAIN:
                    refused = 400 <= response.status < 500
                    raise (InputError if refused else EndpointError)(f"{self.url}: {reason}")
            pause = min(_LONGEST_PAUSE, _PAUSE * 2**tries) * random.uniform(0.5, 1.0)
            tries += 1
            if tries > self.retries or time.monotonic() + pause >= until:
                break
            time.sleep(pause)
        raise EndpointError(f"{self.url}: no answer after {tries} tries in {self.deadline:g} seconds at most: {reason}")

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
        _allow(connection, until)
        answer = connection.getresponse()
        header_length, chunks, size = answer.getheader(kserve.HEADER), [], 0
        while chunk := answer.read1(_OFTEN):
            _allow(connection, until)
            chunks.append(chunk)
            size += len(chunk)
            if size > _MOST_BYTES:
                raise http.client.HTTPException(f"the answer is above {_MOST_BYTES:,} bytes")
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        answer.close()  # else the connection counts as busy
        return _Response(answer.status, b"".join(chunks), header_length)

    def _connect(self) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(self._host, self._port, context=self._context)
        return http.client.HTTPConnection(self._host, self._port)


def _split(url: str) -> SplitResult:
    """The parts of an address that a client can use."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none
        usable = False
    if not usable or parts.query or parts.username:
        raise ConfigError(f"url '{url}': expected http://HOST:PORT or https://HOST:PORT")
    return parts


def _allow(connection: http.client.HTTPConnection, until: float) -> None:
    """Let the next step of a connection take what is left of the time."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline is over")
    connection.timeout = left
    if connection.sock is not None:
        connection.sock.settimeout(left)


def _told(body: bytes) -> str:
    """What a server says of an error."""
    try:
        text = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = body[:200].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in one_line(text)) or "nothing more"

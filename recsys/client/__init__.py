"""Ask a served model what comes next: `recsys serve`, NVIDIA Triton, or any other KServe v2 server of a bundle.

Example::

    from recsys.client import Client

    with Client("http://127.0.0.1:8000", deadline=0.5) as client:
        answer = client.recommend({"item_id": ["Line", "Wall"], "timestamp": [1_600_000_000.5, 1_600_000_004.0]}, k=5)
        print(answer.items, answer.scores)

    with Client("grpc://127.0.0.1:8001", model="fused") as client: ...

| module | does |
|---|---|
| `over_http` | HTTP and HTTPS; needs numpy only |
| `over_grpc` | gRPC, with TLS or without; needs grpcio |
| `transport` | what both have in common |

The histories hold what `recsys.serving.bundle.Bundle.recommend` takes, and the answers are the same, whichever way.
"""

import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import SplitResult, urlsplit

from recsys.client.over_grpc import Grpc
from recsys.client.over_http import Http
from recsys.client.transport import Failed, Passing, Refused, Transport
from recsys.errors import ConfigError, InputError, RecsysError, one_line
from recsys.serving import wire

T = TypeVar("T")
History = Mapping[str, Any]
_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_SECURE = {"http": False, "https": True, "grpc": False, "grpcs": True}


class EndpointError(RecsysError):
    """The server gave no answer in time, or one that cannot be read; the request may be good."""


@dataclass(frozen=True)
class Recommendation:
    """The most likely next items of a session, best first; fewer than k where there are no more."""

    items: list[str]
    scores: list[float]
    probabilities: list[float]


class Client:
    """Connections to one model; safe to use from several threads.

    Args:
        url: of the server: http://HOST:PORT or https://HOST:PORT, with a path where a proxy serves it under one, or
            grpc://HOST:PORT, or grpcs://HOST:PORT for gRPC with TLS.
        model: its name there; Triton has `ensemble` and `fused`.
        deadline: seconds that a call may take with all its tries.
        retries: tries after the first, where the server cannot be reached or says that it is busy. Asking twice
            changes nothing on a server.
        batch: histories sent at a time.
        token: sent as a bearer token, for a proxy that asks for one.
        ca: PEM file of the certificates to trust with https and grpcs; None: those of the system (grpcs: those that
            grpcio brings).

    Raises:
        ConfigError: an argument is of no use, or grpcio is not installed.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        model: str = "recommend",
        deadline: float = 10.0,
        retries: int = 3,
        batch: int = 32,
        token: str | None = None,
        ca: Path | str | None = None,
    ) -> None:
        if not deadline > 0 or retries < 0 or batch < 1:
            given = f"deadline {deadline}, retries {retries}, batch {batch}"
            raise ConfigError(f"{given}: expected above 0, 0 or more, 1 or more")
        self.url, self.model, self.deadline, self.retries, self.batch = url.rstrip("/"), model, deadline, retries, batch
        self._transport = _transport(url, model, token, ca)
        self._fields: list[wire.Field] | None = None

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close its connections."""
        self.close()

    def close(self) -> None:
        """Close all connections that are not in use; the next call opens new ones."""
        self._transport.close()

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
            outputs = self._ask(partial(self._transport.infer, tensors, until), until)
            try:
                found += [Recommendation(*answer) for answer in wire.read_answers(outputs, len(part))]
            except wire.WireError as error:
                raise EndpointError(f"{self.url}: {error}") from None
        return found

    def ready(self) -> bool:
        """Whether the model answers that it is ready; one try. A true answer can only come of `recommend`."""
        try:
            return self._transport.ready(time.monotonic() + self.deadline)
        except (Passing, Refused, Failed):
            return False

    def _fields_of_model(self, until: float) -> list[wire.Field]:
        """What the model reads, asked for once."""
        if self._fields is None:
            metadata = self._ask(partial(self._transport.metadata, until), until)
            try:
                self._fields = wire.fields_of_metadata(metadata)
            except wire.WireError as error:
                raise EndpointError(f"{self.url}: {error}") from None
        return self._fields

    def _ask(self, call: Callable[[], T], until: float) -> T:
        """What the call gives, after as many tries as it takes and there are."""
        reason, tries = "no time was left", 0
        while time.monotonic() < until:
            try:
                return call()
            except Passing as error:
                reason = str(error)
            except Refused as error:
                raise InputError(f"{self.url}: {error}") from None
            except Failed as error:
                raise EndpointError(f"{self.url}: {error}") from None
            pause = min(_LONGEST_PAUSE, _PAUSE * 2**tries) * random.uniform(0.5, 1.0)
            tries += 1
            if tries > self.retries or time.monotonic() + pause >= until:
                break
            time.sleep(pause)
        raise EndpointError(f"{self.url}: no answer after {tries} tries in {self.deadline:g} seconds at most: {reason}")


def _transport(url: str, model: str, token: str | None, ca: Path | str | None) -> Transport:
    """The way that an address names.

    Raises:
        ConfigError: it cannot be used.
    """
    parts = _split(url)
    secure = _SECURE[parts.scheme]
    if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
        raise ConfigError("the token is no text of printable ASCII characters without blanks")
    if ca is not None and not secure:
        raise ConfigError(f"url '{url}' has no TLS, so there is nothing to do for ca; use https:// or grpcs://")
    trust, roots = _trust(ca) if secure else (None, None)
    if parts.scheme in ("http", "https"):
        return Http(parts, model, token, trust)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return Grpc(f"{host}:{parts.port}", model, token, secure, roots)


def _split(url: str) -> SplitResult:
    """The parts of an address that a client can use."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.scheme in _SECURE and parts.hostname and parts.port != 0)
        if parts.scheme.startswith("grpc"):
            usable = usable and parts.port is not None and parts.path in ("", "/")
    except ValueError:  # a port that is none
        usable = False
    if not usable or parts.query or parts.username:
        raise ConfigError(f"url '{url}': expected http://HOST:PORT, https://HOST:PORT, grpc:// or grpcs://HOST:PORT")
    return parts


def _trust(ca: Path | str | None) -> tuple[ssl.SSLContext, bytes | None]:
    """What to trust, in the form of the standard library and of grpcio."""
    try:
        return ssl.create_default_context(cafile=ca), None if ca is None else Path(ca).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"ca {ca}: no certificates in PEM can be read there: {one_line(error)}") from None

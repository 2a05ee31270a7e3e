"""A small client for JSON over HTTP: tries again where that may help, says in one line what went wrong where not."""

import http.client
import json
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from data_processing.services.protocols import ServiceDown, ServiceError, Stats, Unreachable
from recsys.errors import ConfigError

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between tries, doubled each time
LONGEST_ASKED_WAIT = 600.0  # seconds of a Retry-After that are waited
_MAY_PASS = {408, 425, 429}  # these and 5xx
_HOPELESS = {401, 402, 403, 404, 405}  # the next request would fare no better; 3xx too
_CHUNK = 1 << 16


class RefusedError(ServiceError):
    """The service refused this request (4xx) and would refuse it again."""


class _Passing(Exception):
    """A failure that may have passed at the next try."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds, as the service asks


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could take the key to another host: it is an error instead."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


@dataclass
class HttpClient:
    """Posts JSON to one service.

    Tries again after 408, 425, 429, 5xx, time-outs, broken connections and answers that are not JSON (error pages of
    a gateway), waiting 0.5 s, 1 s, 2 s, ... up to 60 s, each times a random 0.5 to 1, or as long as Retry-After says.
    """

    service: str  # its name in errors
    url: str  # base address
    headers: Mapping[str, str]  # with the key; never shown
    key_variable: str | None  # where the key came from, for errors
    timeout: float  # seconds a request
    attempts: int  # tries of a request
    stats: Stats
    sleep: Callable[[float], None] = time.sleep
    jitter: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        self.url = checked_url(self.service, self.url)
        self._opener = urllib.request.build_opener(_NoRedirect)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that ``POST <url><path>`` answers.

        Raises:
            Unreachable: every try failed in a way that may pass.
            RefusedError: 400, 413, 422, ...: this request is at fault.
            ServiceDown: 3xx, 401, 402, 403, 404, 405: key or address is at fault.
        """
        data = json.dumps(body).encode()
        for tried in range(1, self.attempts + 1):
            self.stats.requests += 1
            try:
                return self._once(path, data)
            except _Passing as failure:
                wait = self._wait(tried) if failure.wait is None else failure.wait
                if wait > LONGEST_ASKED_WAIT:
                    raise Unreachable(f"{self.service}: {failure}, and asks to wait {wait:.0f} s") from failure
                if tried == self.attempts:
                    raise Unreachable(f"{self.service}: {failure}, {tried} tries") from failure
            self.stats.retries += 1
            self.sleep(wait)
        raise ConfigError(f"{self.service}: attempts ({self.attempts}) must be 1 or more")

    def _wait(self, tried: int) -> float:
        return min(FIRST_WAIT * 2.0 ** (tried - 1), LONGEST_WAIT) * self.jitter.uniform(0.5, 1.0)

    def _once(self, path: str, data: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self.headers}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                text = self._read(response)
        except urllib.error.HTTPError as error:
            with error:
                raise self._failure(error) from None
        except TimeoutError:
            raise _Passing(f"no answer within {self.timeout:g} s") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _Passing(f"no answer within {self.timeout:g} s") from None
            raise _Passing(f"no connection to {self.url} ({self._shown(error.reason)})") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Passing(f"the connection broke ({self._shown(repr(error))})") from None
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            raise _Passing(f"answered with something that is not JSON: '{self._shown(_decoded(text))}'") from None
        if not isinstance(answer, dict):
            raise _Passing(f"answered with JSON that is not an object: '{self._shown(_decoded(text))}'")
        return answer

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """The body; the time-out of a socket starts anew with each piece, so the whole is watched here."""
        end = time.monotonic() + self.timeout
        pieces = []
        while piece := response.read1(_CHUNK):
            pieces.append(piece)
            if time.monotonic() > end:
                raise TimeoutError
        if response.length:  # http.client does not notice a body that ends early when it is read in pieces
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(pieces)

    def _failure(self, error: urllib.error.HTTPError) -> Exception:
        status = f"answered {error.code} {error.reason}"
        if error.code in _MAY_PASS or error.code >= 500:
            return _Passing(status, _retry_after(error.headers.get("Retry-After")))
        if error.code < 400:
            target = self._shown(error.headers.get("Location", ""))
            return ServiceDown(f"{self.service}: {self.url} redirects to '{target}'; set 'url' to the final address")
        if error.code in (401, 403):
            # The body may hold part of the key.
            held = f"the key in {self.key_variable}" if self.key_variable else "no key was sent; name its key_variable"
            return ServiceDown(f"{self.service}: {status} at {self.url} ({held})")
        try:
            detail = self._shown(_decoded(self._read_error(error)))
        except (OSError, http.client.HTTPException):
            detail = ""
        line = f"{self.service}: {status} at {self.url}: '{detail}'"
        return ServiceDown(line) if error.code in _HOPELESS else RefusedError(line)

    @staticmethod
    def _read_error(error: urllib.error.HTTPError) -> bytes:
        return error.read(4096)

    def _shown(self, detail: object) -> str:
        """One short line without any header value that is a secret."""
        line = " ".join(str(detail).split())
        for value in self.headers.values():
            for secret in {value, value.removeprefix("Bearer ")}:
                line = line.replace(secret, "***")
        return line[:300]


def checked_url(service: str, url: str) -> str:
    """`url` without a closing slash; an error where it is no http address or carries a secret."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{service}: url '{url}' is not an address such as https://host/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"{service}: url of host {parts.hostname} must hold neither user, password, '?' nor '#'; "
            "put the key into an environment variable and name it in key_variable"
        )
    return url.rstrip("/")


def key_from_environment(service: str, variable: str) -> str:
    """The key in that environment variable; an error, which never shows it, where it is missing or unusable."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"{service}: environment variable {variable} is not set; put the key there")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"{service}: environment variable {variable} does not hold a key (blanks or other signs)")
    return key


def _retry_after(value: str | None) -> float | None:
    """Seconds that the header Retry-After asks for, as a number or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        seconds = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0)


def _decoded(data: bytes) -> str:
    return data[:4096].decode("utf-8", "replace")

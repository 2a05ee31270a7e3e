"""Who may talk to the app, and the headers that every answer carries."""

import ipaddress
import json
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
MISDIRECTED, FORBIDDEN = 421, 403


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine and no other."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Wraps an application: refuses foreign names and origins, and adds `HEADERS` to whatever is answered.

    A page of another site can make a browser ask this app under a name of its own that resolves to 127.0.0.1 (DNS
    rebinding), and can open WebSockets anywhere. So the Host of a request must be a name of this machine or one that
    was allowed, and the Origin of a WebSocket, which browsers always send, must be the Host it asks.

    Args:
        app: what answers.
        host: address that the app is bound to.
        names: further names under which it may be asked, without a port.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", names: Iterable[str] = ()) -> None:
        self._app = app
        self._open = not is_loopback(host)
        self._names = {"localhost", host.lower(), *(name.lower() for name in names)}

    def allows(self, host: str) -> bool:
        """Whether a request may name this host (``name:port``). Any address may, where the app is bound to one."""
        name = _name(host)
        if not name:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return address.is_loopback or self._open or name in self._names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on what is allowed."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                given = [(key, value) for key, value in message.get("headers", []) if key.decode() not in HEADERS]
                message["headers"] = given + [(key.encode(), value.encode()) for key, value in HEADERS.items()]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, guarded)
        else:
            await refuse(scope, receive, guarded, *refusal)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        hosts, origins = ([_text(v) for k, v in scope["headers"] if k == key] for key in (b"host", b"origin"))
        if len(hosts) != 1 or not self.allows(hosts[0]):
            return MISDIRECTED, "this app is not asked under that name; start it with --allow-host NAME"
        if scope["type"] == "websocket" and (len(origins) != 1 or not _same(origins[0], hosts[0])):
            return FORBIDDEN, "only pages of this app may listen"
        return None


async def refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    """Answer with an error of one line, whether a page or a WebSocket was asked for."""
    prefix = "http" if scope["type"] == "http" else "websocket.http"
    if scope["type"] == "websocket":
        await receive()
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": f"{prefix}.response.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": body})


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _name(host: str) -> str:
    """The name in ``name:port`` or ``[address]:port``; empty where it is neither."""
    try:
        parts = urlsplit(f"//{host}")
        usable = parts.netloc == host and parts.username is None and (parts.port is None or parts.port)
    except ValueError:
        return ""
    return (parts.hostname or "") if usable else ""


def _same(origin: str, host: str) -> bool:
    """Whether a page of `origin` was loaded from `host`."""
    scheme, separator, place = origin.partition("://")
    return scheme in ("http", "https") and bool(separator) and place.lower() == host.lower()

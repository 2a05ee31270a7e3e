"""Write the configuration of an nginx that stands between the world and the endpoint, and the live web app.

    python -m deployment.nginx_config --out /etc/recsys/proxy --server-name recsys.example.com \\
        --certificate fullchain.pem --key privkey.pem --tokens tokens.txt --model fused --model ensemble \\
        --upstream 127.0.0.1:8000 --grpc-upstream 127.0.0.1:8001 --live-upstream 127.0.0.1:8800
    nginx -t -c /etc/recsys/proxy/nginx.conf && nginx -c /etc/recsys/proxy/nginx.conf

It speaks TLS, asks for a token and lets through what a client needs: health, the facts of the named models, inference.
The file of tokens has lines NAME TOKEN. To change one, write it, run the same command again, then `nginx -s reload`.
docs/proxy.md says more.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from deployment.nginx_tokens import Token, basic_map, bearer_map, read_tokens
from deployment.nginx_values import (
    address,
    certificate,
    listen_address,
    location,
    model_name,
    number,
    server_name,
    state_folder,
    system_user,
)
from recsys.errors import ConfigError
from recsys.runtime import atomic_file, command_line

TEMPLATES = Path(__file__).parent / "nginx"
GRPC_METHODS = ("ServerLive", "ServerReady", "ModelReady", "ModelMetadata", "ModelInfer")
HEALTH = ("/v2/health/live", "/v2/health/ready")
LIVE_SOCKET = "= /ws"
LIVE = ("= /", "= /favicon.ico", "= /health", "= /state", "~ ^/static/", LIVE_SOCKET)
"""Locations of the live web app, as nginx writes them."""
ERRORS = {
    400: "the request cannot be read",
    401: "a token is needed: Authorization: Bearer TOKEN",
    403: "this is not allowed",
    404: "there is nothing at this address",
    405: "this address does not take that method",
    411: "the request does not say how long its body is (Content-Length)",
    413: "the body is too large; send fewer sessions at a time",
    414: "the address is too long",
    415: "a compressed body is not read; send it as it is",
    421: "this server has no such host",
    429: "too many requests; try again",
    494: "the headers are too long",
    497: "this port speaks HTTPS",
    500: "the server failed on this request",
    502: "the model's server cannot be reached; try again",
    503: "the model's server is busy; try again",
    504: "the model's server did not answer in time",
}
"""What the proxy says for each status, as ``{"error": ...}``. 494 and 497 are nginx's own and are sent as 400."""
SENT_AS = {494: 400, 497: 400}
GRPC_STATUS = {400: 3, 401: 16, 403: 7, 404: 12, 405: 12, 413: 3, 415: 12, 429: 8, 500: 13, 502: 14, 503: 14, 504: 4}
"""Status of gRPC for each of HTTP. gRPC itself calls a message too large what 429 is called; the client must not try it
again, so here it is an invalid argument."""
_MORE = {
    401: "add_header WWW-Authenticate 'Bearer realm=\"recsys\"' always;",
    429: "add_header Retry-After 1 always;",
    502: "add_header Retry-After 1 always;",
    503: "add_header Retry-After 1 always;",
}
_FROM_UPSTREAM = (400, 404)
"""Statuses whose text the model's server wrote for the sender of the request."""


class _Template(Template):
    """``%{name}``, since the dollar is nginx's own."""

    delimiter = "%"


@dataclass(frozen=True)
class Proxy:
    """What the configuration is made of; every text has been checked.

    Attributes:
        out: folder of the configuration.
        state: folder of what nginx writes: logs, its process id, bodies on their way.
        names: host names it answers for.
        listen: address and port.
        certificate, key: files in PEM.
        models: names of the models that may be asked.
        upstream: where the endpoint answers over HTTP.
        grpc, live: where it answers over gRPC, and where the live web app does; None: not there.
        user: account of nginx's workers, where root starts it.
        body_bytes: of a request, at most.
        rate: requests a second of one token; as many more may come at once.
        guesses: requests a second without a token from one address; four times as many may come at once.
        connections: requests of one token under way at the same time, WebSockets counted.
        body_seconds: between two pieces of a body.
        answer_seconds: until the answer is there.
    """

    out: Path
    state: Path
    names: tuple[str, ...]
    listen: str
    certificate: Path
    key: Path
    models: tuple[str, ...]
    upstream: str
    grpc: str | None = None
    live: str | None = None
    user: str | None = None
    body_bytes: int = 16 << 20
    rate: int = 50
    guesses: int = 5
    connections: int = 64
    body_seconds: int = 10
    answer_seconds: int = 30

    def routes(self) -> dict[str, str]:
        """Methods of each address that leads to the endpoint."""
        found = {path: "GET|HEAD" for path in HEALTH}
        for model in self.models:
            path = f"/v2/models/{model}"
            found |= {path: "GET|HEAD", f"{path}/ready": "GET|HEAD", f"{path}/infer": "POST"}
        return found

    def files(self) -> dict[str, str]:
        """The configuration by file name, without the tokens."""
        values = {
            "out": str(self.out),
            "state": str(self.state),
            "names": " ".join(self.names),
            "listen": self.listen,
            "certificate": str(self.certificate),
            "key": str(self.key),
            "upstream": self.upstream,
            "upstreams": "".join(_upstream(n, a) for n, a in (("grpc", self.grpc), ("live", self.live)) if a),
            "user": f"user {self.user};\n" if self.user else "",
            "guesses": str(self.guesses),
            "guesses_at_once": str(4 * self.guesses),
            **{name: str(getattr(self, name)) for name in ("body_bytes", "rate", "connections")},
            **{name: str(getattr(self, name)) for name in ("body_seconds", "answer_seconds")},
        }
        values["common"] = _fill("common.conf", {**values, "errors": _all_errors(self.grpc, self.live)})
        values["locations"] = self._locations(values)
        return {name: _fill(name, values) for name in ("nginx.conf", "site.conf")}

    def _locations(self, values: dict[str, str]) -> str:
        own = _pages([status for status in ERRORS if status not in _FROM_UPSTREAM])
        filled = [
            _fill("route.conf", values | {"path": path, "methods": methods, "errors": own, "not_found": _body(404)})
            for path, methods in self.routes().items()
        ]
        if self.grpc:
            errors = "\n".join(f"        error_page {status} = @recsys_grpc_{status};" for status in GRPC_STATUS)
            filled.append(_fill("grpc.conf", values | {"methods": "|".join(GRPC_METHODS), "grpc_errors": errors}))
        shown = _pages([s for s in ERRORS if s != 401]) + "\n        error_page 401 @recsys_live_401;"
        for path in LIVE if self.live else ():
            upgrade = ("$http_upgrade", "$recsys_connection") if path == LIVE_SOCKET else ('""', '""')
            more = {"path": path, "errors": shown, "upgrade": upgrade[0], "connection": upgrade[1]}
            filled.append(_fill("live.conf", values | more))
        return "".join(filled)


def write(proxy: Proxy, tokens: Sequence[Token]) -> None:
    """Write the configuration and the tokens, each file at one blow."""
    proxy.out.mkdir(parents=True, exist_ok=True)
    state_folder(proxy.state, proxy.user)
    for name, text in {**proxy.files(), "bearer.map": bearer_map(tokens), "basic.map": basic_map(tokens)}.items():
        with atomic_file(proxy.out / name) as work:
            work.touch(mode=0o600)
            work.write_text(text, encoding="utf-8")


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the configuration."""
    given = _parser().parse_args(arguments)
    tokens = read_tokens(given.tokens)
    proxy = read(given)
    write(proxy, tokens)
    file = proxy.out / "nginx.conf"
    who = ", ".join(token.name for token in tokens)
    print(f"{file}: {len(tokens)} tokens ({who}); try it: nginx -t -c {file}", flush=True)


def read(given: argparse.Namespace) -> Proxy:
    """Check every value of the command line.

    Raises:
        RecsysError: one would not do, or would change more of the configuration than its own place.
    """
    if os.geteuid() == 0 and not given.user:
        raise ConfigError("root writes this, so --user must name the account of nginx's workers (Debian: www-data)")
    out = location("--out", given.out)
    if len({*given.model}) < len(given.model):
        raise ConfigError(f"--model: {' '.join(given.model)}: a name stands there twice")
    files = certificate(given.certificate, given.key)
    return Proxy(
        out=out,
        state=location("--state", given.state or out / "state"),
        names=tuple(server_name(name) for name in given.server_name),
        listen=listen_address(given.listen),
        certificate=files[0],
        key=files[1],
        models=tuple(model_name(name) for name in given.model or ["recommend"]),
        upstream=address("--upstream", given.upstream),
        grpc=address("--grpc-upstream", given.grpc_upstream) if given.grpc_upstream else None,
        live=address("--live-upstream", given.live_upstream) if given.live_upstream else None,
        user=system_user(given.user) if given.user else None,
        body_bytes=number("--body-bytes", given.body_bytes, 1 << 32),
        rate=number("--rate", given.rate, 100_000),
        guesses=number("--guesses", given.guesses, 100_000),
        connections=number("--connections", given.connections, 10_000),
        body_seconds=number("--body-seconds", given.body_seconds, 3600),
        answer_seconds=number("--answer-seconds", given.answer_seconds, 3600),
    )


def _upstream(name: str, place: str) -> str:
    return f"upstream recsys_{name} {{\n    server {place};\n    keepalive 16;\n    keepalive_timeout 20s;\n}}\n"


def _body(status: int) -> str:
    return f'{{"error": "{ERRORS[status]}"}}'.replace("'", "\\'")


def _pages(statuses: Sequence[int]) -> str:
    """``error_page`` of those statuses; by address, which a request that could not be read lacks otherwise."""
    sent = {status: f" ={SENT_AS[status]}" if status in SENT_AS else "" for status in statuses}
    return "\n".join(f"        error_page {status}{sent[status]} /recsys-error/{status};" for status in statuses)


def _all_errors(grpc: str | None, live: str | None) -> str:
    """What a server says for every status, and where it says it."""
    parts = [_pages(list(ERRORS)).replace("        error_page", "    error_page")]
    for status in ERRORS:
        lines = [_MORE.get(status, ""), f"return {SENT_AS.get(status, status)} '{_body(status)}';"]
        parts.append(_inside(f"= /recsys-error/{status}", ["internal;", *lines]))
    if live:
        ask = 'add_header WWW-Authenticate \'Basic realm="recsys", charset="UTF-8"\' always;'
        parts.append(_inside("@recsys_live_401", [ask, f"return 401 '{_body(401)}';"]))
    for status, code in GRPC_STATUS.items() if grpc else ():
        message = ERRORS[status].replace("'", "\\'")
        told = [f"add_header grpc-status {code} always;", f"add_header grpc-message '{message}' always;"]
        parts.append(_inside(f"@recsys_grpc_{status}", ["default_type application/grpc;", *told, "return 200 '';"]))
    return "\n".join(parts)


def _inside(name: str, lines: Sequence[str]) -> str:
    inside = "\n".join(f"        {line}" for line in lines if line)
    return f"    location {name} {{\n{inside}\n    }}"


def _fill(name: str, values: dict[str, str]) -> str:
    return _Template((TEMPLATES / f"{name}.template").read_text(encoding="utf-8")).substitute(values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deployment.nginx_config",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the configuration; what stands there is replaced")
    add("--server-name", action="append", required=True, help="host name to answer for; may be given several times")
    add("--certificate", type=Path, required=True, help="PEM file: the certificate and those that it depends on")
    add("--key", type=Path, required=True, help="PEM file: the certificate's key, without a password")
    add("--tokens", type=Path, required=True, help="file with a line NAME TOKEN for each who may ask")
    add("--upstream", default="127.0.0.1:8000", help="endpoint, HTTP (default: 127.0.0.1:8000)")
    add("--grpc-upstream", help="endpoint, gRPC: HOST:PORT (default: no gRPC)")
    add("--live-upstream", help="live web app, shown at /: HOST:PORT (default: not shown)")
    add("--model", action="append", default=[], help="model that may be asked; several times (default: recommend)")
    add("--listen", default="443", help="[ADDRESS:]PORT (default: 443, every address)")
    add("--state", type=Path, help="folder of logs and of bodies on their way (default: OUT/state)")
    add("--user", help="account of nginx's workers, where root starts it")
    add("--body-bytes", type=int, default=Proxy.body_bytes, help="of a request, at most (default: 16777216)")
    add("--rate", type=int, default=Proxy.rate, help="requests a second of one token (default: 50)")
    add("--guesses", type=int, default=Proxy.guesses, help="a second from an address without a token (default: 5)")
    add("--connections", type=int, default=Proxy.connections, help="requests of one token at a time (default: 64)")
    add("--body-seconds", type=int, default=Proxy.body_seconds, help="between two pieces of a body (default: 10)")
    add("--answer-seconds", type=int, default=Proxy.answer_seconds, help="until the answer is there (default: 30)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

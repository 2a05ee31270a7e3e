"""The reverse proxy on the real nginx over HTTP: who is let in, where to, and what they are told of errors."""

import base64
import json
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deployment.nginx_config import ERRORS
from recsys.client import Client
from recsys.serving import kserve, wire
from recsys.serving.bundle import Bundle
from recsys.serving.verify import read_golden
from tests.shared_bundle import shared_bundle
from tests.tiny_proxy import (
    TOKENS,
    Proxied,
    Recorder,
    bearer,
    config,
    free_port,
    needs_nginx,
    proxying,
    recording,
    write_tokens,
)
from tests.tiny_server import Reply, Served, serving, wait_for
from tests.tiny_tls import Certificate, make_certificate

pytestmark = needs_nginx
MODEL = "/v2/models/recommend"
INFER = f"{MODEL}/infer"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proxy")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_bundle(tmp_path_factory).bundle


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[Served]:
    with serving(bundle) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(place: Path, files: Certificate, served: Served) -> Iterator[Proxied]:
    """In front of the local server."""
    with proxying(place / "front", files, "--upstream", f"127.0.0.1:{served.port}") as running:
        yield running


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


@pytest.fixture(scope="module")
def strict(place: Path, files: Certificate, recorded: Recorder) -> Iterator[Proxied]:
    """In front of a stand-in, with the shortest patience."""
    limits = ["--server-name", "::1", "--guesses", "1000", "--body-bytes", "4096"]
    limits += ["--body-seconds", "1", "--answer-seconds", "1"]
    with proxying(place / "strict", files, "--upstream", f"127.0.0.1:{recorded.port}", *limits) as running:
        yield running


@pytest.fixture
def endpoint(recorded: Recorder) -> Recorder:
    recorded.requests.clear()
    recorded.answer = lambda: (200, b"{}")
    return recorded


def error_of(reply: Reply) -> str:
    """The line of an error, which says nothing of what is behind."""
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json) == ["error"] and reply.headers["server"] == "nginx"
    assert not re.search(r"127\.0\.0\.1|nginx|upstream|localhost|:\d", reply.body.decode())
    return str(reply.json["error"])


def request_of(bundle: Path, number: int) -> tuple[bytes, dict[str, str]]:
    """A golden request as bytes, in the protocol's binary form."""
    opened, (requests, _, k) = Bundle.open(bundle), read_golden(bundle)
    fields = wire.fields_of(opened.transform.raw, {c.source for c in opened.transform.columns if c.once})
    tensors = wire.to_tensors(fields, [requests[number]["columns"]], k, requests[number]["remove_seen"])
    body, length = kserve.dump("inputs", tensors, True, {"parameters": {"binary_data_output": True}})
    return body, {"Content-Type": "application/octet-stream", kserve.HEADER: str(length)}


# Who has a token.


def test_answers_are_those_of_the_server_behind(proxy: Proxied, served: Served, bundle: Path) -> None:
    body, headers = request_of(bundle, 0)
    direct, found = served.ask("POST", INFER, body, headers), proxy.ask("POST", INFER, body, headers | bearer("alice"))
    assert (found.status, found.body) == (direct.status, direct.body) and direct.status == 200
    assert found.headers[kserve.HEADER.lower()] == direct.headers[kserve.HEADER.lower()]
    for path in (MODEL, f"{MODEL}/ready", "/v2/health/live", "/v2/health/ready"):
        direct, found = served.ask("GET", path), proxy.ask("GET", path, headers=bearer("bob"))
        assert (found.status, found.body) == (200, direct.body)


def test_client_gets_golden_answers_through_it(proxy: Proxied, bundle: Path) -> None:
    url, ca = f"https://127.0.0.1:{proxy.port}", proxy.certificate
    requests, answers, k = read_golden(bundle)
    with Client(url, token=TOKENS["alice"], ca=ca) as client:
        for request, right in zip(requests, answers, strict=True):
            assert client.recommend(request["columns"], k, remove_seen=request["remove_seen"]).items == right.items
    with pytest.raises(ValueError, match="401: a token is needed"), Client(url, ca=ca) as client:
        client.recommend(requests[0]["columns"], k)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer " + "x" * 40,
        TOKENS["alice"],
        f"Token {TOKENS['alice']}",
        f"Bearer {TOKENS['alice'].swapcase()}",
        f"Bearer {TOKENS['alice'].replace('.', 'x')}",
        f"Bearer {TOKENS['alice'].replace('+', '')}",
        f"Bearer {TOKENS['alice'][:-1]}",
        f"Bearer {TOKENS['alice']}x",
        f"Bearer x{TOKENS['alice']}",
        f"Bearer {TOKENS['alice']} {TOKENS['bob']}",
        f"Bearer alice:{TOKENS['alice']}",
        "Basic " + base64.b64encode(f"alice:{TOKENS['alice']}".encode()).decode(),
    ],
)
def test_no_other_token_is_let_in(header: str | None, strict: Proxied, endpoint: Recorder) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("POST", INFER), ("GET", "/v2/health/ready")):
        reply = strict.ask(method, path, headers=headers)
        assert (reply.status, error_of(reply)) == (401, ERRORS[401])
        assert reply.headers["www-authenticate"].startswith("Bearer ")
    assert not endpoint.requests


def test_scheme_is_read_in_any_case(strict: Proxied) -> None:
    assert strict.ask("GET", MODEL, headers={"authorization": f"bEARER  {TOKENS['alice']}"}).status == 200


def test_tokens_are_changed_by_a_reload(place: Path, files: Certificate, recorded: Recorder) -> None:
    with proxying(place / "turn", files, "--upstream", f"127.0.0.1:{recorded.port}") as proxy:
        assert [proxy.ask("GET", MODEL, headers=bearer(name)).status for name in TOKENS] == [200, 200]
        tokens = write_tokens(place / "new.tokens", {"carol": "c" * 32, "bob": TOKENS["bob"]})
        config(proxy.folder, files, tokens, proxy.port, "--upstream", f"127.0.0.1:{recorded.port}")
        proxy.process.send_signal(signal.SIGHUP)
        wait_for(lambda: proxy.ask("GET", MODEL, headers=bearer("alice")).status == 401)
        assert proxy.ask("GET", MODEL, headers=bearer("bob")).status == 200
        assert proxy.ask("GET", MODEL, headers={"Authorization": f"Bearer {'c' * 32}"}).status == 200


def test_the_log_has_names_and_no_secrets(strict: Proxied) -> None:
    strict.ask("GET", f"{MODEL}?access_token=hidden", headers=bearer("bob"))
    file = strict.folder / "state" / "access.log"
    wait_for(lambda: '"bob"' in file.read_text())
    log = file.read_text()
    assert f'"bob" "GET {MODEL}" 200' in log and f'"" "POST {INFER}" 401' in log
    for written in (log, (strict.folder / "state" / "error.log").read_text()):
        assert "Bearer" not in written and not any(secret in written for secret in TOKENS.values())
    assert "hidden" not in log
    for name in ("bearer.map", "basic.map", "site.conf"):
        assert (strict.folder / name).stat().st_mode & 0o077 == 0
    assert (strict.folder / "state").stat().st_mode & 0o077 == 0


# Where to.


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v2",
        "/metrics",
        "/v2/repository/index",
        "/v2/repository/models/recommend/load",
        "/v2/repository/models/recommend/unload",
        f"{MODEL}/config",
        f"{MODEL}/stats",
        f"{MODEL}/versions/1",
        f"{MODEL}/generate",
        f"{MODEL}/trace/setting",
        "/v2/models/stats",
        "/v2/models/rank/infer",
        "/v2/models/recommend2",
        "/v2/trace/setting",
        "/v2/logging",
        "/v2/systemsharedmemory/status",
        "/v2/cudasharedmemory/status",
        "/recsys-may-ask",
        "/recsys-may-look",
        "/ws",
        "/static/app.js",
        "/inference.GRPCInferenceService/ModelInfer",
        # The same, and what is let through, by detours.
        f"/{MODEL}",
        f"{MODEL}//infer",
        f"{MODEL}/",
        "/v2/../v2/models/recommend",
        "/v2/./models/recommend",
        f"{MODEL}/infer/../../../repository/index",
        f"{MODEL}/infer/%2e%2e/%2e%2e/%2e%2e/repository/index",
        "/v2/repository/index/../../models/recommend",
        "/v2/repository/index/%2e%2e/%2E%2E/models/recommend",
        "/v2/repository/index%2f..%2f..%2fmodels/recommend",
        "/v2/health/ready/..%2f..%2frepository%2findex",
        "/v2%2fmodels%2frecommend",
        "/v2/models/recommen%64",
        "/v2/models/recommend%00",
        "/v2/models/recommend%0a",
        "/v2/models/recommend;x",
        "/V2/models/recommend",
        "/v2/Models/recommend",
        "/v2/models/RECOMMEND",
        "/v2/models/recommend/INFER",
        "/v2\\models\\recommend",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_else_can_be_reached(method: str, path: str, strict: Proxied, endpoint: Recorder) -> None:
    reply = strict.ask(method, path, headers=bearer("alice"))
    assert reply.status in ((400, 404) if "%00" in path else (404,))
    assert error_of(reply) in (ERRORS[404], ERRORS[400])
    assert not endpoint.requests


def test_only_a_plain_request_goes_on(strict: Proxied, endpoint: Recorder) -> None:
    secret = {"recsys-admin": "key", "traceparent": "00-1", "X-Forwarded-For": "1.2.3.4", "Accept-Encoding": "gzip"}
    wanted = {"Content-Type": "application/json", kserve.HEADER: "2"}
    assert strict.ask("POST", f"{INFER}?a=/v2/logging", b"{}", secret | wanted | bearer("alice")).status == 200
    method, path, headers, body = endpoint.requests.pop()
    assert (method, path, body) == ("POST", INFER, b"{}")
    assert set(headers) == {"host", "content-length", "content-type", kserve.HEADER.lower()}
    assert (headers[kserve.HEADER.lower()], headers["host"]) == ("2", "recsys")


def test_another_host_is_refused(strict: Proxied, endpoint: Recorder) -> None:
    for host in ("evil.example", f"evil.example:{strict.port}", "localhost.evil.example"):
        reply = strict.ask("GET", MODEL, headers={"Host": host, **bearer("alice")})
        assert (reply.status, error_of(reply)) == (421, ERRORS[421])
    assert not endpoint.requests
    for host in ("LOCALHOST", "127.0.0.1:1", "[::1]", "[::1]:443"):
        assert strict.ask("GET", MODEL, headers={"Host": host, **bearer("alice")}).status == 200


# What the request is like.


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", INFER, b"x" * 4097, {}, 413),
        ("POST", INFER, None, {"Content-Length": "9" * 15}, 413),
        ("POST", INFER, b"0\r\n\r\n", {"Transfer-Encoding": "chunked"}, 411),
        ("POST", INFER, b"{}", {"Content-Encoding": "gzip"}, 415),
        ("GET", INFER, None, {}, 405),
        ("POST", MODEL, b"{}", {}, 405),
        ("OPTIONS", INFER, None, {}, 405),
        ("GET", MODEL + "?" + "x" * 9000, None, {}, 414),
        ("GET", MODEL, None, {"X-Long": "x" * 9000}, 400),
        ("GET", MODEL, None, {"Content-Length": "none"}, 400),
    ],
)
def test_what_is_out_of_bounds_is_refused(
    method: str, path: str, body: bytes | None, headers: Any, status: int, strict: Proxied, endpoint: Recorder
) -> None:
    reply = strict.ask(method, path, body, headers | bearer("alice"))
    assert reply.status == status
    assert error_of(reply) == ERRORS[494 if "X-Long" in headers else status]
    assert not endpoint.requests


def test_a_body_at_the_limit_is_taken(strict: Proxied, endpoint: Recorder) -> None:
    assert strict.ask("POST", INFER, b"x" * 4096, bearer("alice")).status == 200
    assert endpoint.requests[0][3] == b"x" * 4096


def test_a_body_that_does_not_come_is_not_waited_for(strict: Proxied, endpoint: Recorder) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKENS['bob']}\r\n"
    assert strict.say(f"{head}Content-Length: 100\r\n\r\nhalf of it".encode()) == b""
    assert not endpoint.requests


def test_plain_http_is_refused(strict: Proxied, endpoint: Recorder) -> None:
    found = strict.say(f"GET {MODEL} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), secure=False)
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and json.loads(body) == {"error": "this port speaks HTTPS"}
    assert not endpoint.requests


# What is wrong behind.


def test_the_word_on_a_request_is_passed_on_and_that_on_the_machine_is_not(
    proxy: Proxied, strict: Proxied, endpoint: Recorder
) -> None:
    reply = proxy.ask("POST", INFER, b"no JSON", bearer("alice"))
    assert reply.status == 400 and "JSON" in error_of(reply)
    for status, told in ((500, 500), (502, 502), (503, 503), (504, 504)):
        endpoint.answer = lambda code=status: (code, b'{"error": "/srv/models/secret.py, 127.0.0.1:9"}')  # type: ignore[misc]
        reply = strict.ask("POST", INFER, b"{}", bearer("alice"))
        assert (reply.status, error_of(reply)) == (told, ERRORS[told])
        assert b"secret" not in reply.body


def test_an_endpoint_that_does_not_answer(strict: Proxied, endpoint: Recorder) -> None:
    release = threading.Event()
    endpoint.answer = lambda: (release.wait(10), (200, b"{}"))[1]  # type: ignore[func-returns-value]
    try:
        reply = strict.ask("POST", INFER, b"{}", bearer("alice"))
    finally:
        release.set()
    assert (reply.status, error_of(reply)) == (504, ERRORS[504])
    assert len(endpoint.requests) == 1


def test_an_endpoint_that_is_gone(place: Path, files: Certificate) -> None:
    gone = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    more = ["--upstream", gone[0], "--live-upstream", gone[1], "--grpc-upstream", gone[2]]
    with proxying(place / "gone", files, *more) as proxy:
        for path in (MODEL, "/", "/state"):
            reply = proxy.ask("GET", path, headers=bearer("alice"))
            assert (reply.status, error_of(reply)) == (502, ERRORS[502])
            assert reply.headers["retry-after"] == "1"
        assert proxy.ask("GET", MODEL).status == 401 and proxy.ask("GET", "/v2").status == 404


def statuses_of(proxy: Proxied, name: str | None, count: int) -> list[int]:
    """Statuses of requests sent in one go: how fast this side is does not matter."""
    token = f"Authorization: Bearer {TOKENS[name]}\r\n" if name else ""
    one = f"GET {MODEL} HTTP/1.1\r\nHost: localhost\r\n{token}"
    found = proxy.say((f"{one}\r\n" * (count - 1) + f"{one}Connection: close\r\n\r\n").encode())
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", found)]


def test_too_many_requests(place: Path, files: Certificate, endpoint: Recorder) -> None:
    limits = ["--rate", "1", "--upstream", f"127.0.0.1:{endpoint.port}"]
    with proxying(place / "rate", files, *limits) as proxy:
        statuses = statuses_of(proxy, "alice", 30)
        assert statuses[:2] == [200, 200] and set(statuses) == {200, 429} and len(statuses) == 30
        assert len(endpoint.requests) == statuses.count(200)
        while (last := proxy.ask("GET", MODEL, headers=bearer("alice"))).status == 200:
            pass
        assert error_of(last) == ERRORS[429] and last.headers["retry-after"] == "1"
        assert proxy.ask("GET", MODEL, headers=bearer("bob")).status == 200, "each token has its own"
        guesses = statuses_of(proxy, None, 60)
        assert guesses[:21] == [401] * 21 and set(guesses) == {401, 429}


def test_too_many_at_the_same_time(place: Path, files: Certificate, endpoint: Recorder) -> None:
    release = threading.Event()
    endpoint.answer = lambda: (release.wait(10), (200, b"{}"))[1]  # type: ignore[func-returns-value]
    more = ["--connections", "2", "--upstream", f"127.0.0.1:{endpoint.port}"]
    with proxying(place / "many", files, *more) as proxy, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(proxy.ask, "GET", MODEL, None, bearer("alice")) for _ in range(2)]
        try:
            wait_for(lambda: len(endpoint.requests) == 2)
            assert proxy.ask("GET", MODEL, headers=bearer("alice")).status == 429
            assert len(endpoint.requests) == 2
        finally:
            release.set()
        assert [w.result().status for w in waiting] == [200, 200]

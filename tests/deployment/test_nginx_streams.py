"""The reverse proxy on the real nginx in front of gRPC, and of the live web app with its WebSocket; TLS."""

import base64
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from deployment.nginx_config import ERRORS, GRPC_METHODS, GRPC_STATUS
from deployment.web.guard import Guard
from recsys.client import over_grpc, over_http
from recsys.server.listening import listen
from tests.tiny_proxy import TOKENS, Proxied, bearer, call, free_port, needs_nginx, proxying
from tests.tiny_server import PATIENCE, wait_for
from tests.tiny_tls import Certificate, make_certificate

pytestmark = needs_nginx
SERVICE = "/inference.GRPCInferenceService/"
Code = grpc.StatusCode


@dataclass
class Echo(grpc.GenericRpcHandler):
    """A stand-in for the endpoint: answers every method with what was sent, or as the test says."""

    port: int = 0
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    wait: threading.Event | None = None
    fail: Any = None

    def service(self, details: Any) -> Any:
        self.seen.append((details.method, dict(details.invocation_metadata)))
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, message: bytes, context: Any) -> bytes:
        if self.wait is not None:
            self.wait.wait(PATIENCE)
        if self.fail is not None:
            context.abort(*self.fail)
        return message


@pytest.fixture(scope="module")
def echoing() -> Iterator[Echo]:
    handler = Echo()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    handler.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler
    server.stop(0).wait()


@pytest.fixture
def echo(echoing: Echo) -> Echo:
    echoing.seen.clear()
    echoing.wait = echoing.fail = None
    return echoing


async def show(request: Request) -> Response:
    return JSONResponse({"path": str(request.url.path), "headers": dict(request.headers)})


async def talk(page: WebSocket) -> None:
    await page.accept()
    await page.send_json(dict(page.headers))
    async for text in page.iter_text():
        await page.send_text(text.upper())


@contextmanager
def live_app() -> Iterator[int]:
    """What answers in place of the live web app, behind that app's own guard; its port."""
    paths = ("/", "/state", "/health", "/favicon.ico", "/static/{name:path}", "/secret")
    app = Starlette(
        routes=[*(Route(path, show, methods=["GET", "POST"]) for path in paths), WebSocketRoute("/ws", talk)]
    )
    server = uvicorn.Server(uvicorn.Config(Guard(app), log_level="error", lifespan="off"))
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(PATIENCE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, files: Certificate, echoing: Echo) -> Iterator[Proxied]:
    with live_app() as port:
        more = ["--upstream", f"127.0.0.1:{free_port()}", "--grpc-upstream", f"127.0.0.1:{echoing.port}"]
        more += ["--live-upstream", f"127.0.0.1:{port}", "--body-bytes", "5000", "--answer-seconds", "1"]
        with proxying(tmp_path_factory.mktemp("proxy") / "p", files, *more, "--guesses", "1000") as running:
            yield running


# gRPC.


def refusal(proxy: Proxied, *given: Any, **options: Any) -> tuple[Any, str]:
    """Status of a call that fails, and the text beside it."""
    with pytest.raises(grpc.RpcError) as caught:
        call(proxy, *given, **options)
    return caught.value.code(), caught.value.details()  # type: ignore[attr-defined]


def test_methods_of_a_client_go_through(proxy: Proxied, echo: Echo) -> None:
    admin = [("recsys-admin", "key"), ("triton-grpc-protocol-recsys-admin", "key")]
    for method in GRPC_METHODS:
        message = method.encode() * 100
        assert call(proxy, SERVICE + method, message, metadata=admin) == message
    assert [method for method, _ in echo.seen] == [SERVICE + method for method in GRPC_METHODS]
    for _, metadata in echo.seen:
        assert "authorization" not in metadata and not [name for name in metadata if "admin" in name]


@pytest.mark.parametrize(
    "method",
    [
        f"{SERVICE}RepositoryIndex",
        f"{SERVICE}RepositoryModelLoad",
        f"{SERVICE}RepositoryModelUnload",
        f"{SERVICE}ModelConfig",
        f"{SERVICE}ModelStatistics",
        f"{SERVICE}ModelStreamInfer",
        f"{SERVICE}SystemSharedMemoryRegister",
        f"{SERVICE}CudaSharedMemoryUnregister",
        f"{SERVICE}TraceSetting",
        f"{SERVICE}LogSettings",
        f"{SERVICE}ServerMetadata",
        f"{SERVICE}modelinfer",
        f"{SERVICE}ModelInfer/",
        f"{SERVICE}ModelInferX",
        f"{SERVICE}%4dodelInfer",
        f"{SERVICE}../inference.GRPCInferenceService/ModelInfer",
        f"/{SERVICE}ModelInfer",
        "/inference_GRPCInferenceService/ModelInfer",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_no_other_method_does(method: str, proxy: Proxied, echo: Echo) -> None:
    # A service that is not there at all is answered as HTTP would be: gRPC reads status 404 as "unimplemented".
    assert refusal(proxy, method)[0] is Code.UNIMPLEMENTED
    assert not echo.seen


@pytest.mark.parametrize("token", [None, "x" * 40, TOKENS["bob"].upper()])
def test_a_call_needs_a_token(token: str | None, proxy: Proxied, echo: Echo) -> None:
    assert refusal(proxy, f"{SERVICE}ModelInfer", token=token) == (Code.UNAUTHENTICATED, ERRORS[401])
    assert not echo.seen


def test_calls_out_of_bounds(proxy: Proxied, echo: Echo) -> None:
    infer = f"{SERVICE}ModelInfer"
    assert call(proxy, infer, b"x" * 4990) == b"x" * 4990
    for size in (6000, 10_000_000):
        assert refusal(proxy, infer, b"x" * size) == (Code.INVALID_ARGUMENT, ERRORS[413])
    packed = {"compression": grpc.Compression.Gzip}
    assert refusal(proxy, infer, b"x" * 100_000, **packed) == (Code.UNIMPLEMENTED, ERRORS[415])
    assert len([1 for method, _ in echo.seen if method == infer]) <= 3


def test_too_many_calls(echoing: Echo, files: Certificate, tmp_path: Path) -> None:
    more = ["--grpc-upstream", f"127.0.0.1:{echoing.port}", "--rate", "1"]
    with proxying(tmp_path / "rate", files, *more) as proxy, pytest.raises(grpc.RpcError) as caught:
        while True:
            call(proxy, f"{SERVICE}ModelReady")
    assert (caught.value.code(), caught.value.details()) == (Code.RESOURCE_EXHAUSTED, ERRORS[429])  # type: ignore[attr-defined]


def test_the_client_asks_again_over_grpc_where_it_does_over_http() -> None:
    """Too many requests: another try may help. Too large a body: none will."""
    names = {code.value[0]: code.name for code in Code}
    for status in GRPC_STATUS:
        name = names[GRPC_STATUS[status]]
        assert (status in over_http.ASKED_AGAIN) == (name in over_grpc.ASKED_AGAIN), status
        assert (400 <= status < 500 and status not in over_http.ASKED_AGAIN) == (name in over_grpc.REFUSED), status


def test_what_the_endpoint_says_of_a_call_is_passed_on(proxy: Proxied, echo: Echo) -> None:
    echo.fail = (Code.INVALID_ARGUMENT, "the history is empty")
    assert refusal(proxy, f"{SERVICE}ModelInfer") == echo.fail


def test_an_endpoint_that_does_not_answer_or_is_gone(
    proxy: Proxied, echo: Echo, files: Certificate, tmp_path: Path
) -> None:
    echo.wait = threading.Event()
    try:
        assert refusal(proxy, f"{SERVICE}ModelInfer") == (Code.DEADLINE_EXCEEDED, ERRORS[504])
    finally:
        echo.wait.set()
    with proxying(tmp_path / "gone", files, "--grpc-upstream", f"127.0.0.1:{free_port()}") as other:
        assert refusal(other, f"{SERVICE}ModelInfer") == (Code.UNAVAILABLE, ERRORS[502])


def test_statuses_are_known_ones() -> None:
    assert set(GRPC_STATUS) <= set(ERRORS)
    assert set(GRPC_STATUS.values()) <= {code.value[0] for code in Code}


# The live web app.


def basic(name: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}


@contextmanager
def listening(
    proxy: Proxied, origin: str | None, headers: dict[str, str], path: str = "/ws"
) -> Iterator[ClientConnection]:
    place = f"wss://127.0.0.1:{proxy.port}{path}"
    how: Any = {"ssl": proxy.context(), "proxy": None, "open_timeout": PATIENCE}
    with connect(place, additional_headers=headers, origin=origin, **how) as socket:  # type: ignore[arg-type]
        yield socket


def refused(proxy: Proxied, origin: str | None, headers: dict[str, str], path: str = "/ws") -> int:
    with pytest.raises(InvalidStatus) as caught, listening(proxy, origin, headers, path):
        pass
    return caught.value.response.status_code


@pytest.mark.parametrize("path", ["/", "/state", "/health", "/favicon.ico", "/static/app.js", "/static/a/b.js"])
def test_pages_are_shown_to_whoever_has_a_token(path: str, proxy: Proxied) -> None:
    for headers in (bearer("alice"), basic("alice", TOKENS["alice"])):
        reply = proxy.ask("GET", path, headers=headers)
        assert reply.status == 200 and reply.json["path"] == path
        assert reply.headers["content-security-policy"].startswith("default-src 'self'")
        assert reply.json["headers"]["host"] == f"127.0.0.1:{proxy.port}"
        assert "authorization" not in reply.json["headers"]
    for headers in ({}, basic("alice", TOKENS["bob"]), basic("alice", ""), basic("", TOKENS["alice"])):
        reply = proxy.ask("GET", path, headers=headers)
        assert reply.status == 401 and reply.headers["www-authenticate"].startswith("Basic ")
    assert proxy.ask("POST", path, b"", bearer("alice")).status == 405


def test_a_password_of_a_browser_opens_pages_only(proxy: Proxied) -> None:
    assert proxy.ask("GET", "/v2/health/ready", headers=basic("alice", TOKENS["alice"])).status == 401


@pytest.mark.parametrize(
    "path",
    [
        "/secret",
        "/ws/",
        "/static",
        "/static/../secret",
        "/static/%2e%2e/secret",
        "/static/..%2fsecret",
        "//secret",
        "//state",
        "/secret/../state",
        "/static/../state",
        "/sta%74e",
        "/static/x/%2e%2e/y",
        "/WS",
    ],
)
def test_nothing_else_of_the_app_is_shown(path: str, proxy: Proxied) -> None:
    assert proxy.ask("GET", path, headers=bearer("alice")).status == 404


def test_pages_listen_through_it(proxy: Proxied) -> None:
    origin = f"https://127.0.0.1:{proxy.port}"
    with listening(proxy, origin, basic("bob", TOKENS["bob"])) as page:
        seen = page.recv(timeout=PATIENCE)
        assert f'"origin":"{origin}"' in seen and "authorization" not in seen
        time.sleep(1.2)  # longer than an answer of the endpoint may take
        page.send("said")
        assert page.recv(timeout=PATIENCE) == "SAID"


def test_only_pages_of_the_app_listen(proxy: Proxied) -> None:
    origin, known = f"https://127.0.0.1:{proxy.port}", bearer("alice")
    assert refused(proxy, origin, {}) == 401
    for foreign in (None, "null", "https://evil.example", "https://127.0.0.1", f"https://localhost:{proxy.port}"):
        assert refused(proxy, foreign, known) == 403
    assert refused(proxy, origin, known, "/state") == 200, "a page that is no WebSocket is not made one"


# TLS.


@pytest.mark.parametrize(("version", "refused"), [("TLSv1", True), ("TLSv1_1", True), ("TLSv1_2", False)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_refused(version: str, refused: bool, proxy: Proxied) -> None:
    wanted = ssl.TLSVersion[version]
    context = proxy.context(minimum_version=wanted, maximum_version=wanted)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as plain:
        if refused:
            # The server's word, not this side's own caution.
            with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
                context.wrap_socket(plain, server_hostname="127.0.0.1")
        else:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                assert secure.version() == "TLSv1.2"


def test_old_ciphers_are_refused(proxy: Proxied) -> None:
    context = proxy.context(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as plain, pytest.raises(ssl.SSLError, match="ALERT"):
        context.wrap_socket(plain, server_hostname="127.0.0.1")

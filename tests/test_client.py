"""The client against servers that fail, hang, lie or close; tests/server has it against the real one."""

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recsys.client import Client, EndpointError
from recsys.errors import ConfigError, InputError
from recsys.serving import kserve, wire
from tests.tiny_tls import make_certificate

FIELDS = [wire.Field("timestamp", "time"), wire.Field("item_id", "text")]
HISTORY = {"timestamp": [1, 2], "item_id": ["a", "b"], "colour": ["not", "sent"]}


class Fake(BaseHTTPRequestHandler):
    """Answers each request with the next step of the server's script, and well when the script is over."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        inputs, outputs = wire.signature(FIELDS)
        self.act(json.dumps({"inputs": inputs, "outputs": outputs}).encode(), {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        message = kserve.load("inputs", body, self.headers[kserve.HEADER])
        sessions, wanted, _ = wire.from_tensors(FIELDS, message.tensors)
        answers = [
            SimpleNamespace(items=s["item_id"][::-1], scores=[2.0, 1.0], probabilities=[0.5, 0.25]) for s in sessions
        ]
        body, length = kserve.dump("outputs", wire.answer_tensors(answers, wanted), message.binary)
        self.act(body, {kserve.HEADER: str(length)})

    def act(self, body: bytes, headers: dict[str, str]) -> None:
        server = self.server
        server.seen.append((self.command, self.path, self.headers.get("Authorization"), self.client_address[1]))
        step = server.script.pop(0) if server.script else None
        if callable(step):
            step(self)
            return
        status, body, headers = step or (200, body, headers)
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def hang_up(handler: Fake) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def half(handler: Fake) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"{")
    hang_up(handler)


def drip(start: bytes, piece: bytes) -> Callable[[Fake], None]:
    """One piece after the other, each well within a timeout for one read."""

    def step(handler: Fake) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + start)
        try:
            for _ in range(200):
                handler.wfile.write(piece)
                time.sleep(0.02)
            handler.server.finished = True
            hang_up(handler)
        except OSError:
            handler.close_connection = True

    return step


@pytest.fixture
def fake() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    server.daemon_threads, server.script, server.seen, server.finished = True, [], [], False
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def refuse(status: int, text: str = "busy") -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps({"error": text}).encode(), {}


def test_one_and_many_over_one_connection(fake: Any) -> None:
    with Client(fake.url, batch=2, token="secret") as client:
        answer = client.recommend(HISTORY, 2)
        many = client.recommend_batch([HISTORY | {"item_id": [str(n), "x"]} for n in range(5)], 3)
        assert client.recommend_batch([]) == []
    assert (answer.items, answer.scores, answer.probabilities) == (["b", "a"], [2.0, 1.0], [0.5, 0.25])
    assert [a.items for a in many] == [["x", str(n)] for n in range(5)]
    infer = ("POST", "/v2/models/recommend/infer", "Bearer secret")
    assert [seen[:3] for seen in fake.seen] == [("GET", "/v2/models/recommend", "Bearer secret"), *[infer] * 4]
    assert len({seen[3] for seen in fake.seen}) == 1


def secured(fake: Any, folder: Path) -> tuple[str, Path]:
    """Make the server speak TLS; its address and certificate."""
    made = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    fake.socket = context.wrap_socket(fake.socket, server_side=True)
    return fake.url.replace("http", "https"), made.certificate


def test_tls_with_a_certificate_of_ones_own(fake: Any, tmp_path: Path) -> None:
    url, certificate = secured(fake, tmp_path)
    with Client(url, token="secret", ca=certificate) as client:
        assert client.recommend(HISTORY).items == ["b", "a"]
    assert fake.seen[-1][2] == "Bearer secret"
    with Client(url, retries=0) as client, pytest.raises(EndpointError, match="CERTIFICATE_VERIFY_FAILED"):
        client.recommend(HISTORY)


def test_model_and_path_stand_in_the_address(fake: Any) -> None:
    with Client(f"{fake.url}/api/", model="a b/c") as client:
        assert client.ready()
    assert fake.seen[0][1] == "/api/v2/models/a%20b%2Fc/ready"


@pytest.mark.parametrize("trouble", [refuse(503), refuse(429), refuse(502), hang_up, half])
def test_trouble_that_passes_is_tried_again(fake: Any, trouble: Any) -> None:
    with Client(fake.url) as client:
        client.recommend(HISTORY)
        fake.script += [trouble, trouble]
        assert client.recommend(HISTORY).items == ["b", "a"]


def test_tries_end(fake: Any) -> None:
    with Client(fake.url, retries=1) as client:
        client.recommend(HISTORY)
        fake.script += [refuse(503)] * 3
        with pytest.raises(EndpointError, match="no answer after 2 tries in 10 seconds at most: status 503: busy"):
            client.recommend(HISTORY)
        assert len(fake.script) == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InputError), (404, InputError), (413, InputError), (500, EndpointError)]
)
def test_a_refusal_is_not_tried_again(fake: Any, status: int, kind: type[Exception]) -> None:
    with Client(fake.url) as client:
        client.recommend(HISTORY)
        fake.script += [refuse(status, "column 'x'\nis\x1b[31m odd"), refuse(status)]
        with pytest.raises(kind, match=f"status {status}: column 'x' is .31m odd$"):
            client.recommend(HISTORY)
        assert len(fake.script) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, b"<html>", {}), "no JSON in UTF-8"),
        ((200, b'{"outputs": []}', {}), "the answer has no output 'items' of BYTES for 1 sessions"),
        ((200, b"{}", {kserve.HEADER: "7"}), "expected a number up to 2"),
    ],
)
def test_an_answer_that_is_none(fake: Any, answer: Any, reason: str) -> None:
    with Client(fake.url) as client:
        client.recommend(HISTORY)
        fake.script.append(answer)
        with pytest.raises(EndpointError, match=reason):
            client.recommend(HISTORY)


@pytest.mark.parametrize("answer", [b"[]", b"{}", b"<html>", b'{"inputs": [], "outputs": []}'])
def test_another_model_is_told_from_ours(fake: Any, answer: bytes) -> None:
    fake.script.append((200, answer, {}))
    with Client(fake.url) as client, pytest.raises(EndpointError, match=fake.url):
        client.recommend(HISTORY)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(drip(b"X: ", b"x"), id="head"),
        pytest.param(drip(b"Content-Length: 1000000\r\n\r\n", b" "), id="body"),
        pytest.param(drip(b"Transfer-Encoding: chunked\r\n\r\n", b"0"), id="size of a chunk"),
        pytest.param(drip(b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: x\r\n"), id="trailers"),
        pytest.param(lambda handler: time.sleep(0.6), id="nothing"),
    ],
)
@pytest.mark.parametrize("secure", [False, True])
def test_the_deadline_holds_for_the_whole_call(
    fake: Any, tmp_path: Path, step: Callable[[Fake], None], secure: bool
) -> None:
    url, ca = secured(fake, tmp_path) if secure else (fake.url, None)
    with Client(url, retries=9, ca=ca) as client:
        client.recommend(HISTORY)
        client.deadline = 0.3
        fake.script += [step] * 10
        with pytest.raises(EndpointError, match="in 0.3 seconds at most"):
            client.recommend(HISTORY)
        assert not fake.finished and len(fake.script) == 9  # the first try took all the time


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", retries=1) as client:
        assert not client.ready()
        with pytest.raises(EndpointError, match="no answer after 2 tries .*[Rr]efused"):
            client.recommend(HISTORY)


def test_what_cannot_be_sent_is_not_sent(fake: Any) -> None:
    with Client(fake.url) as client:
        for history, k, reason in (
            ({"timestamp": [1]}, 5, "column 'item_id' is missing"),
            (HISTORY | {"timestamp": []}, 5, "the history is empty"),
            (HISTORY, 0, "k .0. must be a whole number of at least 1"),
        ):
            with pytest.raises(InputError, match=reason):
                client.recommend(history, k)
    assert [seen[0] for seen in fake.seen] == ["GET"]


def test_several_threads_share_a_client(fake: Any) -> None:
    found: list[bool] = []
    with Client(fake.url) as client:

        def ask(n: int) -> None:
            answers = [client.recommend(HISTORY | {"item_id": [str(n), str(i)]}).items for i in range(10)]
            found.append(answers == [[str(i), str(n)] for i in range(10)])

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [True] * 4


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"url": "127.0.0.1:8000"}, "expected http://HOST:PORT"),
        ({"url": "http://"}, "expected http://HOST:PORT"),
        ({"url": "http://x:port"}, "expected http://HOST:PORT"),
        ({"url": "file:///etc/passwd"}, "expected http://HOST:PORT"),
        ({"deadline": 0}, "deadline 0, retries 3"),
        ({"retries": -1}, "retries -1"),
        ({"batch": 0}, "batch 0"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Client(**arguments)


def test_the_client_loads_little() -> None:
    heavy = ("torch", "polars", "onnxruntime", "starlette", "grpc")
    code = f"import sys, recsys.client; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_answer_above_the_bound(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(fake.url, retries=0) as client:
        client.recommend(HISTORY)
        monkeypatch.setattr("recsys.client.over_http.MOST_BYTES", 10)
        with pytest.raises(EndpointError, match="the answer is above 10 bytes"):
            client.recommend(HISTORY)

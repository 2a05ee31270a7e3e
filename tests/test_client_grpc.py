"""The client over gRPC against servers that fail, hang or lie, with Google's own reading of what it sends."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from recsys.client import Client, EndpointError, over_grpc
from recsys.errors import ConfigError, InputError
from recsys.serving import wire
from tests import kserve_grpc
from tests.tiny_tls import Certificate, make_certificate

FIELDS = [wire.Field("timestamp", "time"), wire.Field("item_id", "text"), wire.Field("level", "number", once=True)]
HISTORY = {"timestamp": [1, 2], "item_id": ["a", "b"], "level": 3.5, "colour": ["not", "sent"]}
REVERSED = (["b", "a"], [2.0, 1.0], [0.5, 0.25])


class Fake:
    """Answers each call with the next step of its script (what aborts the call, or bytes), and well when it is over."""

    def __init__(self, credentials: Any = None, port: int = 0, options: Any = None) -> None:
        self.script: list[Any] = []
        self.seen: list[tuple[str, str | None]] = []
        self.server = grpc.server(ThreadPoolExecutor(8), options=options)
        names = ("ModelReady", "ModelMetadata", "ModelInfer")
        handlers = {name: grpc.unary_unary_rpc_method_handler(getattr(self, name)) for name in names}
        self.server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(kserve_grpc.SERVICE[1:-1], handlers)]
        )
        place = f"127.0.0.1:{port}"
        bind = self.server.add_insecure_port if credentials is None else self.server.add_secure_port
        self.port = bind(place) if credentials is None else bind(place, credentials)
        self.server.start()
        self.url = f"{'grpc' if credentials is None else 'grpcs'}://127.0.0.1:{self.port}"

    def step(self, method: str, context: Any) -> Any:
        self.seen.append((method, dict(context.invocation_metadata()).get("authorization")))
        step = self.script.pop(0) if self.script else None
        return step(context) if callable(step) else step

    def ModelReady(self, message: bytes, context: Any) -> bytes:
        asked = kserve_grpc.MESSAGES["ModelReadyRequest"].FromString(message)
        answer = kserve_grpc.MESSAGES["ModelReadyResponse"](ready=asked.name == "recommend")
        return self.step("ModelReady", context) or answer.SerializeToString()

    def ModelMetadata(self, message: bytes, context: Any) -> bytes:
        name = kserve_grpc.MESSAGES["ModelMetadataRequest"].FromString(message).name
        inputs, outputs = wire.signature(FIELDS)
        answer = kserve_grpc.MESSAGES["ModelMetadataResponse"](
            name=name, versions=["1"], platform="x", inputs=inputs, outputs=outputs
        )
        return self.step("ModelMetadata", context) or answer.SerializeToString()

    def ModelInfer(self, message: bytes, context: Any) -> bytes:
        asked = kserve_grpc.MESSAGES["ModelInferRequest"].FromString(message)
        tensors = kserve_grpc.tensors_of(asked.inputs, asked.raw_input_contents)
        sessions, wanted, _ = wire.from_tensors(FIELDS, tensors)
        answers = [
            SimpleNamespace(items=s["item_id"][::-1], scores=[2.0, 1.0], probabilities=[0.5, 0.25]) for s in sessions
        ]
        outputs = wire.answer_tensors(answers, wanted)
        answer = kserve_grpc.MESSAGES["ModelInferResponse"](
            model_name=asked.model_name,
            outputs=kserve_grpc.described(outputs),
            raw_output_contents=[kserve_grpc.raw(values) for values in outputs.values()],
        )
        return self.step("ModelInfer", context) or answer.SerializeToString()


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.server.stop(0).wait()


def refuse(status: str, text: str = "busy") -> Callable[[Any], None]:
    return lambda context: context.abort(grpc.StatusCode[status], text)


def test_one_and_many_over_one_channel(fake: Fake) -> None:
    with Client(fake.url, batch=2, token="secret") as client:
        answer = client.recommend(HISTORY, 2)
        many = client.recommend_batch([HISTORY | {"item_id": [str(n), "ß"]} for n in range(5)], 3)
        assert client.recommend_batch([]) == [] and client.ready()
    assert (answer.items, answer.scores, answer.probabilities) == REVERSED
    assert [a.items for a in many] == [["ß", str(n)] for n in range(5)]
    methods = ["ModelMetadata", *["ModelInfer"] * 4, "ModelReady"]
    assert fake.seen == [(method, "Bearer secret") for method in methods]


def test_a_closed_client_opens_anew_and_another_model_is_not_ready(fake: Fake) -> None:
    client = Client(fake.url)
    for _ in range(2):
        assert client.recommend(HISTORY, 2).items == ["b", "a"]
        client.close()
    with Client(fake.url, model="another") as other:
        assert not other.ready()


@pytest.mark.parametrize("status", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"])
def test_trouble_that_passes_is_tried_again(fake: Fake, status: str) -> None:
    with Client(fake.url) as client:
        client.recommend(HISTORY)
        fake.script += [refuse(status), refuse(status)]
        assert client.recommend(HISTORY).items == ["b", "a"]


def test_tries_end(fake: Fake) -> None:
    with Client(fake.url, retries=1) as client:
        client.recommend(HISTORY)
        fake.script += [refuse("UNAVAILABLE")] * 3
        with pytest.raises(
            EndpointError, match="no answer after 2 tries in 10 seconds at most: status UNAVAILABLE: busy"
        ):
            client.recommend(HISTORY)
        assert len(fake.script) == 1


def test_a_message_too_large_for_the_server_is_not_told_from_too_many() -> None:
    """gRPC itself says of it what a proxy says of too many requests."""
    fake = Fake(options=[("grpc.max_receive_message_length", 10_000)])
    try:
        with Client(fake.url, retries=1) as client:
            client.recommend(HISTORY)
            reason = "no answer after 2 tries .*status RESOURCE_EXHAUSTED: .*message larger than max"
            with pytest.raises(EndpointError, match=reason):
                client.recommend(HISTORY | {"item_id": ["x" * 10_000, "b"]})
    finally:
        fake.server.stop(0).wait()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("INVALID_ARGUMENT", InputError),
        ("NOT_FOUND", InputError),
        ("UNAUTHENTICATED", InputError),
        ("PERMISSION_DENIED", InputError),
        ("INTERNAL", EndpointError),
        ("UNKNOWN", EndpointError),
    ],
)
def test_a_refusal_is_not_tried_again(fake: Fake, status: str, kind: type[Exception]) -> None:
    with Client(fake.url) as client:
        client.recommend(HISTORY)
        fake.script += [refuse(status, "column 'x'\nis\x1b[31m odd"), refuse(status)]
        with pytest.raises(kind, match=f"status {status}: column 'x' is .31m odd$"):
            client.recommend(HISTORY)
        assert len(fake.script) == 1


def answer_with(**changes: Any) -> bytes:
    outputs = wire.answer_tensors([SimpleNamespace(items=["a"], scores=[1.0], probabilities=[1.0])], [1])
    values = {
        "outputs": kserve_grpc.described(outputs),
        "raw_output_contents": [kserve_grpc.raw(v) for v in outputs.values()],
    }
    data: bytes = kserve_grpc.MESSAGES["ModelInferResponse"](**values | changes).SerializeToString()
    return data


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\xff", "the message is cut off"),
        (b"\x2a\x7fabc", "the message is cut off"),
        (b"\x0b", "a field of the unknown kind 3"),
        (b"\x08\x01", "the answer has no output 'items' of BYTES for 1 sessions"),
        (answer_with(raw_output_contents=[b""]), "describes 3 tensors and holds 1"),
        (answer_with(raw_output_contents=[b""] * 3), "tensor 'items' holds 0 values; its shape .1, 1. has 1"),
        (answer_with(outputs=[{"name": "items", "datatype": "UINT8"}] * 3), "datatype 'UINT8'; known"),
        (answer_with(outputs=[{"name": "items", "datatype": "FP32", "shape": [-1, 1]}] * 3), "has shape .-1, 1.;"),
    ],
)
def test_an_answer_that_is_none(fake: Fake, answer: bytes, reason: str) -> None:
    with Client(fake.url) as client:
        client.recommend(HISTORY)
        fake.script.append(answer)
        with pytest.raises(EndpointError, match=reason):
            client.recommend(HISTORY)


@pytest.mark.parametrize("answer", [b"\x08\x01", b"\x22\x01", b"\x22\x02\x0a\x05"])
def test_another_model_is_told_from_ours(fake: Fake, answer: bytes) -> None:
    fake.script.append(answer)
    with Client(fake.url) as client, pytest.raises(EndpointError, match=fake.url):
        client.recommend(HISTORY)


def test_the_deadline_holds_for_the_whole_call(fake: Fake) -> None:
    go_on = threading.Event()
    with Client(fake.url, deadline=0.3, retries=9) as client:
        client.recommend(HISTORY)
        fake.script += [lambda _: go_on.wait(30) and None] * 10
        with pytest.raises(EndpointError, match="in 0.3 seconds at most: status DEADLINE_EXCEEDED"):
            client.recommend(HISTORY)
        go_on.set()
        assert len(fake.script) == 9  # the first try took all the time


def test_a_server_that_comes_back_is_found_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"grpc://127.0.0.1:{port}", retries=1) as client:
        assert not client.ready()
        with pytest.raises(EndpointError, match="no answer after 2 tries .*UNAVAILABLE"):
            client.recommend(HISTORY)
    servers = [Fake(port=port)]
    with Client(servers[0].url, retries=100) as client:
        assert client.recommend(HISTORY).items == ["b", "a"]
        servers[0].server.stop(0).wait()
        threading.Timer(0.2, lambda: servers.append(Fake(port=port))).start()
        assert client.recommend(HISTORY).items == ["b", "a"]
    servers[1].server.stop(0).wait()


def test_several_threads_share_a_client(fake: Fake) -> None:
    with Client(fake.url) as client, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: client.recommend(HISTORY | {"item_id": [str(n), "x"]}).items, range(40)))
    assert found == [["x", str(n)] for n in range(40)]


def test_tls_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    made: Certificate = make_certificate(tmp_path)
    pair = (made.key.read_bytes(), made.certificate.read_bytes())
    server = Fake(grpc.ssl_server_credentials([pair]))
    try:
        with Client(server.url, ca=made.certificate, token="secret") as client:
            assert client.recommend(HISTORY).items == ["b", "a"]
        assert {token for _, token in server.seen} == {"Bearer secret"}
        for url in (server.url, server.url.replace("grpcs", "grpc")):  # not trusted; not TLS
            with Client(url, deadline=2, retries=0) as client, pytest.raises(EndpointError, match="UNAVAILABLE"):
                client.recommend(HISTORY)
    finally:
        server.server.stop(0).wait()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"url": "grpc://127.0.0.1"}, "grpc:// or grpcs://HOST:PORT"),
        ({"url": "grpc://127.0.0.1:8001/path"}, "grpc:// or grpcs://HOST:PORT"),
        ({"url": "grpc://:8001"}, "grpc:// or grpcs://HOST:PORT"),
        ({"url": "grpc://127.0.0.1:8001", "ca": "x.pem"}, "has no TLS, so there is nothing to do for ca; use https://"),
        ({"url": "grpcs://127.0.0.1:8001", "ca": "no/such.pem"}, "ca no/such.pem: no certificates in PEM"),
        ({"url": "https://127.0.0.1:8001", "ca": "README.md"}, "ca README.md: no certificates in PEM"),
        ({"token": "one\ntwo"}, "the token is no text of printable ASCII"),
        ({"token": ""}, "the token is no text of printable ASCII"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        Client(**arguments)
    assert "two" not in str(caught.value)


def test_without_grpcio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_grpc, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs grpcio, which is not installed: pip install 'recsys.serve.'"):
        Client("grpc://127.0.0.1:8001")
    Client("http://127.0.0.1:8000").close()


def test_an_address_of_version_6() -> None:
    with Client("grpc://[::1]:8001", retries=0, deadline=0.2) as client:
        assert client._transport._target == "[::1]:8001"  # type: ignore[attr-defined]

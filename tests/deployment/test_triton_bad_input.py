"""Input out of the ordinary: NVIDIA Triton and the local server answer it alike, and refuse it alike."""

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from recsys.client import Client
from recsys.errors import InputError
from recsys.serving import kserve, wire
from tests import kserve_grpc
from tests.tiny_server import Served, serving
from tests.tiny_triton import Running

pytestmark = pytest.mark.slow
MODELS = ("ensemble", "fused")
MARKS = ("/home", "/tmp", "/work", "/usr", ".py", "Traceback", "File ", "onnx")
EVENTS = 3


@pytest.fixture(scope="module")
def local(running: Running) -> Iterator[Served]:
    with serving(running.bundle) as served:
        yield served


def texts(*values: bytes) -> np.ndarray:
    found = np.empty((1, len(values)), dtype=object)
    found[0] = values
    return found


def request_of(running: Running, changes: dict[str, Any]) -> dict[str, np.ndarray]:
    """A golden request of three events; `changes` replaces tensors (None: leaves one out)."""
    tensors = wire.to_tensors(running.canary.fields, [running.histories[1]], 5)
    assert tensors["timestamp"].shape == (1, EVENTS)
    return {name: t for name, t in {**tensors, **changes}.items() if t is not None}


def post(port: int, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader(kserve.HEADER)
    finally:
        connection.close()


def ask(port: int, model: str, tensors: dict[str, np.ndarray]) -> tuple[int, Any]:
    """Status, and outputs or the error's text, by a request in binary form."""
    body, length = kserve.dump("inputs", tensors, True, {"parameters": {"binary_data_output": True}})
    status, answer, header = post(port, f"/v2/models/{model}/infer", body, {kserve.HEADER: str(length)})
    if status == 200:
        return status, kserve.load("outputs", answer, header).tensors
    text = json.loads(answer)["error"]
    assert not [mark for mark in MARKS if mark in text], text
    return status, text


def ask_grpc(port: int, model: str, tensors: dict[str, np.ndarray]) -> tuple[str, Any]:
    message = kserve_grpc.request_of(model, tensors)
    try:
        return "OK", kserve_grpc.answer_of(kserve_grpc.call(f"127.0.0.1:{port}", "ModelInfer", message))
    except grpc.RpcError as error:
        assert not [mark for mark in MARKS if mark in error.details()], error.details()
        return error.code().name, error.details()


def long_history(running: Running, events: int) -> dict[str, np.ndarray]:
    plain = running.histories[1]
    session = {name: [values[n % EVENTS] for n in range(events)] for name, values in plain.items()}
    session["timestamp"] = [1_600_000_000_000_000 + n * 10**6 for n in range(events)]
    return wire.to_tensors(running.canary.fields, [session], 5)


ANSWERED: dict[str, Any] = {
    "unknown commands only": {"item_id": texts(*[b"never seen"] * EVENTS)},
    "no command at all": {"item_id": texts(*[b""] * EVENTS)},
    "hostile text": {"item_id": texts(b"<script>", "\u202e\x07".encode(), b"a\nb\0c")},
    "numbers that are none": {"merge_count": np.array([[np.nan, np.inf, 3.0]])},
    "k above the catalogue": {"k": np.full((1, 1), 10_000, np.int32)},
    "the largest k": {"k": np.full((1, 1), 2**31 - 1, np.int32)},
    "one of the events": {"lengths": np.ones((1, 1), np.int32)},
    "times backwards": {"timestamp": np.array([[3, 2, 1]]) * 10**15},
    "ten thousand events": long_history,
    "seen items left out": {"remove_seen": np.ones((1, 1), np.bool_)},
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", ANSWERED)
def test_answered_alike(running: Running, local: Served, case: str, model: str) -> None:
    change = ANSWERED[case]
    tensors = change(running, 10_000) if callable(change) else request_of(running, change)
    status, wanted = ask(local.port, "recommend", tensors)
    assert status == 200 and len(wanted["items"]) == 1
    for status, found in (
        ask(running.place.http, model, tensors),
        ask_grpc(running.place.grpc, model, tensors),
    ):
        assert status in (200, "OK"), found
        assert {n: (t.shape, t.dtype) for n, t in found.items()} == {n: (t.shape, t.dtype) for n, t in wanted.items()}
        assert found["items"].tolist() == wanted["items"].tolist()
        for name in ("scores", "probabilities"):
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6)


LISTS = json.dumps(["t"] * 100_000).encode()
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "k of 0": ({"k": np.zeros((1, 1), np.int32)}, "k (0) must be a whole number of at least 1"),
    "k below 0": ({"k": np.full((1, 1), -3, np.int32)}, "k (-3) must be a whole number of at least 1"),
    "empty history": ({"lengths": np.zeros((1, 1), np.int32)}, "the history is empty; give at least one event"),
    "too many events said": ({"lengths": np.full((1, 1), 99, np.int32)}, "input 'lengths', session 1: 99; expected"),
    "a negative length": ({"lengths": np.full((1, 1), -1, np.int32)}, "input 'lengths', session 1: -1; expected"),
    "no UTF-8": ({"item_id": texts(b"a", b"\xff", b"b")}, "input 'item_id', session 1, event 2: not UTF-8 text"),
    "time out of range": ({"timestamp": np.full((1, EVENTS), 2**62)}, f"event 1: {2**62}; expected microsec"),
    "number out of range": ({"merge_count": np.full((1, EVENTS), -5.0)}, "column 'merge_count', event 1: -5"),
    "a list that is none": ({"tags": texts(b"x", b"", b"")}, "input 'tags', session 1, event 1: b'x'; expected a JSON"),
    "a long list": ({"tags": texts(LISTS, b"", b"")}, "the longest list of 'tags' holds 100,000 values"),
}
"""What the model's own step looks at: the same line from both."""
STRANGE: dict[str, tuple[dict[str, Any], str]] = {
    "times as numbers with a fraction": ({"timestamp": np.full((1, EVENTS), np.nan)}, "timestamp"),
    "numbers in place of text": ({"item_id": np.zeros((1, EVENTS))}, "item_id"),
    "text in place of numbers": ({"merge_count": texts(b"1", b"2", b"3")}, "merge_count"),
    "k as a number with a fraction": ({"k": np.full((1, 1), 5.0)}, "k"),
    "a shape of three sizes": ({"item_id": texts(b"a", b"b", b"c")[..., None]}, "item_id"),
    "a shape of one size": ({"lengths": np.array([3], np.int32)}, "lengths"),
    "another number of events": ({"item_id": texts(b"a", b"b")}, "item_id"),
    "another number of sessions": ({"k": np.full((2, 1), 5, np.int32)}, "k"),
    "an input too few": ({"item_id": None}, "item_id"),
    "an input too many": ({"colour": np.zeros((1, EVENTS))}, "colour"),
    "too many sessions": ({"k": np.full((65, 1), 5, np.int32)}, ""),
}
"""What Triton looks at itself: refused by both, each in its own words."""


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", [*REFUSED, *STRANGE])
def test_refused_alike(running: Running, local: Served, case: str, model: str) -> None:
    changes, said = {**REFUSED, **STRANGE}[case]
    tensors = request_of(running, changes)
    status, told = ask(local.port, "recommend", tensors)
    assert status == 400 and said in told
    status, found = ask(running.place.http, model, tensors)
    assert status == 400 and (told if case in REFUSED else said) in found
    code, found = ask_grpc(running.place.grpc, model, tensors)
    assert code == "INVALID_ARGUMENT" and (told if case in REFUSED else said) in found


@pytest.mark.parametrize("model", MODELS)
def test_bodies_that_are_none(running: Running, local: Served, model: str) -> None:
    """Triton answers JSON that it cannot read with status 400 or 500; either way it goes on."""
    for body, headers in (
        (b"{", {}),
        (b"", {}),
        (b"\xff\xfe", {}),
        (b"[" * 100_000, {}),
        (b'{"inputs": 3}', {}),
        (b"{}", {kserve.HEADER: "9999999999"}),
        (b"{}", {kserve.HEADER: "-1"}),
    ):
        assert post(local.port, "/v2/models/recommend/infer", body, headers)[0] == 400
        status, answer, _ = post(running.place.http, f"/v2/models/{model}/infer", body, headers)
        assert status in (400, 500) and b"error" in answer
        assert not [mark for mark in MARKS if mark in answer.decode("utf-8", "replace")]
    assert ask(running.place.http, model, request_of(running, {}))[0] == 200


@pytest.mark.parametrize("name", ["..%2f..%2f..%2fetc%2fpasswd", "fused%2f..%2f..", "%2e%2e", "fused%00", "a/../../x"])
def test_names_that_lead_out(running: Running, local: Served, name: str) -> None:
    for port in (running.place.http, local.port):
        for path in (f"/v2/models/{name}/infer", f"/v2/models/fused/versions/{name}/infer", f"/v2/repository/{name}"):
            status, answer, _ = post(port, path, b"{}", {})
            assert 400 <= status < 500
            assert not [mark for mark in (*MARKS, "root:") if mark in answer.decode("utf-8", "replace")]


def test_slow_callers_keep_nobody_waiting(running: Running, local: Served) -> None:
    for port, model in ((running.place.http, "fused"), (local.port, "recommend")):
        head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        try:
            for n, connection in enumerate(slow):
                connection.sendall((head if n % 2 else head + "\r\n{").encode())
            assert ask(port, model, request_of(running, {}))[0] == 200
        finally:
            for connection in slow:
                connection.close()


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_the_client_tells_the_same_of_both(running: Running, local: Served, way: str) -> None:
    history = running.histories[1]
    cases = [
        ({"timestamp": [1.0, float("nan"), 3.0]}, 5, "column 'timestamp', event 2: nan; expected microseconds"),
        ({"timestamp": ["now", 2, 3]}, 5, "column 'timestamp', event 1: 'now'; expected microseconds"),
        ({"item_id": ["a"]}, 5, "column 'item_id' holds 1 values, 'timestamp' 3; give one an event"),
        ({"item_id": ["a", "\udcff", "b"]}, 5, "column 'item_id', event 2: .*; expected text in UTF-8"),
        ({}, 0, "k .0. must be a whole number of at least 1"),
    ]
    for client in (Client(running.urls[way], model="fused"), Client(local.url)):
        with client:
            for changes, k, said in cases:
                with pytest.raises(InputError, match=said):
                    client.recommend({**history, **changes}, k)

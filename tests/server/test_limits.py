"""Requests and callers that are too large or too slow, and a server that stops."""

import socket
import threading
import time
from typing import Any

import pytest

from recsys.client import Client
from recsys.errors import ConfigError, InputError
from recsys.server.limits import Limits, read_limits
from recsys.server.listening import listen
from recsys.serving.bundle import Bundle
from tests.tiny_server import PATIENCE, Served, serving, wait_for

INFER = "/v2/models/recommend/infer"


def test_a_body_too_large_is_refused(bundle: Bundle, golden: list[Any]) -> None:
    with serving(bundle, Limits(body_bytes=1000)) as served:
        for size in (1001, 200_000, 6_000):
            reply = served.ask("POST", INFER, b"x" * size)
            assert reply.status == 413 and "the body is above 1,000 bytes" in reply.json["error"]
        with Client(served.url) as client, pytest.raises(InputError, match="status 413: the body is above"):
            client.recommend_batch([golden[4]["columns"]] * 3)


def test_more_items_than_allowed_of_all_sessions(bundle: Bundle, golden: list[Any]) -> None:
    with serving(bundle, Limits(items=10)) as served, Client(served.url) as client:
        assert len(client.recommend_batch([golden[4]["columns"]] * 2, 5)) == 2
        with pytest.raises(InputError, match=r"has 12 items wanted \(k\) and this server takes 10"):
            client.recommend_batch([golden[4]["columns"]] * 2, 6)


def left_open(served: Served, data: bytes) -> bytes:
    """What a server says to a caller who sends only this."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as caller:
        caller.sendall(data)
        answer = b""
        while part := caller.recv(4096):
            answer += part
    return answer


def test_slow_callers_are_let_go_while_others_are_answered(bundle: Bundle, golden: list[Any]) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n".encode()
    whole = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(bundle, Limits(header_seconds=0.2, body_seconds=0.2, idle_seconds=60)) as served:
        slow: list[bytes] = []
        thread = threading.Thread(target=lambda: slow.append(left_open(served, head + b"{")))
        thread.start()
        with Client(served.url) as client:
            assert client.recommend(golden[0]["columns"]).items
        thread.join(PATIENCE)
        assert slow[0].startswith(b"HTTP/1.1 408") and b"within 0.2 seconds" in slow[0]
        assert left_open(served, b"") == left_open(served, head[:30]) == b""
        assert left_open(served, whole + head[:30]).startswith(b"HTTP/1.1 200")


def test_a_slow_answer_and_a_full_queue(bundle: Bundle, golden: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    with serving(bundle, Limits(answer_seconds=0.2, waiting=1)) as served:
        with Client(served.url) as client:
            client.recommend(golden[0]["columns"])
        infer = served.app.model.infer

        def slow(body: bytes, header: str | None) -> Any:
            go_on.wait(PATIENCE)
            return infer(body, header)

        monkeypatch.setattr(served.app.model, "infer", slow)
        replies: list[Any] = []
        threads = [threading.Thread(target=lambda: replies.append(served.ask("POST", INFER, b"{"))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        go_on.set()
        assert sorted(r.status for r in replies) == [503, 504, 504]
        assert {r.json["error"] for r in replies} == {
            "too many requests are waiting; try again",
            "no answer within 0.2 seconds",
        }
        monkeypatch.undo()
        with Client(served.url) as client:
            assert client.recommend(golden[0]["columns"]).items


def test_a_request_under_way_is_answered_when_the_server_stops(
    bundle: Bundle, golden: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    with serving(bundle) as served:
        with Client(served.url) as client:
            right = client.recommend(golden[0]["columns"])
            infer = served.app.model.infer

            def slow(body: bytes, header: str | None) -> Any:
                begun.set()
                time.sleep(0.3)
                return infer(body, header)

            monkeypatch.setattr(served.app.model, "infer", slow)
            answers: list[Any] = []
            thread = threading.Thread(target=lambda: answers.append(client.recommend(golden[0]["columns"])))
            thread.start()
            assert begun.wait(PATIENCE)
            served.server.should_exit = True
            thread.join(PATIENCE)
            assert answers == [right]
        wait_for(lambda: not served.thread.is_alive())
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", served.port), timeout=1).close()


def test_more_connections_than_allowed_are_told_so(bundle: Bundle) -> None:
    with serving(bundle, Limits(connections=2)) as served:
        held = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(2)]
        wait_for(lambda: len(served.server.server_state.connections) == 2)
        assert served.ask("GET", "/v2").status == 503
        for connection in held:
            connection.close()
        wait_for(lambda: served.ask("GET", "/v2").status == 200)


def test_limits_are_read_from_texts() -> None:
    assert read_limits(["items=5", "body_seconds=0.5"]) == Limits(items=5, body_seconds=0.5)
    for text, reason in {
        "itms=5": r"limit 'itms' is unknown",
        "items=1.5": "expected items=N with a whole number",
        "items": "expected items=N",
        "items=0": "limit items is 0; expected a number above 0",
        "body_seconds=nan": "expected a number above 0",
    }.items():
        with pytest.raises(ConfigError, match=reason):
            read_limits([text])


def test_an_address_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(InputError, match="cannot listen on 127.0.0.1 port"):
        listen("127.0.0.1", taken.getsockname()[1])
    for host, port in (("127.0.0.1", 70_000), ("no.such.host.invalid", 0)):
        with pytest.raises(InputError, match="choose another --host or --port"):
            listen(host, port)

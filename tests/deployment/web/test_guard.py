"""Names and origins that may ask, and headers of every answer."""

import asyncio
import json

import pytest

from deployment.web.guard import HEADERS, Guard, is_loopback


async def plain(scope, receive, send):
    headers = [(b"content-type", b"text/plain"), (b"content-security-policy", b"none at all")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


def ask(guard, *given, kind="http"):
    """Status, headers and body that a request with these headers is answered with."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": f"{kind}.connect"}

    asyncio.run(guard({"type": kind, "headers": list(given)}, receive, send))
    headers = dict(sent[0]["headers"])
    assert len(headers) == len(sent[0]["headers"]), "a header stands twice"
    return sent[0]["status"], headers, sent[1]["body"]


def host(name):
    return (b"host", name.encode("latin-1"))


HERE = ["localhost", "localhost:8800", "127.0.0.1:8800", "127.0.0.2", "[::1]:8800", "LOCALHOST:1"]
NOT_HERE = ["evil.com", "evil.com:8800", "localhost.evil.com", "192.168.1.5:8800", "127.0.0.1.evil.com", "", "a b",
            "localhost:0", "localhost:99999", "user@localhost", "localhost/..", "127.0.0.1:8800:1", "é"]  # fmt: skip


@pytest.mark.parametrize("name", HERE)
def test_names_of_this_machine_may_ask(name):
    assert ask(Guard(plain), host(name))[0] == 200


@pytest.mark.parametrize("name", NOT_HERE)
def test_other_names_may_not_whatever_they_resolve_to(name):
    status, headers, body = ask(Guard(plain), host(name))
    assert status == 421 and "--allow-host" in json.loads(body)["error"]
    assert headers[b"content-security-policy"] == HEADERS["content-security-policy"].encode()


def test_names_that_were_allowed_and_addresses_where_it_is_bound_to_one():
    named = Guard(plain, "127.0.0.1", ["Live.Example.org"])
    assert named.allows("live.example.ORG:443") and not named.allows("example.org")
    everywhere = Guard(plain, "0.0.0.0")
    assert everywhere.allows("192.168.1.5:8800") and everywhere.allows("[fe80::1]:8800")
    assert not everywhere.allows("evil.com")  # a name may be made to mean this machine; an address may not
    assert Guard(plain, "desk.example.org").allows("desk.example.org:8800")


def test_a_request_without_a_host_or_with_two_is_refused():
    assert ask(Guard(plain))[0] == 421
    assert ask(Guard(plain), host("localhost"), host("evil.com"))[0] == 421


def test_headers_are_on_every_answer_and_win():
    _, headers, _ = ask(Guard(plain), host("localhost"))
    assert {key.decode(): value.decode() for key, value in headers.items()} == {"content-type": "text/plain"} | HEADERS
    assert HEADERS["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in HEADERS["content-security-policy"] and "*" not in HEADERS["content-security-policy"]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:8800", True),
        ("https://localhost:8800", True),
        ("http://localhost:8801", False),
        ("http://127.0.0.1:8800", False),
        ("http://evil.com", False),
        ("http://localhost:8800.evil.com", False),
        ("null", False),
        ("", False),
        ("localhost:8800", False),
        ("file://localhost:8800", False),
        (None, False),
    ],
)
def test_only_a_page_of_the_app_may_open_a_websocket(origin, allowed):
    async def listening(scope, receive, send):
        await send({"type": "websocket.http.response.start", "status": 299, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"{}"})

    given = [] if origin is None else [(b"origin", origin.encode())]
    status, headers, _ = ask(Guard(listening), host("localhost:8800"), *given, kind="websocket")
    assert status == (299 if allowed else 403) and b"content-security-policy" in headers


def test_loopback():
    assert all(is_loopback(name) for name in ("127.0.0.1", "::1", "localhost", "127.9.9.9"))
    assert not any(is_loopback(name) for name in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))

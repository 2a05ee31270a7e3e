"""The client against a real server on the loopback address that misbehaves in every way we know."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from data_processing.services.http import (
    HttpClient,
    RefusedError,
    checked_url,
    key_from_environment,
)
from data_processing.services.protocols import ServiceDown, Stats, Unreachable
from recsys.errors import ConfigError

KEY = "sk-very-secret-0123456789"
GOOD = {"answer": 42}


def test_one_request_carries_body_and_key(server, client, waits):
    server.replies = [server.Reply(GOOD)]
    assert client.post("/ask", {"text": "面取り"}) == GOOD
    (asked,) = server.asked
    assert (asked.path, asked.body) == ("/v1/ask", {"text": "面取り"})
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert (client.stats.requests, client.stats.retries, waits) == (1, 0, [])


def test_429_waits_as_long_as_it_is_told(server, client, waits):
    server.replies = [server.Reply(status=429, headers={"Retry-After": "7"}), server.Reply(GOOD)]
    assert client.post("/ask", {}) == GOOD
    assert waits == [7.0]
    assert (client.stats.requests, client.stats.retries) == (2, 1)


def test_429_with_a_date(server, client, waits):
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    server.replies = [server.Reply(status=429, headers={"Retry-After": when}), server.Reply(GOOD)]
    client.post("/ask", {})
    assert 80 < waits[0] <= 90


def test_a_date_in_the_past_or_nonsense_does_not_wait_longer(server, client, waits):
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    server.replies = [
        server.Reply(status=503, headers={"Retry-After": past}),
        server.Reply(status=503, headers={"Retry-After": "soon"}),
        server.Reply(GOOD),
    ]
    client.post("/ask", {})
    assert waits[0] == 0.0
    assert 0.5 <= waits[1] <= 1.0  # the second wait of the usual back-off


def test_too_long_a_retry_after_gives_up(server, client, waits):
    server.replies = [server.Reply(status=429, headers={"Retry-After": "86400"})]
    with pytest.raises(Unreachable, match="asks to wait 86400 s"):
        client.post("/ask", {})
    assert (len(server.asked), waits) == (1, [])


def test_back_off_doubles_with_jitter_and_is_the_same_each_run(server, client, waits):
    server.replies = [server.Reply(status=500)]
    with pytest.raises(Unreachable, match=r"^tested: answered 500 Internal Server Error, 4 tries$"):
        client.post("/ask", {})
    assert len(server.asked) == 4 and len(waits) == 3
    for wait, most in zip(waits, (0.5, 1.0, 2.0), strict=True):
        assert most / 2 <= wait <= most
    again: list[float] = []
    other = HttpClient("tested", server.url, {}, None, 5.0, 4, Stats(), sleep=again.append)
    with pytest.raises(Unreachable):
        other.post("/ask", {})
    assert again == waits


def test_500_then_an_answer(server, client):
    server.replies = [server.Reply(status=500), server.Reply(status=502), server.Reply(GOOD)]
    assert client.post("/ask", {}) == GOOD
    assert client.stats.retries == 2


def test_time_out_then_an_answer(server, client):
    client.timeout = 0.3
    server.replies = [server.Reply(hang=True), server.Reply(GOOD)]
    assert client.post("/ask", {}) == GOOD
    assert client.stats.retries == 1


def test_a_service_that_hangs_is_named(server, client):
    client.timeout, client.attempts = 0.2, 2
    server.replies = [server.Reply(hang=True)]
    with pytest.raises(Unreachable, match=r"^tested: no answer within 0.2 s, 2 tries$"):
        client.post("/ask", {})


def test_a_body_that_drips_is_a_time_out_too(server, client):
    client.timeout, client.attempts = 0.3, 1
    server.replies = [server.Reply(GOOD, drip=True)]
    with pytest.raises(Unreachable, match="no answer within 0.3 s"):  # though each byte came in time
        client.post("/ask", {})


def test_a_body_that_ends_early_is_asked_again(server, client):
    server.replies = [server.Reply(GOOD, cut=True), server.Reply(GOOD)]
    assert client.post("/ask", {}) == GOOD
    assert client.stats.retries == 1


@pytest.mark.parametrize("body", [b"<html>Bad\n gateway</html>", b"", b'{"half": ', b"[1, 2]", b"\xff\xfe"])
def test_200_with_something_else_than_an_object(server, client, body):
    server.replies = [server.Reply(body), server.Reply(GOOD)]
    assert client.post("/ask", {}) == GOOD
    server.replies = [server.Reply(body)]
    with pytest.raises(Unreachable) as caught:
        client.post("/ask", {})
    assert "\n" not in str(caught.value) and "JSON" in str(caught.value)


def test_no_server(client, server):
    client.url, client.attempts = "http://127.0.0.1:9/v1", 2
    with pytest.raises(Unreachable, match="no connection to http://127.0.0.1:9/v1"):
        client.post("/ask", {})


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_fails_at_once_and_is_not_shown(server, client, waits, status):
    server.replies = [server.Reply({"error": f"bad key {KEY[:12]}***, you sent {KEY}"}, status=status)]
    with pytest.raises(ServiceDown) as caught:
        client.post("/ask", {})
    assert "TEST_KEY" in str(caught.value) and KEY[:6] not in str(caught.value)
    assert (len(server.asked), waits) == (1, [])


def test_other_4xx_fails_at_once_for_this_request_alone(server, client, waits):
    server.replies = [server.Reply({"error": f"input too long\n(key {KEY})"}, status=400)]
    with pytest.raises(RefusedError) as caught:
        client.post("/ask", {})
    assert "input too long" in str(caught.value) and "***" in str(caught.value)
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)
    assert (len(server.asked), waits) == (1, [])


def test_a_wrong_address_stops_the_run(server, client):
    server.replies = [server.Reply({"error": "no such route"}, status=404)]
    with pytest.raises(ServiceDown, match="no such route"):
        client.post("/ask", {})


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_does_not_take_the_key_along(server, client, status):
    server.replies = [server.Reply(status=status, headers={"Location": f"{server.url}/elsewhere"}), server.Reply(GOOD)]
    with pytest.raises(ServiceDown, match="redirects to '.*/elsewhere'; set 'url'"):
        client.post("/ask", {})
    assert len(server.asked) == 1


def test_tracebacks_do_not_chain_the_request(server, client):
    """The cause of an error would show the headers of urllib's request."""
    server.replies = [server.Reply(status=400)]
    with pytest.raises(RefusedError) as caught:
        client.post("/ask", {})
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    ["ftp://host/v1", "host/v1", "file:///etc/passwd", "https://user:pass@host/", "https://host/?key=abc", "http://"],
)
def test_addresses_that_are_refused(url):
    with pytest.raises(ConfigError) as caught:
        checked_url("tested", url)
    assert "pass@" not in str(caught.value) and "abc" not in str(caught.value)


def test_keys_from_the_environment(monkeypatch):
    monkeypatch.setenv("A_KEY", f" {KEY}\n")
    assert key_from_environment("tested", "A_KEY") == KEY
    monkeypatch.setenv("A_KEY", "two\nlines secret")
    with pytest.raises(ConfigError) as caught:
        key_from_environment("tested", "A_KEY")
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("A_KEY")
    with pytest.raises(ConfigError, match="A_KEY is not set"):
        key_from_environment("tested", "A_KEY")

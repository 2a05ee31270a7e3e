"""The app over real sockets: from a line of a log to a message on a page."""

import json
import socket
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deployment.web import app as app_module
from deployment.web import asking, tailing
from deployment.web.board import Board
from deployment.web.guard import HEADERS
from tests.tiny_live import Endpoint, append, live, log_line, next_message
from tests.tiny_server import PATIENCE, wait_for


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(app_module, "POLL", 0.01)
    monkeypatch.setattr(tailing, "_LOOK", 0.02)
    for name in ("_FIRST_PAUSE", "_LONGEST_PAUSE"):
        monkeypatch.setattr(asking, name, 0.02)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.touch()
    return path


@pytest.fixture
def static(tmp_path):
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>live</title>")
    (folder / "app.js").write_text("export const one = 1;")
    (folder / "favicon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    return folder


WALL, DOOR, SLAB = "End Event: Wall (900)", "End Event: Door (900)", "End Event: Slab (900)"


def test_lines_become_suggestions_and_hits_on_every_page(log):
    append(log, log_line("Wall", 0))
    with live([log]) as it, it.page() as page, it.page() as other:
        state = json.loads(page.recv(PATIENCE))
        assert state["type"] == "state" and state["version"] == 1
        assert set(state) == {"type", "version", "endpoint", "sessions"}
        wait_for(lambda: it.session() and not it.session()["stale"])
        first = it.session()
        assert [row["command"] for row in first["recent"]] == [WALL] and first["hit_rate"] is None
        assert [s["command"] for s in first["suggestions"]] == [WALL, "after 1", "other 0", "other 1", "other 2"]
        assert first["user"] == "anna" and first["file"] == "log.jsonl" and first["events"] == 1
        append(log, log_line("Door", 5))
        stale = next_message(page, "session", events=2, stale=True)
        assert stale["recent"][-1]["suggested"] == 0 and stale["suggestions"] == first["suggestions"]
        for listener in (page, other):
            found = next_message(listener, "session", events=2, stale=False)
            assert found["suggestions"][1]["command"] == "after 2" and (found["hits"], found["asked"]) == (0, 1)
        append(log, log_line("Wall", 9)[:30])
        time.sleep(0.05)
        append(log, log_line("Wall", 9)[30:])
        assert next_message(page, "session", events=3, stale=False)["last_taken"] == 0
        assert it.ask("/state").json["sessions"] == [it.session()]


def test_an_undone_command_leaves_and_the_question_goes_out_without_it(log):
    append(log, log_line("Wall", 0), log_line("Door", 3))
    with live([log]) as it, it.page() as page:
        wait_for(lambda: it.session() and not it.session()["stale"])
        append(log, log_line("Undo Event: 'Door' (900)", 5))
        found = next_message(page, "session", events=1, stale=False)
        assert [row["command"] for row in found["recent"]] == [WALL]
        assert it.endpoint.asked[-1] == [WALL] and found["suggestions"][0]["command"] == WALL
        append(log, log_line("Wall", 7), log_line("Slab", 9))
        found = next_message(page, "session", events=2, stale=False)  # the wall is a repeat
        assert it.endpoint.asked[-1] == [WALL, SLAB] and found["asked"] == 1


def test_what_stands_in_a_log_at_the_start_is_asked_about_once_and_counts_for_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tailing, "_A_CALL", 500)
    log = tmp_path / "log.jsonl"
    append(log, *(log_line(f"Step {n}", n) for n in range(30)))
    with live([log]) as it:
        wait_for(lambda: it.session() and not it.session()["stale"])
        assert it.session()["events"] == 30 and it.session()["asked"] == 0
        assert [len(names) for names in it.endpoint.asked] == [30]


def test_an_endpoint_that_goes_and_comes_back(log):
    append(log, log_line("Wall", 0), log_line("Wall", 0, session="t"))
    with live([log], Endpoint(up=False)) as it, it.page() as page:
        down = {"name": "http://there", "state": "unreachable", "message": "http://there: nobody at home"}
        wait_for(lambda: it.ask("/state").json["endpoint"] == down | {"model": "recommend"})
        assert it.session()["suggestions"] == [] and it.session()["stale"]
        it.endpoint.up = True
        next_message(page, "endpoint", state="ready", message="")
        wait_for(lambda: not it.session("s")["stale"] and not it.session("t")["stale"])
        it.endpoint.up = False
        append(log, log_line("Door", 5))
        found = next_message(page, "session", id="s", events=2)
        assert found["stale"] and found["suggestions"][1]["command"] == "after 1"
        next_message(page, "endpoint", state="unreachable")
        append(log, log_line("Slab", 9))
        assert next_message(page, "session", id="s", events=3)["recent"][-1]["suggested"] is None
        it.endpoint.up = True
        found = next_message(page, "session", id="s", stale=False)
        assert found["suggestions"][1]["command"] == "after 3" and found["asked"] == 1


def test_a_hanging_endpoint_leaves_the_pages_alive(log):
    append(log, log_line("Wall", 0))
    endpoint = Endpoint()
    endpoint.gate.clear()
    with live([log], endpoint) as it, it.page() as page:
        wait_for(lambda: endpoint.asked)
        append(log, log_line("Door", 5))
        assert next_message(page, "session", events=2)["stale"]
        assert it.ask("/health").json["status"] == "ok"
        endpoint.gate.set()
        assert next_message(page, "session", stale=False)["suggestions"][1]["command"] == "after 2"


def test_sessions_go_when_there_are_too_many_and_their_lines_begin_anew(log):
    append(log, log_line("Wall", 0, session="a"), log_line("Wall", 5, session="b"))
    with live([log], board=Board(most=2)) as it, it.page() as page:
        wait_for(lambda: len(it.ask("/state").json["sessions"]) == 2)
        append(log, log_line("Wall", 9, session="c"))
        while True:
            message = json.loads(page.recv(PATIENCE))
            if message["type"] == "removed":
                break
        assert message == {"type": "removed", "id": "a"}
        wait_for(lambda: set(it.app.feed.cleaner.last_times()) == {"b", "c"})


def test_a_session_that_went_is_asked_about_no_more(log):
    append(log, log_line("Wall", 0, session="a"), log_line("Wall", 5, session="b"))
    with live([log], Endpoint(up=False), board=Board(most=2)) as it:
        wait_for(lambda: it.app.asker.waiting == 2)
        append(log, log_line("Wall", 9, session="c"), log_line("Wall", 10, session="d"))
        wait_for(lambda: {s["id"] for s in it.ask("/state").json["sessions"]} == {"c", "d"})
        it.endpoint.gate.clear()
        wait_for(lambda: it.app.asker.waiting + it.endpoint.under_way == 2)


def test_a_hostile_log_reaches_pages_as_json_text_only(log):
    nasty = "<script>alert(1)</script>\u202e\x00\x1b"
    append(log, b"\xff\xfe\x00\n", b"not json\n", log_line(f"End Event: {nasty}", 0, session=nasty, user=nasty))
    with live([log]) as it, it.page() as page:
        found = next_message(page, "state")["sessions"] or [next_message(page, "session")]
        assert found[0]["id"] == nasty == found[0]["user"]
        reply = it.ask("/state")
        assert reply.body.isascii() and reply.headers["content-type"] == "application/json"
        assert it.ask("/health").json["log"]["unreadable"] == 1 == it.ask("/health").json["log"]["not_text"]
        assert b"not json" not in reply.body


# Routes, headers, names and origins.


def test_the_page_and_its_files_are_served_by_the_app_itself(log, static):
    with live([log], static=static) as it:
        assert b"<title>live" in it.ask("/").body and it.ask("/").headers["content-type"].startswith("text/html")
        assert it.ask("/static/app.js").headers["content-type"].startswith("text/javascript")
        assert it.ask("/favicon.ico").headers["content-type"] == "image/svg+xml"
        for path in ("/static/../secret", "/static/%2e%2e/secret", "/static/link", "/static//etc/passwd", "/none"):
            reply = it.ask(path)
            assert reply.status == 404 and b"secret" not in reply.body, path
        replies = [it.ask(p) for p in ("/", "/static/app.js", "/none", "/state", "/health")]
        replies += [it.ask("/", "POST"), it.ask("/state", headers={"Host": "evil.com"})]
        for reply in replies:
            assert HEADERS.items() <= {k.lower(): v for k, v in reply.headers.items()}.items()
        assert [reply.status for reply in replies] == [200, 200, 404, 200, 200, 405, 421]
        assert "server" not in replies[0].headers


def test_an_error_of_a_route_tells_nothing_of_the_machine(log, tmp_path):
    (tmp_path / "static").mkdir()
    with live([log], static=tmp_path / "static") as it:
        reply = it.ask("/")
        assert reply.status == 500 and str(tmp_path).encode() not in reply.body
        assert reply.headers["content-security-policy"].startswith("default-src 'self'")


UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
           "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}  # fmt: skip


@pytest.mark.parametrize(("headers", "status"), [({"Origin": "http://evil.com"}, 403), ({}, 403),
                                                 ({"Origin": "http://evil.com", "Host": "evil.com"}, 421)])  # fmt: skip
def test_a_foreign_page_may_not_listen(log, headers, status):
    with live([log]) as it:
        reply = it.ask("/ws", headers=UPGRADE | headers)
        assert reply.status == status and reply.json["error"]
        assert HEADERS.items() <= {k.lower(): v for k, v in reply.headers.items()}.items()
        assert len(it.app.hub) == 0
        assert it.ask("/ws").status == 404  # no WebSocket
        with it.page() as page:
            assert json.loads(page.recv(PATIENCE))["type"] == "state"


def test_one_page_too_many_is_refused_and_a_page_that_speaks_is_disconnected(log):
    with live([log], pages=2) as it, it.page() as one, it.page() as two:
        one.recv(PATIENCE), two.recv(PATIENCE)
        with pytest.raises(InvalidStatus) as found:
            it.page()
        assert found.value.response.status_code == 503
        one.send("hello")
        with pytest.raises(ConnectionClosed) as closed:
            one.recv(PATIENCE)
        assert closed.value.rcvd.code == 1008
        wait_for(lambda: not it.app.hub.full)
        with it.page() as three:
            assert json.loads(three.recv(PATIENCE))["type"] == "state"


def test_a_page_that_reads_nothing_holds_up_nobody_and_then_gets_the_state(log):
    board = Board(describe=lambda _: "long " * 90)
    append(log, *(log_line(f"Step {n}", n) for n in range(20)))
    with live([log], board=board) as it:
        it.app.hub._queue = 4
        wait_for(lambda: it.session() and not it.session()["stale"])
        with it.page(max_queue=1) as slow, it.page() as quick:
            slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            session = it.app.board.sessions["s"]
            wait_for(lambda: len(it.app.hub) == 2)
            loop_calls = 0

            def flood():
                for _ in range(50):
                    it.app.hub.publish({"type": "session", "session": it.app.board.message(session)})

            while it.app.hub.lagged == 0 and loop_calls < 200:
                it.server.servers[0].get_loop().call_soon_threadsafe(flood)
                threading.Event().wait(0.005)
                loop_calls += 1
            assert it.app.hub.lagged >= 1
            append(log, log_line("Door", 55))
            wait_for(lambda: it.session()["events"] == 21)
            assert next_message(quick, "session", events=21)
            kinds = []
            while True:
                message = json.loads(slow.recv(PATIENCE))
                kinds.append(message["type"])
                newest = message["sessions"][0] if message["type"] == "state" else message.get("session", {})
                if newest.get("events") == 21:
                    break
            assert kinds[0] == "state" and "state" in kinds[1:]


def test_pages_are_told_when_the_app_stops(log):
    with live([log]) as it:
        with it.page() as page, pytest.raises(ConnectionClosed) as closed:
            it.server.should_exit = True
            while True:
                page.recv(PATIENCE)
        assert closed.value.rcvd.code == 1012


def test_a_listening_page_outlives_the_time_that_a_request_may_take(log, monkeypatch):
    from recsys.server.listening import PatientProtocol

    monkeypatch.setattr(PatientProtocol, "header_seconds", 0.05)
    with live([log]) as it, it.page() as page:
        page.recv(PATIENCE)
        time.sleep(0.2)
        append(log, log_line("Wall", 0))
        assert next_message(page, "session", events=1)
        with socket.create_connection(("127.0.0.1", it.port), timeout=PATIENCE) as idle:
            idle.sendall(b"GET / HTTP/1.1\r\nHost:")
            assert idle.recv(100) == b""

"""docs/live.md: its commands parse, and its numbers, addresses and limits are those of the code."""

import re
import shlex
from pathlib import Path

from deployment.web import asking, board, feed, guard, tailing
from deployment.web.__main__ import PORT, _parser
from deployment.web.app import POLL, App
from recsys.cli import build_parser
from tests.tiny_live import VECTORWORKS, Endpoint

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "live.md").read_text(encoding="utf-8")
FLAT = " ".join(PAGE.split())


def test_commands_parse() -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    serve, *lives = [shlex.split(line, comments=True) for line in block.splitlines()]
    build_parser().parse_args(serve[1:])
    for words in lives:
        assert words[:3] == ["python", "-m", "deployment.web"]
        given = _parser().parse_args(words[3:])
        assert (given.run or given.bundle) and (given.logs is None) != (given.replay is None)
    assert f"http://{given.host}:{PORT}" in block


def test_numbers_are_those_of_the_code() -> None:
    given = _parser().parse_args([])
    files, kilobytes = re.findall(r"At most (\d+) files .* lines of at most (\d+) KB", FLAT)[0]
    assert (int(files), int(kilobytes) << 10) == (tailing.MOST_FILES, tailing.LONGEST_LINE)
    assert "four times a second" in FLAT and POLL == 0.25
    assert "folders every two seconds" in FLAT and tailing._LOOK == 2.0
    assert f"Up to {feed.SENT:,} events" in FLAT and f"the last {board._MEASURED} answers" in FLAT
    assert "the five best" in FLAT and board.TOP == 5
    assert "every half to five seconds" in FLAT and (asking._FIRST_PAUSE, asking._LONGEST_PAUSE) == (0.5, 5.0)
    assert "asked again after ten seconds" in FLAT and asking._REFUSED_AGAIN == 10.0
    assert f"The newest {given.sessions} sessions" in FLAT and given.idle_minutes == 60 and "for an hour" in FLAT
    assert f"At most {given.pages} pages" in FLAT and given.host == "127.0.0.1"
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--help"} <= set(_parser()._option_string_actions)


def test_addresses_are_those_of_the_app(tmp_path: Path) -> None:
    app = App(feed.Feed([tmp_path], VECTORWORKS), board.Board(), Endpoint().connect, name="", model="")
    routes = {route.path for route in app.build()._app.routes}  # type: ignore[attr-defined]
    named = re.findall(r"^\| `(/\w*)", PAGE, flags=re.MULTILINE)
    assert {*named, "/static", "/favicon.ico"} == routes
    assert f"`Content-Security-Policy: {guard.POLICY.partition(';')[0]}`" in FLAT
    assert f"else {guard.MISDIRECTED}." in FLAT and f"else {guard.FORBIDDEN}." in FLAT

"""The page, the app, a log that is written and the local server, all of them real."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, expect

import recsys
from recsys.export import export
from tests.deployment.web.stage import PATIENCE, WIDE, Visitor, rows, visiting, wait_for
from tests.tiny_run import PROFILE, START, make_config, make_log_run, make_run
from tests.tiny_server import serving

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
GONE = ["ERR_CONNECTION_REFUSED", "Connection closed before receiving a handshake response"]


@dataclass
class Live:
    """A run, its bundle, a log, and the app as a process that follows it."""

    run: Path
    bundle: Path
    log: Path
    url: str = ""
    endpoint: Any = None
    app: subprocess.Popen[str] | None = None

    def write(self, *events: tuple[str, int, str]) -> None:
        """Append events to the log: session, second, command."""
        with self.log.open("a") as log:
            log.writelines(f"{session},{START + second},{name}\n" for session, second, name in events)

    def start(self) -> None:
        port = self.url.rpartition(":")[2] or "0"
        flags = [
            "--logs",
            self.log,
            "--run",
            self.run,
            "--endpoint",
            self.endpoint.url,
            "--port",
            port,
        ]
        command = [sys.executable, "-m", "deployment.web", *map(str, flags)]
        self.app = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.app.stdout
        (self.url,) = re.findall(r"http://127\.0\.0\.1:\d+", self.app.stdout.readline())[:1]

    def stop(self) -> None:
        if self.app:
            self.app.terminate()
            assert self.app.wait(PATIENCE) == 0
            self.app = None

    def wanted(self, session: str) -> list[str]:
        """The five commands that the run itself gives for the log as it stands."""
        lists = recsys.recommend(self.run, self.log, k=5)
        return lists.filter(lists["session_id"] == session).sort("rank")["item_id"].to_list()


@pytest.fixture(scope="module")
def live(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    run = make_run(folder, config=make_config(backbone={"name": "sasrec", "hidden_size": 8, "num_layers": 1}))[1]
    run = make_log_run(run, folder / "cleaned", profile=PROFILE)
    log = folder / "log.csv"
    log.write_text("session,when,what\n")
    found = Live(run, export(run, folder / "bundle").path, log)
    with serving(found.bundle) as server:
        found.endpoint = server
        found.start()
        try:
            yield found
        finally:
            found.stop()


@pytest.fixture
def visitor(live: Live, browser: Browser) -> Iterator[Visitor]:
    with visiting(browser, live.url, viewport=WIDE) as found:
        expect(found.page.locator("#page-state")).to_have_text("live")
        yield found


def test_suggestions_come_change_and_come_back(live: Live, visitor: Visitor) -> None:
    page = visitor.page
    suggestions, verdict = page.locator("#suggestions .command"), page.locator("#verdict-text")
    expect(page.get_by_text("Waiting for commands")).to_be_visible()
    live.write(("anna", 0, "command 01"), ("anna", 10, "command 02"))
    first = live.wanted("anna")
    expect(suggestions).to_have_text(first)
    expect(verdict).to_have_text("command 02 had no list before it")

    live.write(("anna", 20, first[2]))
    expect(verdict).to_have_text(f"{first[2]} was suggestion 3")
    expect(suggestions).to_have_text(live.wanted("anna"))
    expect(page.locator("#hit-counts")).to_have_text("1 of 1 lists")
    assert live.wanted("anna") != first

    # The endpoint goes away: commands are read all the same, and suggestions come back with it.
    live.endpoint.server.should_exit = True
    wait_for(lambda: not live.endpoint.thread.is_alive())
    live.write(("anna", 30, "command 05"))
    expect(page.locator("#recent .command").first).to_have_text("command 05")
    expect(page.get_by_text("From before the last command")).to_be_visible()
    expect(page.locator("#endpoint-banner")).to_contain_text("The endpoint does not answer")
    with serving(live.bundle, port=live.endpoint.port):
        expect(suggestions).to_have_text(live.wanted("anna"))
        expect(page.locator("#endpoint-banner")).to_be_hidden()
        expect(page.get_by_text("From before the last command")).to_be_hidden()
        hostile_lines(live, visitor)
        the_app_is_started_again(live, visitor)


def hostile_lines(live: Live, visitor: Visitor) -> None:
    """They stay text from the log to the page; were they ever markup, the policy would not let it run."""
    page = visitor.page
    lines = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "a\u202etxt.exe\u2066", "\x1b[2J"]
    live.write(*(("<b>mallory\u202e", 200 + n, line) for n, line in enumerate([*lines, "x" * 10_000])))
    page.get_by_role("tab", name="<b>malloryRLO").click()
    expect(page.locator("#panel-name")).to_have_text("<b>malloryRLO")
    expect(page.locator("#recent li")).to_have_count(5)
    found = rows(page, "#recent .command")[::-1]
    assert found[:4] == [*lines[:2], "aRLOtxt.exeLRI", "ESC[2J"] and found[4].startswith("x" * 400 + "…")
    assert page.locator("main img, main script, main b:not(.figures b)").count() == 0
    assert visitor.complaints == []
    with pytest.raises(Error, match="Content Security Policy"):
        page.add_script_tag(content="window.hacked = 1")
    assert page.evaluate("window.hacked") is None
    visitor.complaints.clear()
    answer: Any = page.request.get(live.url)
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")


def the_app_is_started_again(live: Live, visitor: Visitor) -> None:
    """The page finds it by itself, with what was written meanwhile."""
    page = visitor.page
    live.stop()
    expect(page.get_by_text("The app does not answer. What you see is from")).to_be_visible()
    live.write(("bert", 300, "command 04"), ("bert", 310, "command 07"))
    live.start()
    page.locator("#page-banner").wait_for(state="hidden")
    page.get_by_role("tab", name="bert").click()
    expect(page.locator("#suggestions .command")).to_have_text(live.wanted("bert"))
    assert rows(page, "#recent .command") == ["command 07", "command 04"]
    assert [c for c in visitor.complaints if not any(part in c for part in GONE)] == []

"""The page of the web app in front of a server that says exactly what a test has it say."""

import asyncio
import contextlib
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import FileResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

STATIC = Path(__file__).resolve().parents[3] / "deployment" / "web" / "static"
PATIENCE = 15.0
WIDE, NARROW = {"width": 1280, "height": 760}, {"width": 360, "height": 700}
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
expect.set_options(timeout=PATIENCE * 1000)
START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
READY = {"name": "http://127.0.0.1:8000", "state": "ready", "message": "", "model": "recommend"}


def command(name: str, suggested: int | None = None, description: str = "", second: int = 0) -> dict[str, Any]:
    """An entry of `recent`."""
    time = (START + timedelta(seconds=second)).isoformat()
    return {"command": name, "description": description, "time": time, "suggested": suggested}


def suggestion(name: str, probability: float | None = 0.5, description: str = "", score: float = 1.0) -> dict[str, Any]:
    """An entry of `suggestions`."""
    return {"command": name, "score": score, "probability": probability, "description": description}


def session(name: str = "s1", changed: int = 0, **fields: Any) -> dict[str, Any]:
    """A session as the app describes it; `changed` in seconds after the first of all tests."""
    recent = fields.get("recent", [command("Wall"), command("Door", 2, "A door into a wall", 5)])
    names = ["Window", "Wall", "Door", "Roof", "Slab"]
    found = {
        "id": name,
        "file": "live.jsonl",
        "user": "",
        "events": len(recent),
        "changed": (datetime.now(UTC) - timedelta(hours=1) + timedelta(seconds=changed)).isoformat(),
        "recent": recent,
        "suggestions": [suggestion(n, 0.4 / (i + 1), f"About {n}", 3.0 - i) for i, n in enumerate(names)],
        "stale": False,
        "last_taken": recent[-1]["suggested"] if recent else None,
        "hits": 1,
        "asked": 2,
        "hit_rate": 0.5,
        "latency_ms": {"last": 4.2, "median": 5.0, "p95": 12.0},
    }
    return found | fields


class Headers:
    """What the app sends with every answer."""

    SENT = (
        (b"content-security-policy", b"default-src 'self'"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    )

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self.SENT]
            await send(message)

        await self.app(scope, receive, sent)


class Stage:
    """Serves the page; every page that connects gets `state`, then whatever is said to all."""

    def __init__(self) -> None:
        self.sessions: list[dict[str, Any]] = []
        self.endpoint: dict[str, Any] = dict(READY)
        self.version = 1
        self.silent = False
        self.pages: set[WebSocket] = set()
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = found.getsockname()[1]
        self.thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reset(self, *sessions: dict[str, Any], **endpoint: Any) -> None:
        """What the next page is told first."""
        self.sessions, self.endpoint, self.version, self.silent = list(sessions), READY | endpoint, 1, False

    def start(self) -> None:
        """Listen on the stage's port."""

        @contextlib.asynccontextmanager
        async def life(_: Starlette) -> AsyncIterator[None]:
            self.loop = asyncio.get_running_loop()
            yield

        routes = [
            Route("/", lambda _: FileResponse(STATIC / "index.html")),
            Mount("/static", StaticFiles(directory=STATIC)),
            WebSocketRoute("/ws", self._play),
        ]
        app = Starlette(routes=routes, lifespan=life, middleware=[Middleware(Headers)])
        settings: dict[str, Any] = {"log_level": "error", "timeout_graceful_shutdown": 1}
        self.server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", self.port, **settings))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_for(lambda: self.server.started)

    def stop(self) -> None:
        """Hang up on every page and close the port."""
        if self.thread:
            self.server.should_exit = True
            self.thread.join(PATIENCE)
            self.thread = None

    def state(self) -> dict[str, Any]:
        return {"type": "state", "version": self.version, "endpoint": self.endpoint, "sessions": self.sessions}

    async def _play(self, page: WebSocket) -> None:
        await page.accept()
        if not self.silent:
            await page.send_json(self.state())
        self.pages.add(page)
        try:
            await page.receive()
        except WebSocketDisconnect:
            pass
        finally:
            self.pages.discard(page)

    def say(self, *messages: dict[str, Any] | str) -> None:
        """Send to every page."""

        async def send() -> None:
            for message in messages:
                for page in list(self.pages):
                    await (page.send_text(message) if isinstance(message, str) else page.send_json(message))

        asyncio.run_coroutine_threadsafe(send(), self.loop).result(PATIENCE)

    def change(self, *sessions: dict[str, Any]) -> None:
        """Tell every page of sessions that changed."""
        self.say(*({"type": "session", "session": one} for one in sessions))


def wait_for(what: Callable[[], Any]) -> None:
    """Wait until `what` gives something true."""
    done, pause = threading.Event(), 0.01
    for _ in range(int(PATIENCE / pause)):
        if what():
            return
        done.wait(pause)
    raise AssertionError("did not happen")


@dataclass
class Visitor:
    """A page in the browser, and what it asked for and complained about."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", self._request)
        self.page.on("websocket", lambda found: self.asked.append(found.url))
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))

    def _request(self, request: Request) -> None:
        self.asked.append(request.url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@contextlib.contextmanager
def visiting(browser: Browser, url: str, clock: bool = False, **settings: Any) -> Iterator[Visitor]:
    """A page of its own on `url`, with a `clock` that the test can wind; at the end it must have asked nobody else."""
    context: BrowserContext = browser.new_context(**settings)
    context.set_default_timeout(PATIENCE * 1000)
    try:
        visitor = Visitor(context.new_page())
        if clock:
            visitor.page.clock.install()
        visitor.page.goto(url)
        yield visitor
        places = (url, url.replace("http:", "ws:"))
        assert visitor.asked and all(address.startswith(places) for address in visitor.asked), visitor.asked
    finally:
        context.close()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The distribution's Chromium without a screen; the test is skipped where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Chromium; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def tabs(page: Page) -> list[str]:
    return page.locator("[role=tab] .row-name").all_text_contents()


def rows(page: Page, selector: str) -> list[str]:
    return page.locator(selector).all_text_contents()


def scrolls_sideways(page: Page) -> bool:
    return page.evaluate(
        "[document.documentElement, ...document.querySelectorAll('main, nav, #panel, .card, #sessions')]"
        ".some(e => e.scrollWidth > e.clientWidth)"
    )


def draw_until(page: Page, what: Callable[[], bool]) -> None:
    """Let a page whose clock stands go on, a frame at a time, until `what` holds."""

    def holds() -> bool:
        page.clock.run_for(20)
        return what()

    wait_for(holds)

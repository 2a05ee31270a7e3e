"""The application: its routes, and the loop from new lines to answers on pages."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from deployment.web.asking import Asked, Asker
from deployment.web.board import Answer, Board, History, Question, public_id
from deployment.web.feed import Feed, News
from deployment.web.guard import Guard
from deployment.web.hub import TOO_MANY, Hub, Message, dump

VERSION = 1
STATIC = Path(__file__).parent / "static"
POLL = 0.25
"""Seconds between looks at the logs."""


class App:
    """Follows logs, asks about them and tells pages.

    Args:
        feed: the logs; read in one thread of its own.
        board: the sessions.
        connect: makes a client of the endpoint.
        name: what people call the endpoint, its address.
        model: its name there.
        pages: that may listen at the same time.
        failed: told of an error of the app itself, after which it is of no use.
    """

    def __init__(
        self,
        feed: Feed,
        board: Board,
        connect: Callable[[], Asked],
        *,
        name: str,
        model: str,
        pages: int = 32,
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.feed, self.board, self.name, self.model = feed, board, name, model
        self.hub = Hub(self.state, pages=pages)
        self.asker = Asker(connect, self._answered, self._endpoint_changed)
        self.failed = failed
        self._first = News([], behind=True)

    def build(self, host: str = "127.0.0.1", names: Sequence[str] = (), static: Path = STATIC) -> ASGIApp:
        """The application, for an address to listen on and further names under which it may be asked."""

        async def index(_: Request) -> Response:
            return FileResponse(static / "index.html")

        async def favicon(_: Request) -> Response:
            return FileResponse(static / "favicon.svg")

        routes = [
            Route("/", index),
            Route("/favicon.ico", favicon),
            Route("/health", self._health),
            Route("/state", self._state),
            Mount("/static", StaticFiles(directory=static)),
            WebSocketRoute("/ws", self._listen),
        ]
        handlers: dict[Any, Any] = {HTTPException: _refusal, Exception: _failure}
        return Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=self._life), host, names)

    def start(self) -> None:
        """Look at the logs for the first time.

        Raises:
            InputError: a file is no log of the profile.
        """
        self._first = self.feed.first()

    def state(self) -> Message:
        """Everything that pages show."""
        return {
            "type": "state",
            "version": VERSION,
            "endpoint": self.endpoint(),
            "sessions": self.board.messages(),
        }

    def endpoint(self) -> Message:
        """How the endpoint is."""
        health = self.asker.health
        return {"name": self.name, "state": health.state, "message": health.message, "model": self.model}

    def take(self, histories: Sequence[History]) -> list[str]:
        """Go on to newer histories: tell pages and ask; returns the sessions that went."""
        changed, gone = self.board.take(histories, datetime.now(UTC), time.monotonic())
        for session in gone:
            self.asker.drop(session.session_id)
            if session.told:
                self.hub.publish({"type": "removed", "id": public_id(session.session_id)})
        for session in changed:
            self.hub.publish({"type": "session", "session": self.board.message(session)})
            question = session.question()
            if question is None:
                self.asker.drop(session.session_id)
            else:
                self.asker.ask(question)
        return [session.session_id for session in gone]

    def _answered(self, question: Question, answer: Answer, seconds: float) -> None:
        session = self.board.sessions.get(question.session_id)
        if session is not None and session.answer(question.version, answer, seconds):
            self.hub.publish({"type": "session", "session": self.board.message(session)})

    def _endpoint_changed(self) -> None:
        self.hub.publish({"type": "endpoint", "endpoint": self.endpoint()})

    async def follow(self) -> None:
        """Read logs until cancelled. What is there at the start is read whole before anything is asked."""
        loop, news = asyncio.get_running_loop(), self._first
        with ThreadPoolExecutor(1, thread_name_prefix="logs") as reader:
            try:
                while True:
                    if not news.behind:
                        gone = self.take(news.histories)
                        await loop.run_in_executor(reader, self.feed.forget, gone)
                        await asyncio.sleep(POLL)
                    news = await loop.run_in_executor(reader, self.feed.poll)
            finally:
                await loop.run_in_executor(reader, self.feed.close)

    @asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.follow()), asyncio.create_task(self.asker.run())]
        for task in tasks:
            task.add_done_callback(self._ended)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self.failed is not None:
            self.failed(error)

    async def _listen(self, websocket: WebSocket) -> None:
        if self.hub.full:
            refusal = _json({"error": "too many pages listen already; close one"}, TOO_MANY)
            await websocket.send_denial_response(refusal)
        else:
            await self.hub.serve(websocket)

    async def _health(self, _: Request) -> Response:
        health, board = self.asker.health, self.board
        return _json(
            {
                "status": "ok",
                "endpoint": health.state,
                "sessions": sum(session.told for session in board.sessions.values()),
                "waiting": self.asker.waiting,
                "pages": len(self.hub),
                "lagged": self.hub.lagged,
                "log": self.feed.counts(),
            }
        )

    async def _state(self, _: Request) -> Response:
        return _json(self.state())


def _json(values: Message, status: int = 200, headers: Any = None) -> Response:
    return Response(dump(values), status, headers, media_type="application/json")


async def _refusal(_: Request, error: HTTPException) -> Response:
    return _json({"error": " ".join(error.detail.split())}, error.status_code, error.headers)


async def _failure(_: Request, __: Exception) -> Response:
    return _json({"error": "the app failed on this request; its log says why"}, 500)

"""Messages to pages: each has a queue of its own, and one that does not keep up is given the whole state instead."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

Message = dict[str, Any]
TOO_MANY, NOT_WANTED, TOO_SLOW = 503, 1008, 1013


def dump(message: Message) -> str:
    """A message as JSON of ASCII characters: whatever stood in a log, no control or direction mark is in it."""
    return json.dumps(message, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


class Page:
    """What one page has not been sent yet."""

    def __init__(self, most: int) -> None:
        self._waiting: deque[str] = deque()
        self._most = most
        self._more = asyncio.Event()
        self._more.set()  # the first message is the state
        self.behind = True
        """Whether messages were dropped, so that the page needs the state."""

    def put(self, text: str) -> None:
        """Add a message, or drop all where there are too many; a page that needs the state needs no others."""
        if not self.behind:
            self._waiting.append(text)
            if len(self._waiting) > self._most:
                self._waiting.clear()
                self.behind = True
        self._more.set()

    async def next(self, state: Callable[[], str]) -> str:
        """The next message; `state` gives the whole of it."""
        await self._more.wait()
        if self.behind:
            self.behind = False
            text = state()
        else:
            text = self._waiting.popleft()
        if not self._waiting:
            self._more.clear()
        return text


class Hub:
    """All pages that listen.

    Args:
        state: makes the message that a page begins with.
        pages: that may listen at the same time; more are answered 503.
        queue: messages that may wait for a page.
        patience: seconds that a page may take to accept a message; then it is disconnected and connects again.
    """

    def __init__(
        self, state: Callable[[], Message], *, pages: int = 32, queue: int = 256, patience: float = 30.0
    ) -> None:
        self._state, self._most, self._queue, self._patience = state, pages, queue, patience
        self._pages: set[Page] = set()
        self.lagged = 0
        """Times that a page was too slow, in all."""

    def __len__(self) -> int:
        """Pages that listen."""
        return len(self._pages)

    @property
    def full(self) -> bool:
        """Whether no more pages are taken."""
        return len(self._pages) >= self._most

    def publish(self, message: Message) -> None:
        """Give a message to every page; returns at once, whatever the pages do."""
        if self._pages:
            text = dump(message)
            for page in self._pages:
                was = page.behind
                page.put(text)
                self.lagged += page.behind and not was

    async def serve(self, websocket: WebSocket) -> None:
        """Send messages to a page until it goes."""
        page = Page(self._queue)
        self._pages.add(page)
        try:
            await websocket.accept()
            sending = asyncio.create_task(self._send(websocket, page))
            listening = asyncio.create_task(_listen(websocket))
            try:
                await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
                code = TOO_SLOW if sending.done() else listening.result()
            finally:
                for task in (sending, listening):
                    task.cancel()
                await asyncio.gather(sending, listening, return_exceptions=True)
            if code is not None:
                await _close(websocket, code)
        except WebSocketDisconnect:
            return
        finally:
            self._pages.discard(page)

    async def _send(self, websocket: WebSocket, page: Page) -> None:
        """Returns where the page is too slow or gone."""
        while True:
            text = await page.next(lambda: dump(self._state()))
            try:
                async with asyncio.timeout(self._patience):  # wait_for of Python 3.11 may lose a cancellation
                    await websocket.send_text(text)
            except (TimeoutError, WebSocketDisconnect, OSError):
                return


async def _listen(websocket: WebSocket) -> int | None:
    """Wait until the page is gone (None) or says something, which pages have no reason to."""
    message = await websocket.receive()
    return None if message["type"] == "websocket.disconnect" else NOT_WANTED


async def _close(websocket: WebSocket, code: int) -> None:
    try:
        async with asyncio.timeout(1.0):
            await websocket.close(code)
    except (TimeoutError, RuntimeError, WebSocketDisconnect):
        return  # it is gone already

"""The endpoint, asked in threads of its own: one question a session at a time, always the newest."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from deployment.web.board import TOP, Answer, Question
from recsys.errors import InputError, RecsysError

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
_REFUSED_AGAIN = 10.0
_LOOK = 2.0
State = Literal["ready", "unreachable", "refusing"]


class Asked(Protocol):
    """`recsys.client.Client`, or what answers like it."""

    def recommend(self, history: Any, k: int = 5) -> Any:
        """The most likely next items."""

    def ready(self) -> bool:
        """Whether the model says that it is ready."""

    def close(self) -> None:
        """Close connections."""


@dataclass(frozen=True)
class Health:
    """How the endpoint is; `message` says what is wrong."""

    state: State
    message: str = ""


class Asker:
    """Asks about sessions.

    A newer question of a session takes the place of the one that waits; one that is under way is let end, and its
    answer is for the board to refuse. So there are never more questions than sessions. While the endpoint cannot be
    reached one question is tried over and over, with growing pauses; then all that wait are asked. A question that is
    refused is asked again after a while, over a new client, since another model may stand behind the address by then.

    Args:
        connect: makes a client.
        answered: is told of answers: question, answer, seconds.
        changed: is told when `health` has changed.
        workers: questions under way at the same time.
    """

    def __init__(
        self,
        connect: Callable[[], Asked],
        answered: Callable[[Question, Answer, float], None],
        changed: Callable[[], None],
        workers: int = 4,
    ) -> None:
        self._connect, self._answered, self._changed, self._workers = connect, answered, changed, workers
        self.health = Health("unreachable", "not asked yet")
        self._client = connect()
        self._waiting: dict[str, Question] = {}  # by session, the one that waits longest first
        self._flying: set[str] = set()
        self._dropped: set[str] = set()  # of those that fly: they are not asked about again
        self._refused: dict[str, tuple[float, Question]] = {}
        self._more = asyncio.Event()
        self._up = asyncio.Event()
        self._ended = 0.0  # when the newest call ended

    @property
    def waiting(self) -> int:
        """Questions that wait."""
        return len(self._waiting)

    def ask(self, question: Question) -> None:
        """Ask as soon as it can be done, in place of what waits of that session."""
        self._refused.pop(question.session_id, None)
        self._waiting[question.session_id] = question
        self._more.set()

    def drop(self, session_id: str) -> None:
        """Ask no more about a session."""
        self._waiting.pop(session_id, None)
        self._refused.pop(session_id, None)
        if session_id in self._flying:
            self._dropped.add(session_id)

    async def run(self) -> None:
        """Ask until cancelled."""
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="ask")
        try:
            await self._look(pool)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._probe(pool))
                for _ in range(self._workers):
                    tasks.create_task(self._work(pool))
        finally:
            self._client.close()
            pool.shutdown(wait=False, cancel_futures=True)  # a call under way ends by its deadline

    async def _work(self, pool: ThreadPoolExecutor) -> None:
        """Ask while the endpoint is up."""
        while True:
            await self._up.wait()
            await self._more.wait()
            question = self._next()
            if question is None:
                self._more.clear()
            else:
                await self._call(pool, question)

    async def _probe(self, pool: ThreadPoolExecutor) -> None:
        """Find out when an endpoint that is down is up again, and whether one that nobody asks is still there."""
        pause = _FIRST_PAUSE
        while True:
            if self._up.is_set():
                pause = _FIRST_PAUSE
                await asyncio.sleep(_LOOK / 4)
                self._ask_refused_again()
                if self._flying or self._waiting or time.monotonic() - self._ended < _LOOK:
                    continue
                await self._look(pool)
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                question = self._next()
                await (self._look(pool) if question is None else self._call(pool, question))

    def _next(self) -> Question | None:
        """The question that has waited longest, of a session that none is under way of."""
        found = next((q for name, q in self._waiting.items() if name not in self._flying), None)
        if found is not None:
            del self._waiting[found.session_id]
        return found

    async def _look(self, pool: ThreadPoolExecutor) -> None:
        """Ask whether the model is ready."""
        ready = await asyncio.get_running_loop().run_in_executor(pool, self._client.ready)
        self._ended = time.monotonic()
        if not ready:
            self._be(Health("unreachable", "no model is ready there; is the server running?"))
        elif self.health.state == "unreachable" or not self._refused:
            self._be(Health("ready"))

    async def _call(self, pool: ThreadPoolExecutor, question: Question) -> None:
        client, name, start = self._client, question.session_id, time.perf_counter()
        self._flying.add(name)
        try:
            answer = await asyncio.get_running_loop().run_in_executor(pool, client.recommend, question.columns, TOP)
        except InputError as error:
            if name not in self._waiting and name not in self._dropped:
                self._refused[name] = (time.monotonic() + _REFUSED_AGAIN, question)
            self._be(Health("refusing", _line(error)))
            self._renew(client)
        except RecsysError as error:
            if name not in self._dropped:
                self._waiting.setdefault(name, question)
            self._be(Health("unreachable", _line(error)))
        else:
            self._be(Health("ready"))
            self._answered(question, answer, time.perf_counter() - start)
        finally:
            self._ended = time.monotonic()
            self._flying.discard(name)
            self._dropped.discard(name)
            self._more.set()

    def _renew(self, old: Asked) -> None:
        """A new client, which asks anew what the model reads."""
        if self._client is old:
            self._client = self._connect()
            old.close()

    def _ask_refused_again(self) -> None:
        now = time.monotonic()
        for name, (when, question) in list(self._refused.items()):
            if now >= when:
                del self._refused[name]
                self._waiting.setdefault(name, question)
                self._more.set()

    def _be(self, health: Health) -> None:
        if health.state == "unreachable":
            self._up.clear()
        else:
            self._up.set()
        if health != self.health:
            self.health = health
            self._changed()


def _line(error: Exception) -> str:
    """An error for people, on one line; it may quote what a server said."""
    text = " ".join(str(error).split())[:300]
    return "".join(c if c.isprintable() else " " for c in text)

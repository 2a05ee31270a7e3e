"""What callers meet when Triton or a model's process dies or hangs under load: how soon it is noticed and mended."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from deployment.triton import Supervisor
from deployment.triton_server import Server
from recsys.client import Client
from recsys.errors import RecsysError, RunError
from recsys.serving.bundle import Answer
from recsys.serving.verify import difference
from scripts.serving.load import K, Question, Way

CALLERS = 8
PAUSE = 0.1
"""Seconds that a caller waits after an error, as one that means to be served does."""
PATIENCE = 120.0
STEADY = 2.0
"""Seconds of undisturbed load before each fault."""


@dataclass(frozen=True)
class Fault:
    """What is done to a server: a signal to it, or to the process of one of its models."""

    name: str
    signal: signal.Signals
    model: bool


FAULTS = (
    Fault("model_killed", signal.SIGKILL, True),
    Fault("model_stopped", signal.SIGSTOP, True),
    Fault("server_killed", signal.SIGKILL, False),
    Fault("server_hanging", signal.SIGSTOP, False),
)


@dataclass
class Load:
    """Callers that ask until they are told to end, and what they met; `wrong` with the reasons."""

    way: Way
    questions: list[Question]
    tolerance: float
    right: int = 0
    errors: int = 0
    wrong: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask as long as the block runs."""
        threads = [threading.Thread(target=self._call, args=(place,)) for place in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.ended.set()
            for thread in threads:
                thread.join()

    def _call(self, place: int) -> None:
        with Client(self.way.url, model=self.way.model, retries=0, deadline=10.0) as client:
            while not self.ended.is_set():
                question = self.questions[place % len(self.questions)]
                place += 1
                try:
                    found = client.recommend(question.history, K)
                except RecsysError:
                    with self.lock:
                        self.errors += 1
                    self.ended.wait(PAUSE)
                    continue
                answer = Answer(found.items, found.scores, found.probabilities)
                reason = difference(answer, question.answer, self.tolerance)
                with self.lock:
                    if reason is None:
                        self.right += 1
                    else:
                        self.wrong.append(reason)


class Diary:
    """What a supervisor tells, with the time at which it did."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []

    def tell(self, line: str) -> None:
        """Take a line."""
        self.lines.append((time.monotonic(), line))

    def when(self, begin: str, since: float) -> float:
        """When it first told a line that begins so, after `since`; waits for it."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            for at, line in list(self.lines):
                if at >= since and line.startswith(begin):
                    return at
            time.sleep(0.01)
        raise RunError(f"nothing that begins with '{begin}' was told in {PATIENCE:g} s")


def suffer(
    supervised: Callable[[Callable[[str], None]], Supervisor],
    questions: list[Question],
    tolerance: float,
    rounds: int = 3,
) -> dict[str, float]:
    """Figures of each fault, the slowest of `rounds`, and what the callers met in all of them.

    Args:
        supervised: a supervisor, not started, by what takes its lines.
        questions: that are asked of `fused`.
        tolerance: of the answers' scores.
    """
    diary = Diary()
    supervisor = supervised(diary.tell)
    load = Load(Way("fused", supervisor.canary.address, "fused"), questions, tolerance)
    figures = {}
    watching = threading.Thread(target=supervisor.watch)
    try:
        supervisor.start()
        watching.start()
        with load.running():
            for fault in FAULTS:
                times = [_inflict(fault, supervisor.server, diary) for _ in range(rounds)]
                for name, seconds in zip(("noticed", "mended"), zip(*times, strict=True), strict=True):
                    figures[f"{fault.name}_{name}_seconds"] = round(max(seconds), 2)
            time.sleep(STEADY)
    finally:
        supervisor.ended.set()
        if watching.ident is not None:
            watching.join()
        supervisor.server.stop()
    return {**figures, "right_answers": load.right, "errors_met": load.errors, "wrong_answers": len(load.wrong)}


def _inflict(fault: Fault, server: Server, diary: Diary) -> tuple[float, float]:
    """Seconds until it was noticed, and until the server gave right answers again."""
    time.sleep(STEADY)
    assert server.process is not None
    victim = max(server.stubs()) if fault.model else server.process.pid
    begin = time.monotonic()
    os.kill(victim, fault.signal)
    noticed = diary.when("not well", begin)
    return noticed - begin, diary.when("ready", noticed) - begin

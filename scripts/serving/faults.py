"""What callers meet when Triton or a model's process dies or hangs under load: how soon it is noticed and mended."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from deployment.triton import Supervisor
from deployment.triton_server import Server
from recsys.errors import RunError
from scripts.serving.load import Question, Way, loaded

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
    way = Way("fused", supervisor.canary.address, "fused")
    figures = {}
    watching = threading.Thread(target=supervisor.watch)
    try:
        supervisor.start()
        watching.start()
        with loaded(way, CALLERS, questions, tolerance, PAUSE) as met:
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
    for line in sorted(set(met.wrong))[:5]:
        print(f"went wrong: {line}")
    counts = {"right_answers": len(met.seconds), "errors_met": len(met.errors), "wrong_answers": len(met.wrong)}
    return {**figures, **counts}


def _inflict(fault: Fault, server: Server, diary: Diary) -> tuple[float, float]:
    """Seconds until it was noticed, and until the server gave right answers again."""
    time.sleep(STEADY)
    assert server.process is not None
    victim = max(server.stubs()) if fault.model else server.process.pid
    begin = time.monotonic()
    os.kill(victim, fault.signal)
    noticed = diary.when("not well", begin)
    return noticed - begin, diary.when("ready", noticed) - begin

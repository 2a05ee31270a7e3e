"""Callers of a served model: each asks again as soon as it has its answer, and every answer is compared."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.client import Client
from recsys.errors import RecsysError
from recsys.inference import load, recommend
from recsys.serving.bundle import Answer
from recsys.serving.verify import difference

K = 5


@dataclass(frozen=True)
class Question:
    """A history and the answer of `recommend` offline."""

    history: Mapping[str, Any]
    answer: Answer


@dataclass(frozen=True)
class Way:
    """A model behind an address."""

    name: str
    url: str
    model: str


@dataclass
class Tally:
    """What callers met.

    Attributes:
        seconds: that each right answer took.
        errors: requests without an answer, by reason.
        wrong: answers that are not those of `recommend` offline, by reason.
        elapsed: seconds of the whole.
    """

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    elapsed: float = 0.0

    def add(self, other: "Tally") -> None:
        """Count what another one counted, one after the other."""
        self.seconds += other.seconds
        self.errors += other.errors
        self.wrong += other.wrong
        self.elapsed += other.elapsed

    def milliseconds(self, percent: float) -> float:
        """A percentile of the time that an answer took; infinite where there was none."""
        return float(np.percentile(self.seconds, percent)) * 1000 if self.seconds else float("inf")

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return len(self.seconds) / self.elapsed


def make_questions(run: Path, lengths: Sequence[int], names: Sequence[str], seed: int) -> list[Question]:
    """Sessions of these lengths over the items of a run, with what `recommend` lists for them offline.

    names: columns that the model reads.
    """
    loaded = load(run, device="cpu")
    items = [name for name in loaded.item_names if name is not None]
    rng = np.random.default_rng(seed)
    frames = [
        pl.DataFrame(
            {
                "session_id": [f"{n:06d}"] * length,
                "item_id": rng.choice(items, length).tolist(),
                "timestamp": 1_700_000_000_000_000 + np.cumsum(rng.integers(1, 90_000_000, length)),
                "merge_count": rng.integers(1, 5, length),
            }
        )
        for n, length in enumerate(lengths)
    ]
    lists = recommend(loaded, pl.concat(frames), k=K)
    questions = []
    for n, frame in enumerate(frames):
        rows = lists.filter(pl.col("session_id") == f"{n:06d}")
        answer = Answer(*(rows[name].to_list() for name in ("item_id", "score", "probability")))
        questions.append(Question(frame.select(names).to_dict(as_series=False), answer))
    return questions


@contextmanager
def loaded(
    way: Way, callers: int, questions: Sequence[Question], tolerance: float, pause: float = 0.0
) -> Iterator[Tally]:
    """Callers, each with a connection of its own, that ask one after another as long as the block runs.

    What they met is in the tally behind it. pause: seconds that one waits after an error.
    """
    ended, tallies, whole = threading.Event(), [Tally() for _ in range(callers)], Tally()
    threads = [
        threading.Thread(target=_call, args=(way, n, ended, questions, tolerance, tally, pause))
        for n, tally in enumerate(tallies)
    ]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    try:
        yield whole
    finally:
        ended.set()
        for thread, tally in zip(threads, tallies, strict=True):
            thread.join()
            whole.add(tally)
        whole.elapsed = time.perf_counter() - begin


def drive(way: Way, callers: int, seconds: float, questions: Sequence[Question], tolerance: float) -> Tally:
    """What callers meet in that time."""
    with loaded(way, callers, questions, tolerance) as met:
        time.sleep(seconds)
    return met


def _call(
    way: Way,
    place: int,
    ended: threading.Event,
    questions: Sequence[Question],
    tolerance: float,
    tally: Tally,
    pause: float,
) -> None:
    with Client(way.url, model=way.model, retries=0, deadline=30.0) as client:
        while not ended.is_set():
            question = questions[place % len(questions)]
            place += 1
            begin = time.perf_counter()
            try:
                found = client.recommend(question.history, K)
            except RecsysError as error:
                tally.errors.append(str(error))
                ended.wait(pause)
                continue
            taken = time.perf_counter() - begin
            reason = difference(Answer(found.items, found.scores, found.probabilities), question.answer, tolerance)
            if reason is None:
                tally.seconds.append(taken)
            else:
                tally.wrong.append(reason)

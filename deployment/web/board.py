"""What the app knows of each session: its commands, what was suggested, and whether that was taken.

How hits are counted. A list counts for the first command that comes after it was shown, and for that one only: rank 1
and up if the list holds it, 0 if not. It does not count where what it answered was taken back before that command came
(an undo, or a row that was written late), nor after a newer command has come while the endpoint was silent: a list
never counts twice. Of several commands that are read at once only the first can have been chosen with the list on the
screen; the others count for nothing, as do all that came while there was no list. A command that is taken back after it
was counted stays counted, since it was chosen; one that a redo brings back is not counted again. A repeat of the newest
command is no new command, as in training, and neither is a workflow whose first command was there before.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from typing import Any, Protocol

RECENT, TOP, LONGEST = 20, 5, 500
_REMEMBERED = 4096
_MEASURED = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Command = tuple[str, int]
"""Name, and time in microseconds UTC."""


class Answer(Protocol):
    """What the endpoint answers: the most likely next items, best first."""

    items: list[str]
    scores: list[float]
    probabilities: list[float]


@dataclass(frozen=True)
class History:
    """A session as cleaning has it.

    Attributes:
        session_id: of it.
        file: name of the file that told of it last.
        user: empty: not known.
        commands: all of them, oldest first.
        columns: of the newest events, as the endpoint reads them.
        taken_back: whether events that were there are gone since the last time, or came to lie elsewhere.
    """

    session_id: str
    file: str
    user: str
    commands: Sequence[Command]
    columns: Mapping[str, Sequence[Any]]
    taken_back: bool = False


@dataclass(frozen=True)
class Question:
    """A history to ask about; `version` tells an answer to it from one to an older history."""

    session_id: str
    version: int
    columns: Mapping[str, Sequence[Any]]


@dataclass
class Session:
    """The state of one session; `take` and `answer` change it, `message` says it."""

    session_id: str
    version: int = 0
    file: str = ""
    user: str = ""
    changed: datetime = _EPOCH
    moved: float = 0.0
    commands: list[Command] = field(default_factory=list)
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    shown: list[tuple[str, float, float | None]] = field(default_factory=list)
    stale: bool = False
    told: bool = False  # whether it ever had events: else it is none that pages know of
    hits: int = 0
    asked: int = 0
    _counts: bool = False  # whether the list shown will count for the next command
    _ranks: OrderedDict[Command, int | None] = field(default_factory=OrderedDict)  # of commands seen, also those gone
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_MEASURED))

    def take(self, history: History) -> None:
        """Go on to a newer history."""
        if history.taken_back:
            self._counts = False
        newest = history.commands[-_REMEMBERED:]
        last = self.commands[-1] if self.commands else ("", -math.inf)
        since = last[1] if last in newest else math.nextafter(last[1], math.inf)
        for command in newest:
            if command not in self._ranks:
                # One that came to lie before others is a row that was late, or a workflow that others became.
                self._counts = self._counts and command[1] >= since
                self._ranks[command] = self._judge(command)
        while len(self._ranks) > 2 * _REMEMBERED:
            self._ranks.popitem(last=False)
        self.file, self.user = history.file, history.user
        self.commands, self.columns = list(history.commands), history.columns
        self.version += 1
        self.stale = bool(self.commands)
        self.told = self.told or self.stale
        if not self.commands:
            self.shown, self._counts = [], False

    def _judge(self, command: Command) -> int | None:
        """The rank of a new command in the list that was shown; None: no list counts."""
        if not self._counts:
            return None
        self._counts = False
        names = [name for name, _, _ in self.shown]
        rank = names.index(command[0]) + 1 if command[0] in names else 0
        self.asked += 1
        self.hits += rank > 0
        return rank

    def answer(self, version: int, answer: Answer, seconds: float) -> bool:
        """Show what the endpoint answered; False: a newer question is under way, so the answer is of no use."""
        self._latencies.append(1000 * seconds)
        if version != self.version:
            return False
        probabilities = [p if math.isfinite(p) else None for p in answer.probabilities]
        shown = zip(answer.items[:TOP], answer.scores, probabilities, strict=False)
        self.shown = [(name, score, p) for name, score, p in shown if math.isfinite(score)]
        self.stale, self._counts = False, bool(self.shown)
        return True

    def question(self) -> Question | None:
        """What to ask now; None for a session without events."""
        return Question(self.session_id, self.version, self.columns) if self.commands else None

    def message(self, describe: Callable[[str], str]) -> dict[str, Any]:
        """The session as pages get it; `describe` tells what a command is."""
        recent = [
            {
                "command": short(name),
                "description": short(describe(name)),
                "time": iso_time(time),
                "suggested": self._ranks.get((name, time)),
            }
            for name, time in self.commands[-RECENT:]
        ]
        suggestions = [
            {"command": short(name), "score": score, "probability": p, "description": short(describe(name))}
            for name, score, p in self.shown
        ]
        return {
            "id": public_id(self.session_id),
            "file": short(self.file),
            "user": short(self.user),
            "events": len(self.commands),
            "changed": self.changed.isoformat(timespec="milliseconds"),
            "recent": recent,
            "suggestions": suggestions,
            "stale": self.stale,
            "last_taken": recent[-1]["suggested"] if recent else None,
            "hits": self.hits,
            "asked": self.asked,
            "hit_rate": self.hits / self.asked if self.asked else None,
            "latency_ms": self._latency(),
        }

    def _latency(self) -> dict[str, float | None]:
        """Of the newest answers, those that came too late to be shown among them."""
        if not self._latencies:
            return {"last": None, "median": None, "p95": None}
        ordered = sorted(self._latencies)
        at = {"median": 0.5, "p95": 0.95}
        found = {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in at.items()}
        return {"last": round(self._latencies[-1], 2), **{name: round(value, 2) for name, value in found.items()}}


class Board:
    """All sessions, the newest `most` of them.

    Args:
        most: sessions that are kept; the one that has been silent longest goes first.
        idle: seconds after which a silent session goes.
        describe: tells what a command is; empty: not known.
    """

    def __init__(self, most: int = 100, idle: float = 3600.0, describe: Callable[[str], str] = lambda _: "") -> None:
        self.most, self.idle, self.describe = most, idle, describe
        self.sessions: dict[str, Session] = {}

    def take(self, histories: Sequence[History], now: datetime, clock: float) -> tuple[list[Session], list[Session]]:
        """Go on to newer histories; `clock` is a time that never goes back, in seconds.

        Returns:
            Sessions that changed, but for those that have no events and never had, and all sessions that went.
        """
        changed = {}
        for history in sorted(histories, key=lambda h: h.commands[-1][1] if h.commands else 0):
            session = self.sessions.pop(history.session_id, None) or Session(history.session_id)
            session.take(history)
            session.changed, session.moved = now, clock
            self.sessions[session.session_id] = changed[session.session_id] = session  # the newest stands last
        gone = self._remove(clock)
        for session in gone:
            changed.pop(session.session_id, None)
        return [session for session in changed.values() if session.told], gone

    def _remove(self, clock: float) -> list[Session]:
        surplus = max(0, len(self.sessions) - self.most)
        gone = list(islice(self.sessions.values(), surplus))
        gone += [s for s in islice(self.sessions.values(), surplus, None) if clock - s.moved > self.idle]
        for session in gone:
            del self.sessions[session.session_id]
        return gone

    def message(self, session: Session) -> dict[str, Any]:
        """A session as pages get it."""
        return session.message(self.describe)

    def messages(self) -> list[dict[str, Any]]:
        """All sessions as pages get them."""
        return [self.message(session) for session in self.sessions.values() if session.told]


def short(text: str) -> str:
    """A text of a log for a page; a very long one ends in an ellipsis."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def public_id(session_id: str) -> str:
    """The id of a session for pages; two ids differ however long they are."""
    if len(session_id) <= LONGEST:
        return session_id
    return f"{session_id[:60]}\N{HORIZONTAL ELLIPSIS}{sha256(session_id.encode('utf-8', 'replace')).hexdigest()}"


def iso_time(microseconds: int) -> str | None:
    """UTC in ISO form; None for a moment that no calendar has."""
    try:
        return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="milliseconds")
    except OverflowError:
        return None

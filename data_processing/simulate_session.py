"""Turns a user's plan into the operations of a session: what the application logs, and which of it stays.

Every operation of a chunk of users sits in flat lists (`Operations`), which `simulate_rows` expands to log
rows with array operations. Undo and redo are decided here, on the application's own undo stack, and what
they remove is marked as not kept: the truth comes from what the user did, not from replaying the log.
"""

from dataclasses import dataclass, field
from random import Random

from data_processing.simulate_catalogue import END_EVENT, RARE_MENUS, TOOL, Catalogue, pair_key
from data_processing.simulate_catalogue import PAIRS as _PAIRS
from data_processing.simulate_grammar import AT_ONCE, FAST, PAUSE, SLOW, Grammar, Planner, User

# Kinds of operation.
OP_TOOL, OP_MENU, OP_EVENT, OP_UNDO, OP_REDO, OP_REMOVE, OP_ABORT = range(7)

# Undo chains that are planted, with their weights.
CHAINS = {
    "undo": 8.0,
    "undo_redo": 3.0,
    "undo_redo_undo": 2.0,
    "multiple_undo_some_redo": 3.0,
    "undo_and_remove": 2.0,
    "undo_new_event_stray_redo": 1.5,
    "undo_and_remove_stray_redo": 1.0,
    "undo_tool_redo": 1.0,
}


@dataclass
class Operations:
    """Flat lists over all operations of a chunk; `sessions` holds (user, first operation) per session."""

    kind: list[int] = field(default_factory=list)
    command: list[int] = field(default_factory=list)
    gap: list[int] = field(default_factory=list)
    keep: list[bool] = field(default_factory=list)
    sessions: list[tuple[int, int]] = field(default_factory=list)
    languages: list[int] = field(default_factory=list)
    planted: dict[str, int] = field(default_factory=dict)
    begun: dict[int, int] = field(default_factory=dict)  # Tool or Menu -> the event, undone at some time, that it began


class Facts:
    """What the session loop asks of the catalogue, as plain lists."""

    def __init__(self, grammar: Grammar) -> None:
        catalogue: Catalogue = grammar.catalogue
        kinds = {TOOL: OP_TOOL, END_EVENT: OP_EVENT}
        self.grammar = grammar
        self.kind = [kinds.get(command.kind, OP_MENU) for command in catalogue.commands]
        self.starts = [command.starts for command in catalogue.commands]
        self.low = dict(catalogue.pairs())
        self.high_events = {catalogue.index[pair_key(high)] for high in _PAIRS if high.startswith("event:")}
        self.rare = [catalogue.index[f"M:{key}"] for key in RARE_MENUS.split()]
        self.events = [i for i, c in enumerate(catalogue.commands) if c.kind == END_EVENT and not c.noise]
        self.tools = [i for i, c in enumerate(catalogue.commands) if c.kind == TOOL and not c.noise]


class Session:
    """One session on the application's undo stack; writes into `Operations`."""

    def __init__(self, facts: Facts, user: User, ops: Operations, rng: Random) -> None:
        self.facts, self.user, self.ops, self.rng = facts, user, ops, rng
        self.start = len(ops.kind)
        self.done: list[int] = []  # positions of events that can be undone, oldest first
        self.undone: list[int] = []  # positions of events that can be redone, oldest first
        self.locked: set[int] = set()
        self.tool = -1  # the active tool: it stays active, so it often is not chosen again

    def _put(self, kind: int, command: int, gap: int) -> int:
        ops = self.ops
        ops.kind.append(kind)
        ops.command.append(command)
        ops.gap.append(gap)
        ops.keep.append(True)
        return len(ops.kind) - 1

    def _plant(self, name: str) -> None:
        self.ops.planted[name] = self.ops.planted.get(name, 0) + 1

    def act(self, command: int, gap: int = FAST) -> None:
        """Use a tool, choose a menu or finish an event, with the low-level event that it brings."""
        kind = self.facts.kind[command]
        at = self._put(kind, command, gap)
        if kind == OP_EVENT:
            self.done.append(at)
            self.undone.clear()
        low = self.facts.low.get(command)
        if low is not None:
            self.act(low, AT_ONCE)
            self._plant("pair")
            if kind == OP_EVENT:
                self.locked.update((at, len(self.ops.kind) - 1))

    def _mark(self, event: int, keep: bool) -> None:
        """Mark an event and the Tool or Menu that began it (the last one since the event before that can begin one)."""
        ops = self.ops
        ops.keep[event] = keep
        passed = False
        for at in range(event - 1, self.start - 1, -1):
            if ops.kind[at] == OP_EVENT:
                break
            if ops.kind[at] in (OP_TOOL, OP_MENU):
                if self.facts.starts[ops.command[at]]:
                    ops.keep[at] = keep
                    ops.begun[at] = event
                    break
                passed = True
        if passed and not keep:
            self._plant("undo_after_not_starter")

    def undo(self, kind: int = OP_UNDO) -> int:
        """Undo the newest event; with `OP_REMOVE` it cannot be redone. Returns the event's position."""
        event = self.done.pop()
        self._mark(event, False)
        self._put(kind, self.ops.command[event], FAST)
        if kind == OP_UNDO:
            self.undone.append(event)
        return event

    def redo(self) -> None:
        """Redo the event undone last."""
        event = self.undone.pop()
        self._mark(event, True)
        self.done.append(event)
        self._put(OP_REDO, self.ops.command[event], FAST)

    def stray(self, kind: int) -> None:
        """An undo or redo row whose stack is empty: it has no effect."""
        self._put(kind, self.rng.choice(self.facts.events), FAST)
        self._plant("stray_undo" if kind == OP_UNDO else "stray_redo")

    def chain(self) -> None:
        """One undo chain on the newest events, of a kind drawn by `CHAINS`."""
        if not self.done or self.done[-1] in self.locked:
            return  # undoing half of a high-level pair would break "always"
        name = self.rng.choices(list(CHAINS), list(CHAINS.values()))[0]
        if name == "multiple_undo_some_redo":
            free = 0
            while free < len(self.done) and self.done[-1 - free] not in self.locked:
                free += 1
            if free < 2:
                name = "undo"
        self._plant(name)
        event = self.done[-1]
        command = self.ops.command[event]
        if name == "multiple_undo_some_redo":
            count = self.rng.randint(2, min(4, free))
            for _ in range(count):
                self.undo()
            for _ in range(self.rng.randint(1, count - 1)):
                self.redo()
        elif name.startswith("undo_and_remove"):
            self.undo(OP_REMOVE)
            if name.endswith("redo"):
                self.stray(OP_REDO)
        else:
            self._simple_chain(name, command)

    def _simple_chain(self, name: str, command: int) -> None:
        self.undo()
        if name == "undo_new_event_stray_redo":
            self.act(command if self.rng.random() < 0.5 else self.rng.choice(self.facts.events[:20]))
            self.stray(OP_REDO)
        elif name == "undo":
            if self.rng.random() < 0.5:
                self.act(command, SLOW)  # the person tries again
        else:
            if name == "undo_tool_redo":
                self.act(self.rng.choice(self.facts.tools))
            self.redo()
            if name == "undo_redo_undo":
                self.undo()


@dataclass(frozen=True)
class Rates:
    """Chances of what happens in a session beside its tasks (see `simulate.NoiseConfig`)."""

    repeat: float
    interruption: float
    clutter: float
    abort: float
    short_session: float
    rare: float
    stray_undo: float


def run_session(facts: Facts, user: User, ops: Operations, rng: Random, rates: Rates, events: float) -> None:
    """Append one session of about `events` clean events to `ops`."""
    session = Session(facts, user, ops, rng)
    length = max(5.0, 1.22 * events * rng.lognormvariate(-0.125, 0.5))  # undone and merged ones do not count
    if rng.random() < rates.short_session:
        length = rng.randint(1, 3)
        session._plant("short_session")
    elif rng.random() < rates.stray_undo:
        session.stray(OP_UNDO)
    planner = Planner(user, rng)
    while len(ops.kind) - session.start < length:
        commands, gaps = planner.next_task()
        for command, gap in zip(commands, gaps, strict=True):
            _take(session, command, gap)
            if len(ops.kind) - session.start >= length:
                break
            while rng.random() < rates.clutter:
                session.act(rng.choices(facts.grammar.clutter, user.clutter_weights)[0])
            if facts.kind[command] == OP_EVENT:
                _after_event(session, command, rates)
            elif rng.random() < rates.abort:
                session._put(OP_ABORT, rng.choice(facts.events), FAST)
                session._plant("abort")
        if length > 5 and rng.random() < rates.rare:
            session.act(rng.choice(facts.rare), PAUSE)
            session._plant("rare")


def _take(session: Session, command: int, gap: int) -> None:
    """One step of a task; half the time the tool that is active already is not chosen again."""
    if session.facts.kind[command] == OP_TOOL:
        active, session.tool = session.tool == command, command
        if active and session.rng.random() < 0.5:
            return
    session.act(command, gap)


def _after_event(session: Session, command: int, rates: Rates) -> None:
    rng, user, facts = session.rng, session.user, session.facts
    if command not in facts.high_events and rng.random() < rates.repeat:
        for _ in range(rng.randint(1, 4)):
            session.act(command)
        session._plant("repeat")
    if rng.random() < user.undo_rate:
        session.chain()
    if rng.random() < rates.interruption:
        favourite = user.interruptions[int(rng.random() ** 2 * 3)]
        for index in facts.grammar.interruptions[favourite]:
            session.act(index)
        session._plant("subsequence")

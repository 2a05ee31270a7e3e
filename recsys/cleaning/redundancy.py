"""Drops events that say nothing, because the software brought them about together with another one.

A rule drops an occurrence only where its partner really stands within the window, so a high-level command that for
once brought nothing stays. Windows never reach into another session.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from recsys.cleaning.fitting import RedundancyConfig
from recsys.cleaning.small_tables import read_rows
from recsys.config import StrictModel
from recsys.errors import InputError, nearest
from recsys.schema import ITEM_ID, MERGE_COUNT, TIMESTAMP

HIGH, LOW, DECISION, LEAVES = "high", "low", "decision", "leaves"
DECISIONS, SIDES = ("drop", "keep"), (HIGH, LOW)
MICROSECONDS = 1_000_000
NAMED = 40  # partners that reasons name; with more of them the funnel would not be readable


class RedundantPair(StrictModel):
    """`high` brings `low`; `drop` says which of the two leaves."""

    high: str
    low: str
    drop: Literal["high", "low"] = "high"

    @property
    def leaver(self) -> str:
        """The command that leaves."""
        return self.high if self.drop == HIGH else self.low

    @property
    def stayer(self) -> str:
        """The command because of which it leaves."""
        return self.low if self.drop == HIGH else self.high


class Leavers:
    """Who leaves because of whom: a graph without cycles, so that of any events that go together one stays."""

    def __init__(self) -> None:
        self._because: dict[str, set[str]] = {}

    def closes_cycle(self, pair: RedundantPair) -> bool:
        """Whether the one who stays would (through others) leave because of the one who leaves."""
        seen: set[str] = set()
        waiting = [pair.stayer]
        while waiting:
            name = waiting.pop()
            if name == pair.leaver:
                return True
            if name not in seen:
                seen.add(name)
                waiting.extend(self._because.get(name, ()))
        return False

    def add(self, pair: RedundantPair) -> None:
        """Add a pair."""
        self._because.setdefault(pair.leaver, set()).add(pair.stayer)


class Redundancy(StrictModel):
    """Which commands bring which, and how near the other one must stand."""

    rows: Annotated[int, Field(ge=1)] = 1  # events
    seconds: Annotated[float, Field(gt=0)] = 30.0
    pairs: list[RedundantPair] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        graph = Leavers()
        for pair in self.pairs:
            if graph.closes_cycle(pair):
                raise ValueError(
                    f"'{pair.leaver}' leaves because of '{pair.stayer}', which leaves because of it: keep one of them"
                )
            graph.add(pair)
        return self

    @classmethod
    def load(cls, path: Path, config: RedundancyConfig) -> Self:
        """The rows of a table of pairs (redundancy.csv) that say drop.

        Args:
            path: CSV with the columns `high`, `low`, `decision` (drop, keep) and, where wanted, `leaves` (high, low;
                empty: as `config.drop` says).
            config: gives the window.

        Raises:
            InputError: not such a table; a pair decided twice; rows that together would drop everything.
        """
        graph = Leavers()
        pairs = []
        for row, pair, decision in read_decisions(path, config.drop):
            if decision == "drop":
                refuse_cycle(graph, pair, path, row)
                pairs.append(pair)
        pairs.sort(key=lambda pair: (pair.high, pair.low))
        return cls(rows=config.rows, seconds=config.seconds, pairs=pairs)


def refuse_cycle(graph: Leavers, pair: RedundantPair, path: Path, row: int) -> None:
    """Add `pair`, or raise an InputError that names the row."""
    if graph.closes_cycle(pair):
        raise InputError(
            f"{path}: row {row}: '{pair.leaver}' would leave because of '{pair.stayer}', which leaves because of it by "
            "the rows before, so nothing would stay; set one of them to keep"
        )
    graph.add(pair)


def read_decisions(path: Path, drop: Literal["high", "low"]) -> list[tuple[int, RedundantPair, str]]:
    """(number of the row, pair, drop or keep) of each row of a table of pairs; `drop`: who leaves if it does not say.

    Raises:
        InputError: names file, row, column and what would do.
    """
    found: list[tuple[int, RedundantPair, str]] = []
    first: dict[tuple[str, str], tuple[int, tuple[str, str]]] = {}
    for row, values in read_rows(path, (HIGH, LOW, DECISION)):
        decision, leaves = values[DECISION].strip(), values.get(LEAVES, "").strip() or drop
        for column, value, known in ((DECISION, decision, DECISIONS), (LEAVES, leaves, SIDES)):
            if value not in known:
                raise InputError(f"{path}: row {row}: {column} '{value}' is not known{nearest(value, known)}")
        high, low = values[HIGH], values[LOW]
        if high == low:
            raise InputError(f"{path}: row {row}: high ('{high}') and low ('{low}') must be two different commands")
        said = (decision, leaves if decision == "drop" else "")
        before, was = first.setdefault((high, low), (row, said))
        if was != said:
            raise InputError(
                f"{path}: row {row}: '{high}', '{low}' is '{' '.join(said).strip()}' here and "
                f"'{' '.join(was).strip()}' in row {before}; leave one of the two rows"
            )
        if before == row:
            side: Literal["high", "low"] = "high" if leaves == HIGH else "low"
            found.append((row, RedundantPair(high=high, low=low, drop=side), decision))
    return found


def same_window(session: np.ndarray, time: np.ndarray, at: np.ndarray, offset: int, seconds: float) -> np.ndarray:
    """Whether the event `offset` rows after each of `at` is of the same session and at most `seconds` later.

    Args:
        session: ``[N]`` number of the session of each event.
        time: ``[N]`` microseconds.
        at: ``[K]`` positions, each below ``N - offset``.
    """
    gap = time[at + offset] - time[at]
    return (session[at + offset] == session[at]) & (gap >= 0) & (gap <= round(seconds * MICROSECONDS))


def session_numbers(events: pl.DataFrame, session: str) -> np.ndarray:
    """``[N]`` numbers that change where the session does."""
    changes = (pl.col(session) != pl.col(session).shift()).fill_null(True)
    return events.select(changes.cum_sum()).to_series().to_numpy()


def redundancy_reasons(events: pl.DataFrame, session: str, rules: Redundancy) -> pl.Series:
    """Why each event leaves; null: it stays.

    An event of `high` leaves where its `low` follows within the window (drop = high); an event of `low` leaves where
    its `high` came before within the window (drop = low). Both look at the events as they are given: a `low` that
    itself leaves still counts, and since no command leaves because of itself, however indirectly, the last one stays.

    A collapsed event (merge_count > 1) is one event at the time of its first row. A repeated high-level event leaves
    as a whole; a repeated low-level event stays, since only its first repetition was brought about.

    Args:
        events: item_id, timestamp and `session`; rows of a session together and in order; merge_count if any.
        session: the column that tells sessions apart.
        rules: pairs and window.

    Returns:
        String, as long as `events`.
    """
    names = sorted({name for pair in rules.pairs for name in (pair.high, pair.low)})
    if not names or not events.height:
        return pl.Series("reason", [None], dtype=pl.String).new_from_index(0, events.height)
    codes = events[ITEM_ID].replace_strict(names, range(len(names)), default=-1, return_dtype=pl.Int32).to_numpy()
    number, time = session_numbers(events, session), events[TIMESTAMP].to_numpy()
    reason = np.full(events.height, -1, dtype=np.int64)  # position in `texts`
    texts: list[str] = []
    for side in SIDES:
        pairs = [pair for pair in rules.pairs if pair.drop == side]
        lookup = _Lookup(pairs, names)
        for offset in range(1, rules.rows + 1):
            at = lookup.starts(codes, offset)
            at = at[lookup.holds(codes[at], codes[at + offset]) & same_window(number, time, at, offset, rules.seconds)]
            leaver, partner = (at, at + offset) if side == HIGH else (at + offset, at)
            if side == LOW and MERGE_COUNT in events.columns:
                single = events[MERGE_COUNT].to_numpy()[leaver] == 1
                leaver, partner = leaver[single], partner[single]
            new = reason[leaver] < 0  # the nearest partner gives the reason
            reason[leaver[new]] = codes[partner[new]] + len(texts)
        texts += _texts(side, names, {pair.stayer for pair in pairs})
    chosen = pl.Series(np.where(reason < 0, len(texts), reason))
    return pl.Series("reason", [*texts, None], dtype=pl.String).gather(chosen)


def _texts(side: str, names: list[str], partners: Iterable[str]) -> list[str]:
    verb = "brings" if side == HIGH else "brought by"
    many = len(set(partners)) > NAMED
    return [f"redundant: {verb} {'another command' if many else name}" for name in names]


class _Lookup:
    """Pairs of command codes as sorted keys."""

    def __init__(self, pairs: list[RedundantPair], names: list[str]) -> None:
        code = {name: i for i, name in enumerate(names)}
        self._size = len(names)
        self._keys = np.unique(np.array([code[p.high] * self._size + code[p.low] for p in pairs], dtype=np.int64))
        self._is_high = np.zeros(self._size + 1, dtype=bool)  # the last one is for code -1
        self._is_high[self._keys // max(1, self._size)] = True

    def starts(self, codes: np.ndarray, offset: int) -> np.ndarray:
        """Positions of high-level commands that have an event `offset` rows on."""
        return np.flatnonzero(self._is_high[codes[: max(0, len(codes) - offset)]])

    def holds(self, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        """Whether (high, low) is a pair."""
        return np.isin(high.astype(np.int64) * self._size + low, self._keys) & (low >= 0)

"""Workflows: sub-sequences of commands that count as one command. What is learned, and what applies it to events.

`data_processing.workflows` learns them. Each one is a byte-pair merge (Gage 1994; Sennrich et al. 2016,
arXiv:1508.07909) of two commands or earlier workflows, or a fixed list of commands. They apply in the order of the
file, each from the left, and never across sessions. With `collapse`, equal workflows in a row become one, as equal
commands do: A B A B A B C is one A + B and a C, and A + B + C may come of it; `constituents` keeps all seven.
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, PrivateAttr, model_validator

from recsys.config import StrictModel, parse
from recsys.errors import ConfigError, InputError, nearest
from recsys.schema import ITEM_ID, MERGE_COUNT, SESSION_ID, TIMESTAMP

WORKFLOWS_FILE = "workflows.json"
LAST_TIMESTAMP = "last_timestamp"  # Int64 us: of the event's last constituent
CONSTITUENTS = "constituents"  # List(String): the commands that a workflow stands for here; null for a command
BORDER = 0  # symbol of a session's end and of every command that never merges
_TOKEN = "token"


class Workflow(StrictModel):
    """One workflow. `left` and `right` are the constituents of what it merges; without them it is a fixed list."""

    name: Annotated[str, Field(min_length=1)]  # free to be edited: nothing else refers to it
    constituents: Annotated[list[str], Field(min_length=2)]
    left: list[str] | None = None
    right: list[str] | None = None
    count: Annotated[int, Field(ge=0)] = 0  # in the training groups, when it was merged
    share: Annotated[float, Field(ge=0, le=1)] = 0.0  # of `Workflows.pairs`
    step: bool = False  # only a step to longer ones: where it is left over, its commands stand by themselves


class Workflows(StrictModel):
    """All workflows in the order in which they apply."""

    version: Literal[1] = 1
    pairs: Annotated[int, Field(ge=0)] = 0  # neighbouring pairs of events in the training groups
    collapse: bool = True
    merges: list[Workflow] = Field(default_factory=list)
    _constituents: dict[str, list[str]] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        commands = self.commands()
        names: set[str] = set()
        known: set[tuple[str, ...]] = set()
        for number, merge in enumerate(self.merges):
            problem = _problem(merge, names, known, commands)
            if problem:
                raise ValueError(f"merges.{number} '{merge.name}': {problem}")
            names.add(merge.name)
            known.add(tuple(merge.constituents))
        self._constituents = {m.name: m.constituents for m in self.vocabulary()}
        return self

    def vocabulary(self) -> list[Workflow]:
        """The workflows that events may name: all that are not mere steps."""
        return [merge for merge in self.merges if not merge.step]

    def commands(self) -> set[str]:
        """Every command that a workflow holds."""
        return {command for merge in self.merges for command in merge.constituents}

    def expand(self, item: str) -> list[str]:
        """The commands that `item` stands for: a workflow's constituents, a command itself."""
        return list(self._constituents.get(item, (item,)))

    def require_commands(self, commands: Collection[str], taken: Collection[str], source: object) -> None:
        """Raise ConfigError where a workflow holds a command that is not in `commands`, or its name is in `taken`."""
        commands, taken = set(commands), set(taken)
        for number, merge in enumerate(self.merges):
            entry = f"{source}: merges.{number} '{merge.name}'"
            if merge.name in taken:
                raise ConfigError(f"{entry}: a command has this name; give the workflow another")
            unknown = [command for command in merge.constituents if command not in commands]
            if unknown and unknown[0] in taken:
                raise ConfigError(f"{entry}: '{unknown[0]}' is rare in the training groups; remove the entry")
            if unknown:
                raise ConfigError(f"{entry}: no command '{unknown[0]}' in the events{_near(unknown[0], commands)}")

    def save(self, folder: Path) -> None:
        """Write ``workflows.json``."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False)
        (folder / WORKFLOWS_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``workflows.json`` (the file, or the cleaning folder that holds it).

        Raises:
            InputError: no such file, or not JSON.
            ConfigError: an entry that is wrong, with its number and name.
        """
        path = path / WORKFLOWS_FILE if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        return parse(cls, values, path)

    def apply(self, events: pl.DataFrame, session: str = SESSION_ID) -> pl.DataFrame:
        """Replace what workflows match by one row each; a session's rows do not depend on other sessions.

        Args:
            events: rows of a session contiguous and in order: `session`, item_id, timestamp, any others.
            session: the column whose change ends a session.

        Returns:
            The columns of `events` and two more: `last_timestamp` (Int64) and `constituents` (List(String), null for
            a row that stayed). Of a workflow item_id is its name, merge_count the sum of its constituents', any other
            column the first constituent's. Exploding `constituents` gives back the commands of `events`.
        """
        if LAST_TIMESTAMP in events.columns or CONSTITUENTS in events.columns:
            raise InputError("events: workflows were applied to these events already")
        symbols, rows, first_workflow = self._tokens(events, session)
        symbols, rows = self._without_steps(symbols, rows, first_workflow, events.height)
        starts = np.append(rows, events.height)
        tokens = events[rows]
        composite = symbols >= first_workflow
        item = tokens[ITEM_ID]
        if composite.any():
            names = pl.Series([m.name for m in self.merges])[np.where(composite, symbols - first_workflow, 0)]
            item = pl.select(pl.when(pl.Series(composite)).then(names).otherwise(item).alias(ITEM_ID)).to_series()
        last = events[TIMESTAMP][starts[1:] - 1].cast(pl.Int64).alias(LAST_TIMESTAMP)
        tokens = tokens.with_columns(item, last, _constituents(events[ITEM_ID], starts, composite))
        if MERGE_COUNT in events.columns:
            sums = np.append(0, np.cumsum(events[MERGE_COUNT].to_numpy()))
            tokens = tokens.with_columns(pl.Series(MERGE_COUNT, np.diff(sums[starts]), dtype=pl.Int64))
        return tokens

    def _tokens(self, events: pl.DataFrame, session: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Symbol and first row of every token, and the symbol from which on symbols are workflows."""
        numbers = {command: number for number, command in enumerate(sorted(self.commands()), 1)}
        symbols = encode(events[ITEM_ID], numbers)
        ends = np.flatnonzero((events[session] != events[session].shift()).fill_null(True).to_numpy())
        symbols = np.append(np.insert(symbols, ends, BORDER), np.int32(BORDER))
        rows = np.append(np.insert(np.arange(events.height), ends, -1), -1)
        known: dict[tuple[str, ...], int] = {(command,): number for command, number in numbers.items()}
        for symbol, merge in enumerate(self.merges, len(numbers) + 1):
            parts = [merge.left, merge.right] if merge.left and merge.right else [[c] for c in merge.constituents]
            pattern = [known[tuple(part)] for part in parts]
            known[tuple(merge.constituents)] = symbol
            starts = find_pattern(symbols, pattern)
            if len(starts):
                dropped = replace_pattern(symbols, starts, len(pattern), symbol, self.collapse)
                symbols, rows = np.delete(symbols, dropped), np.delete(rows, dropped)
        return symbols[rows >= 0], rows[rows >= 0], len(numbers) + 1

    def _without_steps(
        self, symbols: np.ndarray, rows: np.ndarray, first_workflow: int, height: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Symbol and first row of every token once tokens that are mere steps have become their commands."""
        steps = first_workflow + np.flatnonzero([merge.step for merge in self.merges])
        split = np.isin(symbols, steps)
        if not split.any():
            return symbols, rows
        lengths = np.diff(np.append(rows, height))
        token = np.repeat(np.arange(len(rows)), lengths)  # of each event
        keep = split[token]
        keep[rows] = True
        # What a split leaves are commands: none of them will merge again, so their symbols no longer matter.
        return np.where(split, BORDER, symbols)[token[keep]], np.flatnonzero(keep)


def _problem(merge: Workflow, names: set[str], known: set[tuple[str, ...]], commands: set[str]) -> str | None:
    """What is wrong with a workflow after those of `names` and `known` (constituents); None if nothing."""
    if merge.name in names:
        return "another workflow has this name; give it one of its own"
    if merge.name in commands:
        return "a command has this name; give the workflow another"
    if tuple(merge.constituents) in known:
        return "another workflow has these constituents; remove one of the two"
    if merge.left is None and merge.right is None:
        return None
    if not merge.left or not merge.right:
        return "left and right are both given (a merge) or both left out (a fixed list)"
    if merge.left + merge.right != merge.constituents:
        return "left and right together are not its constituents"
    for side, part in (("left", merge.left), ("right", merge.right)):
        if len(part) > 1 and tuple(part) not in known:
            return f"{side}: no earlier workflow has the constituents {' + '.join(part)}"
    return None


def _near(command: str, commands: Collection[str]) -> str:
    hint = nearest(command, commands)
    return hint if "did you mean" in hint else ""


def _constituents(items: pl.Series, starts: np.ndarray, composite: np.ndarray) -> pl.Series:
    """The items between `starts` for each token that is composite, else null."""
    token = pl.Series(_TOKEN, np.repeat(np.arange(len(composite)), np.diff(starts)))
    inside = pl.DataFrame([token, items.cast(pl.String).alias(CONSTITUENTS)]).filter(
        pl.Series(np.repeat(composite, np.diff(starts)))
    )
    lists = inside.group_by(_TOKEN, maintain_order=True).agg(CONSTITUENTS)
    every = pl.DataFrame({_TOKEN: pl.Series(np.arange(len(composite)), dtype=token.dtype)})
    return every.join(lists, on=_TOKEN, how="left", maintain_order="left")[CONSTITUENTS]


def encode(items: pl.Series, numbers: dict[str, int]) -> np.ndarray:
    """[n] int32 symbols of `items`; what `numbers` lacks becomes `BORDER`."""
    known, symbols = list(numbers), pl.Series(list(numbers.values()), dtype=pl.Int32)
    coded = items.cast(pl.String).replace_strict(known, symbols, default=BORDER, return_dtype=pl.Int32)
    return coded.fill_null(BORDER).to_numpy().astype(np.int32)


def find_pattern(symbols: np.ndarray, pattern: Sequence[int]) -> np.ndarray:
    """Where `pattern` starts in `symbols` [n]: ascending, from the left, no two overlapping."""
    length = len(pattern)
    starts = np.flatnonzero(symbols[: len(symbols) - length + 1] == pattern[0])
    for offset in range(1, length):
        starts = starts[symbols[starts + offset] == pattern[offset]]
    if len(starts) < 2 or int(np.diff(starts).min()) >= length:
        return starts
    taken, free = [], 0
    for start in starts.tolist():
        if start >= free:
            taken.append(start)
            free = start + length
    return np.array(taken, dtype=np.int64)


def replace_pattern(symbols: np.ndarray, starts: np.ndarray, length: int, new: int, collapse: bool) -> np.ndarray:
    """Write the symbol `new` at `starts`, in place; returns which places to delete, ascending.

    Those are the rest of each pattern and, with `collapse`, every `new` that follows a `new` at once.
    """
    symbols[starts] = new
    dropped = (starts[:, None] + np.arange(1, length)).ravel()
    if collapse:
        again = starts[1:][np.diff(starts) == length]
        dropped = np.sort(np.concatenate([dropped, again])) if len(again) else dropped
    return dropped

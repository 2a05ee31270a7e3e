"""From operations to log rows: the text of every row, its time and its place, with array operations only.

Each operation draws a template (which rows the application writes for it), noise operations are inserted
between the real ones, and CTS chatter fills up to its share. The truth rows are the main rows of the kept
operations.
"""

from dataclasses import dataclass

import numpy as np

from data_processing.simulate_catalogue import END_EVENT, Catalogue
from data_processing.simulate_grammar import AT_ONCE
from data_processing.simulate_messages import ROW, SPELLED, MessageTable
from data_processing.simulate_session import (
    OP_ABORT,
    OP_EVENT,
    OP_MENU,
    OP_REDO,
    OP_REMOVE,
    OP_TOOL,
    OP_UNDO,
    Operations,
)

OP_VIEW, OP_VIEW_TOOL, OP_SELECT, OP_CHATTER = range(7, 11)
# Templates of each operation: (weight, rows). "/2" takes the operation's second command (another event for
# Destroy, the view tool for views). With CTS chatter on, events are also wrapped in labelled CTS rows.
_TEMPLATES: dict[int, list[tuple[float, str]]] = {
    OP_TOOL: [(1, "tool")],
    OP_MENU: [(1, "menu")],
    OP_EVENT: [
        (3, "begin end"),
        (5, "begin destroy/2 end"),
        (1, "begin destroy/2 internal/2 end renamed"),
        (0.05, "begin beta end"),
        (6, "cts_begin begin destroy/2 end cts_end cts_notify"),
    ],
    OP_UNDO: [(2, "menu_undo undo"), (1, "undo"), (0.1, "menu_undo problem undo")],
    OP_REDO: [(2, "menu_redo redo"), (1, "redo")],
    OP_REMOVE: [(1, "remove destroy"), (1, "renamed remove destroy")],
    OP_ABORT: [(1, "begin abort")],
    OP_VIEW: [
        (6, "begin destroy/2 end"),
        (2, "begin end renamed remove destroy"),
        (0.5, "begin end menu_undo undo"),
        (0.3, "begin end menu_undo undo menu_redo redo"),
    ],
    OP_VIEW_TOOL: [
        (2, "tool/2 begin end"),
        (1, "begin tool/2 end"),
        (0.3, "tool/2 begin end menu_undo undo"),
    ],
    OP_SELECT: [(1, "tool")],
    OP_CHATTER: [
        (3, "alert"),
        (1, "document_1 document_2 document_3"),
        (1, "dialog_open document_1 document_2 document_3 dialog_close"),
        (0.3, "beta"),
        (0.3, "problem"),
    ],
}
# Median seconds and log-width of each gap class (see simulate_grammar).
_GAP_MEDIAN = np.array([2.2, 9.0, 55.0, 0.05])
_GAP_WIDTH = np.array([0.6, 0.4, 0.5, 0.2])


class Templates:
    """The templates of `_TEMPLATES` as flat arrays."""

    def __init__(self, with_cts: bool) -> None:
        kinds: list[int] = []
        second: list[bool] = []
        starts: list[int] = []
        lengths: list[int] = []
        mains: list[int] = []
        self.choices: list[tuple[np.ndarray, np.ndarray]] = []
        for operation in range(len(_TEMPLATES)):
            numbers, weights = [], []
            for weight, text in _TEMPLATES[operation]:
                if "cts" in text and not with_cts:
                    continue
                parts = [part.split("/") for part in text.split()]
                numbers.append(len(starts))
                weights.append(weight)
                starts.append(len(kinds))
                lengths.append(len(parts))
                main = [i for i, part in enumerate(parts) if ROW[part[0]] < SPELLED]
                mains.append(main[0] if main else 0)
                kinds += [ROW[part[0]] for part in parts]
                second += [len(part) == 2 for part in parts]
            total = np.cumsum(weights) / np.sum(weights)
            self.choices.append((np.array(numbers), total))
        self.kinds, self.second = np.array(kinds), np.array(second)
        self.starts, self.lengths, self.mains = np.array(starts), np.array(lengths), np.array(mains)


@dataclass(frozen=True)
class Chunk:
    """Rows of a chunk, in the order of their sessions; all arrays ``[R]`` or, for the truth, ``[K]``."""

    code: np.ndarray
    elapsed: np.ndarray  # microseconds since the session's first row
    session: np.ndarray  # position of the session in the chunk
    clean_command: np.ndarray
    clean_row: np.ndarray  # row of the first of a run of equal commands
    merge_count: np.ndarray
    counts: dict[str, int]


@dataclass(frozen=True)
class _Ops:
    kind: np.ndarray
    command: np.ndarray
    second: np.ndarray
    gap: np.ndarray
    keep: np.ndarray
    session: np.ndarray


class Expander:
    """Expands operations to rows for one configuration of noise."""

    def __init__(self, catalogue: Catalogue, table: MessageTable, view: float, chatter: float, cts: float) -> None:
        self.table, self.view, self.chatter, self.cts = table, view, chatter, cts
        self.templates = Templates(with_cts=cts > 0.2)
        commands = catalogue.commands
        self.events = np.array([i for i, c in enumerate(commands) if c.kind == END_EVENT and not c.noise])
        pairs = [(i, catalogue.index.get(f"view tool {i}"), catalogue.index.get(f"view event {i}")) for i in range(99)]
        self.view_events = np.array([e for _, t, e in pairs if e is not None and t is None])
        self.view_tools = np.array([(e, t) for _, t, e in pairs if e is not None and t is not None])
        self.selection = next(t for _, t, e in pairs if t is not None and e is None)

    def expand(self, ops: Operations, rng: np.random.Generator) -> Chunk:
        """Rows and truth of the operations of a chunk."""
        full, planted = self._with_noise(ops, rng)
        templates = self.templates
        template = np.zeros(len(full.kind), dtype=np.int64)
        for operation, (numbers, cumulative) in enumerate(templates.choices):
            mask = full.kind == operation
            template[mask] = numbers[np.searchsorted(cumulative, rng.random(int(mask.sum())), side="right")]
        length = templates.lengths[template]
        chatter = self._chatter(template, length, rng)
        rows_per_op = length + 3 * chatter
        op = np.repeat(np.arange(len(full.kind)), rows_per_op)
        first = np.concatenate(([0], np.cumsum(rows_per_op)[:-1]))
        offset = np.arange(len(op)) - first[op]
        inner = offset - 3 * chatter[op]
        flat = np.where(inner >= 0, templates.starts[template][op] + inner, 0)
        kind = np.where(inner >= 0, templates.kinds[flat], ROW["cts_notify"])
        filler = np.array([ROW["cts_begin_0"], ROW["cts_end_0"], ROW["cts_notify"]])
        kind = np.where(inner >= 0, kind, filler[offset % 3])
        command = np.where(templates.second[flat] & (inner >= 0), full.second[op], full.command[op])
        session = full.session[op]
        languages = np.array(ops.languages)
        spelling = rng.random(len(op))
        variant = np.where(spelling < 0.03, 6, np.where(spelling < 0.05, 7, (spelling * 6).astype(np.int64)))
        code = self.table.codes(kind, languages[session], command, variant)
        elapsed = _elapsed(full, op, offset, session, rng)
        truth = _truth(full, first + 3 * chatter + templates.mains[template])
        return Chunk(code.astype(np.int32), elapsed, session, *truth, planted)

    def _with_noise(self, ops: Operations, rng: np.random.Generator) -> tuple[_Ops, dict[str, int]]:
        count = len(ops.kind)
        starts = np.array([start for _, start in ops.sessions])
        session = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, count)))
        at = np.flatnonzero(rng.random(count) < self.view + self.chatter)
        is_view = rng.random(len(at)) < self.view / max(self.view + self.chatter, 1e-12)
        form = rng.random(len(at))
        kind = np.select([~is_view, form < 0.6, form < 0.8], [OP_CHATTER, OP_VIEW, OP_VIEW_TOOL], OP_SELECT)
        # Zoom is by far the commonest view event.
        which = (rng.random(len(at)) ** 3 * len(self.view_events)).astype(np.int64)
        tool = rng.integers(0, len(self.view_tools), len(at))
        command = np.select(
            [kind == OP_VIEW, kind == OP_VIEW_TOOL],
            [self.view_events[which], self.view_tools[tool, 0]],
            self.selection,
        )
        random_events = self.events[rng.integers(0, len(self.events), count + len(at))]
        second = np.where(kind == OP_VIEW_TOOL, self.view_tools[tool, 1], random_events[count:])
        keep, spared = _spared(ops, at[kind == OP_SELECT])
        full = _Ops(
            np.insert(np.array(ops.kind), at, kind),
            np.insert(np.array(ops.command), at, command),
            np.insert(random_events[:count], at, second),
            np.insert(np.array(ops.gap), at, 0),
            np.insert(keep, at, False),
            np.insert(session, at, session[at]),
        )
        noise = {"view": int(is_view.sum()), "chatter": int((~is_view).sum()), "undo_after_selection": spared}
        return full, ops.planted | noise

    def _chatter(self, template: np.ndarray, length: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Number of CTS triples before each operation, so that CTS rows make up their share of all rows."""
        is_cts = np.isin(self.templates.kinds, [ROW["cts_begin"], ROW["cts_end"], ROW["cts_notify"]])
        per_template = np.add.reduceat(is_cts.astype(np.int64), self.templates.starts)
        total, wrapped = int(length.sum()), int(per_template[template].sum())
        triples = max(0, round((self.cts * total - wrapped) / (3 * (1 - self.cts))))
        return np.bincount(rng.integers(0, len(template), triples), minlength=len(template))


def _spared(ops: Operations, selections: np.ndarray) -> tuple[np.ndarray, int]:
    """Which operations stay: also a Tool or Menu whose undone event the selection tool began, chosen in between.

    `selections`: operations before which the selection tool was chosen. Also returns how many stay for that alone.
    """
    keep = np.array(ops.keep, dtype=bool)
    began, event = np.array(list(ops.begun.items()), dtype=np.int64).reshape(-1, 2).T
    between = np.searchsorted(selections, event, "right") > np.searchsorted(selections, began, "right")
    spared = began[between & ~keep[began]]
    keep[spared] = True
    return keep, len(spared)


def _elapsed(
    full: _Ops, op: np.ndarray, offset: np.ndarray, session: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Microseconds of each row since the first row of its session; rows of one operation may share a time."""
    gap = _GAP_MEDIAN[full.gap] * np.exp(_GAP_WIDTH[full.gap] * rng.standard_normal(len(full.gap)))
    # Some operations come at the very time of the one before: then only the order of the rows tells.
    gap *= rng.random(len(gap)) >= np.where(full.gap == AT_ONCE, 0.5, 0.03)
    instant = rng.random(len(gap)) < 0.3
    small = rng.exponential(900.0, len(op)) * ((rng.random(len(op)) >= 0.2) & ~instant[op])
    step = np.where(offset == 0, gap[op] * 1e6, small).astype(np.int64)
    total = np.cumsum(step)
    begins = np.flatnonzero(np.diff(session, prepend=-1))
    return total - np.repeat(total[begins], np.diff(np.append(begins, len(op))))


def _truth(full: _Ops, main_row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(command, first row, merge count) of the kept operations, runs of equal commands collapsed."""
    kept = np.flatnonzero(full.keep & (full.kind <= OP_EVENT))
    command, session = full.command[kept], full.session[kept]
    new = (np.diff(command, prepend=-1) != 0) | (np.diff(session, prepend=-1) != 0)
    begins = np.flatnonzero(new)
    return command[begins], main_row[kept[begins]], np.diff(np.append(begins, len(kept)))

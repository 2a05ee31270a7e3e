"""Counts of commands and of pairs within a window, part by part (see `data_processing.redundancy`)."""

from typing import Protocol

import numpy as np
import polars as pl

from data_processing.parts import EventsFolder, read_table
from recsys.cleaning.fitting import RedundancyConfig
from recsys.cleaning.redundancy import HIGH, LOW, MICROSECONDS, same_window, session_numbers
from recsys.errors import InputError
from recsys.etl.split import GROUP, SPLIT, SplitResult, group_expression
from recsys.runtime import progress
from recsys.schema import ITEM_ID, SESSION_ID, TIMESTAMP

COUNT_HIGH, COUNT_LOW, COUNT_PAIR = "count_high", "count_low", "count_pair"
SUPPORT, CONFIDENCE, CONFIDENCE_LOW, LIFT = "support", "confidence", "confidence_low", "lift"
AT_ONCE, AT_ONCE_LOW, EXAMPLE = "share_at_once", "share_at_once_low", "example"
_KEY, _COUNT, _FAST, _FIRST, _HOLD = "key", "count", "fast", "first", "hold"
_SHIFT = 1 << 32  # a pair's key: code of high * _SHIFT + code of low
_Z = 1.6449  # one-sided 95 %


class Aligner(Protocol):
    """What replaces messages by labels (`recsys.cleaning.dictionary.Dictionary`)."""

    def apply(self, events: pl.DataFrame) -> pl.DataFrame:
        """The same rows with labels as item_id."""


def wilson_low(count: pl.Expr, total: pl.Expr) -> pl.Expr:
    """Lower end of the 95 % interval (Wilson, one-sided) of the share ``count / total``; null for a total of 0."""
    share, square = count / total, _Z * _Z
    spread = _Z * (share * (1 - share) / total + square / (4 * total * total)).sqrt()
    low = ((share + square / (2 * total) - spread) / (1 + square / total)).clip(lower_bound=0.0)
    return pl.when(total > 0).then(low)


class PairCounter:
    """Counts over the training groups of a folder; parts add up, and pairs are all that memory grows with."""

    def __init__(
        self, folder: EventsFolder, splits: SplitResult, config: RedundancyConfig, aligner: Aligner | None = None
    ) -> None:
        self.folder, self.config, self.aligner = folder, config, aligner
        self.by: str = splits.report["by"]
        self.train = frozenset(splits.assignment.filter(pl.col(SPLIT) == "train")[GROUP].to_list())
        self.assigned = frozenset(splits.assignment[GROUP].to_list())
        self.events = 0  # and windows
        self.whole_seconds = True  # of all times: then 0 s is anything under a second, and "at once" cannot be seen
        self.known: dict[str, int] = {}  # every command of every group -> its code
        self._items = np.zeros(0, dtype=np.int64)  # events of each code
        self._pairs = _summed([])
        self._starts: list[int] = []  # number of the first row of each part

    @property
    def pairs(self) -> int:
        """Different pairs that occurred, those of a command with itself among them."""
        return self._pairs.height

    def count(self) -> None:
        """Read all parts."""
        first = 0
        columns = list(dict.fromkeys([SESSION_ID, ITEM_ID, TIMESTAMP, self.by]))
        for path in progress(self.folder.parts, "pairs", unit="part"):
            part = read_table(path, columns)
            self._starts.append(first)
            self.add(self.aligner.apply(part) if self.aligner else part, first)
            first += part.height

    def add(self, events: pl.DataFrame, first: int) -> None:
        """Count one part, whose first row has the number `first`; sessions do not go on in another part."""
        codes = self._encode(events[ITEM_ID])
        kept = self._training_rows(events)
        codes, time = codes[kept], events[TIMESTAMP].to_numpy()[kept]
        number = session_numbers(events, SESSION_ID)[kept]
        self.events += len(codes)
        self.whole_seconds = self.whole_seconds and bool((time % MICROSECONDS == 0).all())
        self._items += np.bincount(codes, minlength=len(self._items))
        found = [self._pairs]
        for offset in range(1, self.config.rows + 1):
            at = _holding(codes, time, number, offset, self.config.seconds)
            gap = time[at + offset] - time[at]
            windows = pl.DataFrame(
                {
                    _KEY: codes[at] * _SHIFT + codes[at + offset],
                    _FAST: gap <= round(self.config.at_once * MICROSECONDS),
                    _FIRST: kept[at] + first,
                }
            )
            found.append(windows.group_by(_KEY).agg(pl.len().cast(pl.Int64).alias(_COUNT), _sum(_FAST), _min(_FIRST)))
        self._pairs = _summed(found)

    def _encode(self, items: pl.Series) -> np.ndarray:
        """``[N]`` codes, the same in every part."""
        local = items.cast(pl.Categorical).to_physical()
        positions = local.arg_unique()
        for name in items.gather(positions).to_list():
            self.known.setdefault(name, len(self.known))
        distinct = local.gather(positions).to_numpy()
        translate = np.zeros(int(distinct.max()) + 1 if len(distinct) else 0, dtype=np.int64)
        translate[distinct] = [self.known[name] for name in items.gather(positions).to_list()]
        self._items = np.pad(self._items, (0, len(self.known) - len(self._items)))
        return translate[local.to_numpy()]

    def _training_rows(self, events: pl.DataFrame) -> np.ndarray:
        groups = events.select(group_expression(self.by))[GROUP]
        starts = (groups != groups.shift()).fill_null(True)
        names = groups.filter(starts).to_list()
        for name in names:
            if name not in self.assigned:
                raise InputError(f"{self.folder.path}: group '{name}' is not in the splits; give those of these events")
        runs = np.array([name in self.train for name in names], dtype=bool)
        return np.flatnonzero(runs[starts.cum_sum().to_numpy().astype(np.int64) - 1])

    def candidates(self, wanted: list[tuple[str, str]]) -> pl.DataFrame:
        """Pairs worth a look with their measures: confident enough to be shown, or `wanted`. In no order."""
        names = list(self.known)
        codes = pl.DataFrame(
            {_KEY: [self.known[a] * _SHIFT + self.known[b] for a, b in wanted]}, schema={_KEY: pl.Int64}
        )
        pairs = pl.concat([self._pairs, codes.join(self._pairs, on=_KEY, how="anti")], how="diagonal")
        pairs = pairs.with_columns(pl.col(_COUNT, _FAST).fill_null(0))
        high, low = (pairs[_KEY] // _SHIFT).to_numpy(), (pairs[_KEY] % _SHIFT).to_numpy()
        holding = np.bincount(low, weights=pairs[_COUNT].to_numpy(), minlength=len(names))
        table = pairs.with_columns(
            pl.Series(COUNT_HIGH, self._items[high]),
            pl.Series(COUNT_LOW, self._items[low]),
            pl.Series(_HOLD, holding[low]),
        )
        table = table.with_columns(
            (pl.col(_COUNT) / self.events).alias(SUPPORT),
            _share(_COUNT, COUNT_HIGH).alias(CONFIDENCE),
            wilson_low(pl.col(_COUNT), pl.col(COUNT_HIGH)).fill_null(0.0).alias(CONFIDENCE_LOW),
            _share(_FAST, _COUNT).alias(AT_ONCE),
            wilson_low(pl.col(_FAST), pl.col(_COUNT)).fill_null(0.0).alias(AT_ONCE_LOW),
        ).with_columns(pl.when(pl.col(_HOLD) > 0).then(pl.col(CONFIDENCE) * self.events / pl.col(_HOLD)).alias(LIFT))
        # Rarer than min_count, but seen to be fast more than once: a person may know that it is a pair.
        often = (pl.col(COUNT_HIGH) >= self.config.min_count) | (pl.col(_FAST) >= 2)
        other = pl.Series(high != low)
        shown = (other & often & (pl.col(CONFIDENCE) >= self.config.show_confidence)) | pl.col(_KEY).is_in(
            codes[_KEY].to_list()
        )
        table = table.with_columns(
            pl.Series(HIGH, names, dtype=pl.String).gather(high), pl.Series(LOW, names, dtype=pl.String).gather(low)
        ).filter(shown)
        return self._with_examples(table.rename({_COUNT: COUNT_PAIR}).drop(_KEY, _FAST, _HOLD))

    def _with_examples(self, table: pl.DataFrame) -> pl.DataFrame:
        """Session and time of the first occurrence, read from the parts again."""
        wanted = table[_FIRST].drop_nulls().unique().sort().to_numpy()
        owner = np.searchsorted(np.array(self._starts), wanted, side="right") - 1
        found: dict[int, str] = {}
        for part in np.unique(owner).tolist():
            rows = wanted[owner == part]
            read = read_table(self.folder.parts[part], [SESSION_ID, TIMESTAMP])[rows - self._starts[part]]
            when = read[TIMESTAMP].cast(pl.Datetime("us")).dt.to_string("%Y-%m-%d %H:%M:%S%.6f")
            found.update(zip(rows.tolist(), (read[SESSION_ID].cast(pl.String) + " " + when).to_list(), strict=True))
        examples = [found.get(row, "") if row is not None else "" for row in table[_FIRST].to_list()]
        return table.with_columns(pl.Series(EXAMPLE, examples, dtype=pl.String)).drop(_FIRST)


def _holding(codes: np.ndarray, time: np.ndarray, session: np.ndarray, offset: int, seconds: float) -> np.ndarray:
    """Positions whose window holds the command `offset` rows on, there for the first time."""
    at = np.arange(max(0, len(codes) - offset))
    held = same_window(session, time, at, offset, seconds)
    for nearer in range(1, offset):
        held &= codes[at + nearer] != codes[at + offset]
    return at[held]


def _sum(column: str) -> pl.Expr:
    return pl.col(column).sum().cast(pl.Int64)


def _min(column: str) -> pl.Expr:
    return pl.col(column).min()


def _share(count: str, total: str) -> pl.Expr:
    return pl.when(pl.col(total) > 0).then(pl.col(count) / pl.col(total)).otherwise(0.0)


def _summed(tables: list[pl.DataFrame]) -> pl.DataFrame:
    schema = {_KEY: pl.Int64, _COUNT: pl.Int64, _FAST: pl.Int64, _FIRST: pl.Int64}
    rows = pl.concat([pl.DataFrame(schema=schema), *tables])
    return rows.group_by(_KEY).agg(_sum(_COUNT), _sum(_FAST), _min(_FIRST))

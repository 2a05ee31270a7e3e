"""Rules that cut inside sequences: later events of one sequence are validation and test, earlier ones train.

Every event belongs to one split. Validation and test sequences hold their own events and all that the sequence holds
before them as context; `scored_from` tells where their own events begin (at least 1: the first event of a sequence
has no history to be predicted from).

========== ==================================================================================================
rule       events of a sequence of n
========== ==================================================================================================
leave_last test = the last k, validation = the k before them; fewer than 2 k + 1 events: all train. For k = 1
           the leave-one-out of SASRec (Kang and McAuley 2018), short users included
time       train = before one point in time, validation = from there to another, test = after it, the same two
           points for all; a sequence that begins after them has no train part and is "cold"
position   train = the first ``floor((1 - v - t) n)`` (at least one), test = those from ``floor((1 - t) n)`` on,
           for the shares v of validation and t of test (specs/3)
========== ==================================================================================================

A sequence is a user's events over all sessions in time order (equal times: by session, then as given), or one session
(`SplitConfig.by`; without a user, always). The dataset's session_id then names the user, and timestamp_interval runs
over the user's events.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from recsys.config import SplitConfig
from recsys.errors import ConfigError
from recsys.etl.events import to_microseconds
from recsys.etl.split import SPLIT, SPLITS
from recsys.schema import SCORED_FROM, SESSION_ID, TIMESTAMP

_BILLION = 10**9  # shares count in billionths, so that no rounding of a product moves a cut
_BITS = 16  # of a time, looked at in one pass


@dataclass
class SequenceSplit:
    """One of the rules above over prepared parts (whole sequences, sorted by sequence and time).

    Attributes:
        cuts: microseconds since 1970 where validation and test begin (rule time).
        sequences: how many own events of each split, of the parts counted so far (`count`).
        events: how many each split owns.
        undivided: sequences that are train as a whole.
    """

    config: SplitConfig
    by: str
    cuts: tuple[int, int] | None = None
    sequences: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    events: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    undivided: int = 0

    @classmethod
    def fit(cls, config: SplitConfig, by: str, times: Callable[[], Iterable[pl.Series]]) -> "SequenceSplit":
        """Find the points in time where the rule needs them.

        Args:
            config: a configuration with `cuts_sequences`.
            by: what a sequence is, for the report.
            times: gives the timestamps of all events, part by part; called once a pass.

        Raises:
            ConfigError: points in time that cannot be read, or stand in the wrong order.
        """
        if config.rule != "time":
            return cls(config, by)
        if config.validation_from is None or config.test_from is None:
            return cls(config, by, _cuts_by_share(config, times))
        cuts = (_point("validation_from", config.validation_from), _point("test_from", config.test_from))
        if cuts[0] > cuts[1]:
            raise ConfigError(f"split: validation_from ({config.validation_from}) is after test_from")
        return cls(config, by, cuts)

    def mark(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Add the column `split`: which split owns each event."""
        if self.cuts is not None:
            first, second = self.cuts
            in_train, in_validation = pl.col(TIMESTAMP) < first, pl.col(TIMESTAMP) < second
        else:
            count = pl.len().over(SESSION_ID).cast(pl.Int64)
            place = pl.int_range(pl.len()).over(SESSION_ID)
            ends = self._ends(count)
            in_train, in_validation = place < ends[0], place < ends[1]
        names = pl.when(in_train).then(pl.lit(SPLITS[0])).when(in_validation).then(pl.lit(SPLITS[1]))
        return frame.with_columns(names.otherwise(pl.lit(SPLITS[2])).alias(SPLIT))

    def _ends(self, count: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        """How many events of a sequence of `count` are train; how many train or validation."""
        if self.config.rule == "leave_last":
            k = self.config.k
            is_long = count >= 2 * k + 1
            return count - pl.when(is_long).then(2 * k).otherwise(0), count - pl.when(is_long).then(k).otherwise(0)
        test = round(self.config.test_share * _BILLION)
        validation = round(self.config.validation_share * _BILLION)
        train = (count * (_BILLION - test - validation) // _BILLION).clip(lower_bound=1)
        return train, pl.max_horizontal(train, count * (_BILLION - test) // _BILLION)

    def blank(self) -> "SequenceSplit":
        """The same rule, nothing counted."""
        return SequenceSplit(self.config, self.by, self.cuts)

    def add(self, other: "SequenceSplit") -> None:
        """Count what another has counted of other parts."""
        for name in SPLITS:
            self.sequences[name] += other.sequences[name]
            self.events[name] += other.events[name]
        self.undivided += other.undivided

    def count(self, marked: pl.DataFrame) -> None:
        """Count a part for the report; each part once."""
        for name, number in marked.group_by(SPLIT).len().iter_rows():
            self.events[name] += number
        owners = marked.select(SESSION_ID, SPLIT).unique()
        for name, number in owners.group_by(SPLIT).len().iter_rows():
            self.sequences[name] += number
        divided = owners.filter(pl.col(SPLIT) != SPLITS[0])[SESSION_ID].n_unique()
        self.undivided += owners[SESSION_ID].n_unique() - divided

    @staticmethod
    def rows(marked: pl.DataFrame, name: str) -> pl.DataFrame:
        """The events that the sequences of split `name` hold: their own, and those before them as context."""
        own = pl.col(SPLIT) == name
        if name == SPLITS[0]:
            return marked.filter(own)
        before = pl.col(SPLIT).is_in(SPLITS[: SPLITS.index(name)])
        return marked.filter(own.any().over(SESSION_ID) & (own | before))

    @staticmethod
    def scored_from(rows: pl.DataFrame, name: str) -> pl.DataFrame:
        """session_id and `scored_from` (Int32) of the sequences that `rows` gave."""
        context = (pl.col(SPLIT) != name).sum().cast(pl.Int32).clip(lower_bound=1)
        return rows.group_by(SESSION_ID, maintain_order=True).agg(context.alias(SCORED_FROM))

    def report(self) -> dict[str, Any]:
        """Rule, parameters, and what each split owns, as `SplitResult.report` has them for groups."""
        config = self.config
        report: dict[str, Any] = {"by": self.by, "rule": config.rule, "sequence": self.by}
        if config.rule == "leave_last":
            report |= {"k": config.k, "too_short_to_cut": self.undivided}
        else:
            if config.rule == "position" or config.test_from is None:
                report |= {"test_share": config.test_share, "validation_share": config.validation_share}
            if self.cuts is not None:
                report |= dict(zip(("validation_from", "test_from"), map(_iso, self.cuts), strict=True))
        total = max(1, sum(self.events.values()))
        report["groups"] = dict(self.sequences)
        report["events"] = dict(self.events)
        report["share_of_events"] = {name: round(number / total, 6) for name, number in self.events.items()}
        return report


def _iso(microseconds: int) -> str:
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    except OverflowError:
        return str(microseconds)
    return moment.isoformat()


def _point(key: str, text: str) -> int:
    found = to_microseconds(pl.Series([text], dtype=pl.String))[0]
    if found is None:
        form = "ISO 8601 such as 2024-01-31 or 2024-01-31T12:00, or microseconds since 1970 UTC"
        raise ConfigError(f"split.{key}: cannot read '{text}' as a time; expected {form}")
    return int(found)


def _cuts_by_share(config: SplitConfig, times: Callable[[], Iterable[pl.Series]]) -> tuple[int, int]:
    """Where the newest `test_share` of all events begins, and the `validation_share` before it.

    Events at the same time as a cut lie after it, so equal times are never torn apart.
    """
    total = sum(len(part) for part in times())
    tests = round(config.test_share * total)
    ranks = (total - tests - round(config.validation_share * total), total - tests)
    first, second = kth_times(times, ranks)
    return first, second


def kth_times(times: Callable[[], Iterable[pl.Series]], ranks: Sequence[int]) -> list[int]:
    """The values at `ranks` (from 0) of all times in order; for a rank past the end one more than the greatest.

    Each pass over the parts settles 16 bits, so memory does not grow with the number of events.

    Args:
        times: gives the parts (Int64, no nulls) anew at each call.
    """
    parts = (part.to_numpy() for part in times() if len(part))
    ends = [(len(part), int(part.min()), int(part.max())) for part in parts]
    total, least, greatest = sum(e[0] for e in ends), min(e[1] for e in ends), max(e[2] for e in ends)
    found = [(0, rank) for rank in ranks]  # leading bits of the value less `least`, rank among those that share them
    for shift in reversed(range(0, max(1, (greatest - least).bit_length()), _BITS)):
        counts: dict[int, dict[int, int]] = {prefix: {} for prefix, _ in found}
        for part in times():
            for prefix, digit, number in _digits(part, least, shift, list(counts)):
                counts[prefix][digit] = counts[prefix].get(digit, 0) + number
        found = [_descend(counts[prefix], prefix, rank) for prefix, rank in found]
    return [greatest + 1 if rank >= total else least + value for rank, (value, _) in zip(ranks, found, strict=True)]


def _digits(part: pl.Series, least: int, shift: int, wanted: list[int]) -> Iterable[tuple[int, int, int]]:
    """(bits above, 16 bits from `shift`, how often) of the times whose bits above are `wanted`."""
    values = part.to_numpy().astype(np.int64).view(np.uint64) - np.uint64(least % (1 << 64))
    digits = values >> np.uint64(shift)
    above = digits >> np.uint64(_BITS)
    frame = pl.DataFrame({"above": above, "digit": digits & np.uint64((1 << _BITS) - 1)})
    return frame.filter(pl.col("above").is_in(wanted)).group_by("above", "digit").len().iter_rows()


def _descend(counts: dict[int, int], prefix: int, rank: int) -> tuple[int, int]:
    """The next 16 bits of the value at `rank`, and its rank among those that share them."""
    digit = 0
    for digit in sorted(counts):
        if rank < counts[digit]:
            break
        rank -= counts[digit]
    return (prefix << _BITS) | digit, rank

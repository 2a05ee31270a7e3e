"""Raw events of a session to the inputs of a bundle's graphs, and ids back to names.

Needs numpy only and imports nothing of `recsys`, so that this file can be copied beside a model. It gives what the
training data's own transform gives (`recsys.etl.Workflow.transform`, tested), for the newest events that the model
reads. ``transform.json`` of a bundle says which columns there are; `recsys.export.facts` writes it.
"""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
NULL_ID, OOV_ID = 1, 2
TIMESTAMP = "timestamp"
MICROSECONDS = 1_000_000
LATEST_SECOND = 1e11
"""The year 5138: larger numbers were not meant as times."""
EVENT_INPUT, LENGTHS, TIMES, EXCLUDED, K = "inputs.", "lengths", "times", "excluded", "k"
"""Names of the graphs' inputs; ``inputs.<column>`` for each column."""


class RequestError(ValueError):
    """A request cannot be read; one line names the column, the event and what was expected."""


@dataclass(frozen=True)
class Column:
    """One input of the model.

    Attributes:
        name: its name; the graphs call it ``inputs.<name>``.
        kind: `ids` (of text), `clock` (hour or weekday), `bucket` (of a number), `number`.
        source: the column of the request that it is made of; `timestamp_interval` is made of the times.
        once: one value a sequence, and not one an event.
        lists: a value is a list of texts.
        delimiter: between the values of a list that is written as text.
        first_id: id of the first value.
        hash_buckets: ids behind the values', shared by what has no id of its own.
        boundaries: of the buckets.
        log1p, zscore, mean, std, constant: of a number; a missing one becomes the mean.
        least: a smaller number is refused; None: none is.
    """

    name: str
    kind: str
    source: str
    once: bool = False
    lists: bool = False
    delimiter: str | None = None
    first_id: int = 3
    hash_buckets: int = 0
    boundaries: tuple[float, ...] = ()
    log1p: bool = False
    zscore: bool = False
    mean: float = 0.0
    std: float = 1.0
    constant: bool = False
    least: float | None = None


class Transform:
    """Encodes requests and decodes answers.

    A request holds one session: for each name in `raw` a value for every event, in any order of time. Texts are str
    (or UTF-8 bytes, or whole numbers), None where there is none; numbers are None or NaN where there is none; times are
    whole numbers (microseconds since 1970 UTC) or numbers with a fraction (seconds). Columns of one value a session
    may be given as one value. Columns that are not in `raw` are left aside.

    Args:
        facts: what transform.json holds.
        vocabularies: by column, its values in id order.
    """

    def __init__(self, facts: Mapping[str, Any], vocabularies: Mapping[str, Sequence[str]]) -> None:
        self.item: str = facts["item"]
        self.max_length: int = facts["max_length"]
        self.needs_times: bool = facts["needs_times"]
        self.interval: str = facts["interval"]
        self.columns = [Column(**{**c, "boundaries": tuple(c.get("boundaries", ()))}) for c in facts["columns"]]
        self._by_name = {c.name: c for c in self.columns}
        self._ids = {
            name: {value: self._by_name[name].first_id + n for n, value in enumerate(values)}
            for name, values in vocabularies.items()
        }
        first = self._by_name[self.item].first_id
        self.names: list[str | None] = [None] * first + list(vocabularies[self.item])
        """Name of every item id; None for reserved ids."""
        self._zone_starts = np.asarray(facts["zone"]["starts"], dtype=np.int64)
        self._zone_offsets = np.asarray(facts["zone"]["offsets"], dtype=np.int64)

    @classmethod
    def load(cls, folder: Path | str) -> "Transform":
        """Read transform.json and vocabularies/ of a bundle."""
        folder = Path(folder)
        facts = json.loads((folder / "transform.json").read_text(encoding="utf-8"))
        files: dict[str, str] = facts["vocabularies"]
        return cls(facts, {n: json.loads((folder / f).read_text(encoding="utf-8")) for n, f in files.items()})

    @property
    def raw(self) -> dict[str, str]:
        """Columns that a request must hold, and what each is: `time`, `text`, `texts` (a list an event), `number`."""
        found = {TIMESTAMP: "time"}
        for column in self.columns:
            if column.kind == "ids":
                found[column.source] = "texts" if column.lists else "text"
            elif column.source not in (TIMESTAMP, self.interval):
                found.setdefault(column.source, "number")
        return found

    def encode(self, request: Mapping[str, Any], *, remove_seen: bool = False) -> dict[str, Array]:
        """One session as the graphs read it, without the dimension of the batch (`collate` adds it).

        Returns:
            ``inputs.<column>`` int64 or float32 ``[T]`` (``[]`` where it has one value a session, ``[T, L]`` for
            lists), ``lengths`` int64 ``[]``, ``excluded`` int64 ``[S]`` (the items of the whole history with
            `remove_seen`, else one 0), and ``times`` int64 ``[T]`` where the model reads them. T is at most
            `max_length`: the newest events.

        Raises:
            RequestError: no event, a column is missing, of another length, or holds a value that is none.
        """
        times, order = self._in_time_order(request)
        events = len(times)
        kept = slice(max(0, events - self.max_length), events)
        encoded: dict[str, Array] = {}
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 a number is infinite; sums of such are NaN
            for column in self.columns:
                encoded[EVENT_INPUT + column.name] = self._column(column, request, times, order, kept)
        encoded[LENGTHS] = np.asarray(events - kept.start, dtype=np.int64)
        encoded[EXCLUDED] = np.zeros(1, dtype=np.int64)
        if remove_seen:
            item = self._by_name[self.item]
            encoded[EXCLUDED] = np.unique(self._texts(item, self._given(item.source, request, events)))
        if self.needs_times:
            encoded[TIMES] = times[kept]
        return encoded

    def encode_all(self, requests: Sequence[Mapping[str, Any]], remove_seen: Sequence[bool]) -> list[dict[str, Array]]:
        """`encode` of each session with its `remove_seen`; of several, an error names the session that is wrong."""
        encoded = []
        for n, (request, seen) in enumerate(zip(requests, remove_seen, strict=True)):
            try:
                encoded.append(self.encode(request, remove_seen=seen))
            except RequestError as error:
                if len(requests) == 1:
                    raise
                raise RequestError(f"session {n + 1}: {error}") from error
        return encoded

    def collate(self, sessions: Sequence[Mapping[str, Array]], k: int | Sequence[int]) -> dict[str, Array]:
        """What `encode` gave for B sessions as one batch, padded on the right.

        Args:
            sessions: at least one.
            k: how many items are wanted, of all sessions or of each.

        Returns:
            ``[B, T]`` (``[B]`` for one value a session, ``[B, T, L]`` for lists), ``lengths`` ``[B]``, ``excluded``
            ``[B, S]``, ``k`` int64 ``[B]``, ``times`` ``[B, T]``, padded with each last time.
        """
        if not sessions:
            raise RequestError("no session in the request")
        batch = {name: _padded([s[name] for s in sessions], name == TIMES) for name in sessions[0]}
        wanted = [k] * len(sessions) if not isinstance(k, Sequence | np.ndarray) or isinstance(k, str) else list(k)
        if len(wanted) != len(sessions):
            raise RequestError(f"{len(wanted)} numbers k for {len(sessions)} sessions; give one, or one a session")
        for number in wanted:
            if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
                raise RequestError(f"k ({_shown(number)}) must be a whole number of at least 1")
        batch[K] = np.array([min(int(number), len(self.names)) for number in wanted], dtype=np.int64)
        return batch

    def decode(self, ids: Array, *values: Array) -> list[tuple[list[Any], ...]]:
        """Ids ``[B, K]``, -1 behind the last, to each row's names and the values ``[B, K]`` (scores) beside them."""
        rows = []
        for row, *beside in zip(ids.tolist(), *(v.tolist() for v in values), strict=True):
            names = [str(self.names[i]) for i in row if i >= 0]
            rows.append((names, *(v[: len(names)] for v in beside)))
        return rows

    def _in_time_order(self, request: Mapping[str, Any]) -> tuple[Array, Array | None]:
        """Times ``[n]`` in order, and each event's place in the request; None where the order is that."""
        if not isinstance(request, Mapping):
            raise RequestError(f"a request is {_shown(request)}; it holds columns: {', '.join(self.raw)}")
        if TIMESTAMP not in request:
            raise RequestError(f"column '{TIMESTAMP}' is missing; a request holds {', '.join(self.raw)}")
        times = _times(request[TIMESTAMP])
        if not len(times):
            raise RequestError("the history is empty; give at least one event")
        if (plain := times.tolist()) == sorted(plain):
            return times, None
        order = np.argsort(times, kind="stable")
        return times[order], order

    def _given(self, name: str, request: Mapping[str, Any], events: int, once: bool = False) -> Sequence[Any]:
        """The column's values for all events, as they were given."""
        if name not in request:
            raise RequestError(f"column '{name}' is missing; a request holds {', '.join(self.raw)}")
        values = request[name]
        if once and (values is None or isinstance(values, str | bytes | int | float)):
            return [values] * events
        if isinstance(values, str | bytes) or not isinstance(values, Sequence | np.ndarray):
            raise RequestError(f"column '{name}' is {_shown(values)}; expected a value for each of {events} events")
        if getattr(values, "ndim", 1) != 1 or len(values) != events:
            size = list(values.shape) if hasattr(values, "shape") else len(values)
            raise RequestError(f"column '{name}' holds {size} values, '{TIMESTAMP}' {events}; give one an event")
        found: Any = values
        return found

    def _column(
        self, column: Column, request: Mapping[str, Any], times: Array, order: Array | None, kept: slice
    ) -> Array:
        if column.kind == "clock":
            return self._clock(column, times[kept])
        if column.source == self.interval:
            gaps = np.zeros(len(times))
            np.subtract(times[1:], times[:-1], out=gaps[1:])
            return _scaled(column, gaps[kept] / MICROSECONDS)
        values = self._given(column.source, request, len(times), column.once)
        if column.kind != "ids":
            numbers = _numbers(column.source, values)
            ordered = numbers if order is None else numbers[order]
            _check_numbers(column, numbers)
            return _once(column, _scaled(column, ordered[kept]))
        places = range(kept.start, kept.stop) if order is None else order[kept].tolist()
        chosen = list(values)[kept] if order is None else [values[p] for p in places]
        if column.lists:
            return self._bags(column, chosen, places)
        return _once(column, self._texts(column, chosen, places))

    def _texts(self, column: Column, values: Sequence[Any], places: Sequence[int] | None = None) -> Array:
        """Ids of texts; null 1, unknown 2 or a hash bucket. places: of the values in the request, for messages."""
        known = self._ids[column.name]
        found = [known.get(value) if type(value) is str else None for value in values]
        for n, number in enumerate(found):
            if number is None:
                found[n] = self._id_of(column, values[n], n if places is None else places[n])
        return np.array(found, dtype=np.int64)

    def _id_of(self, column: Column, value: Any, at: int) -> int:
        """Id of a value, also of one that is no known text."""
        if value is None:
            return NULL_ID
        text = value if isinstance(value, str) else _text(column, value, at)
        number = self._ids[column.name].get(text)
        if number is not None:
            return number
        if not column.hash_buckets:
            return OOV_ID
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"column '{column.source}': {text!r} is no valid text") from error
        return column.first_id + len(self._ids[column.name]) + zlib.crc32(data) % column.hash_buckets

    def _bags(self, column: Column, values: Sequence[Any], places: Sequence[int]) -> Array:
        """Ids ``[T, L]`` of lists, filled up with 0; a missing list is one missing value."""
        lists = [self._texts(column, _list(column, value, p)) for value, p in zip(values, places, strict=True)]
        bags = np.zeros((len(lists), max(1, *map(len, lists))), dtype=np.int64)
        for n, ids in enumerate(lists):
            bags[n, : len(ids)] = ids
        return bags

    def _clock(self, column: Column, times: Array) -> Array:
        offsets = self._zone_offsets[np.searchsorted(self._zone_starts, times, side="right")]
        local = times + offsets * MICROSECONDS
        hours = local // (3600 * MICROSECONDS)
        number = hours % 24 if column.name == "hour" else (hours // 24 + 3) % 7  # 1970 began on a Thursday
        return np.asarray(number + column.first_id)


def _times(values: Any) -> Array:
    """Microseconds int64 ``[n]``."""
    try:
        given = np.asarray(values)
    except (ValueError, TypeError, OverflowError):
        raise RequestError(f"column '{TIMESTAMP}' is {_shown(values)}; expected one time an event") from None
    if given.ndim != 1:
        raise RequestError(f"column '{TIMESTAMP}' has shape {list(given.shape)}; expected one time an event")
    plain, whole = given.tolist(), given.dtype.kind in "iu"
    if not plain:
        return np.zeros(0, dtype=np.int64)
    if given.dtype.kind in "iuf":
        limit = LATEST_SECOND * (MICROSECONDS if whole else 1)
        if -limit < min(plain) <= max(plain) < limit and (whole or not any(map(math.isnan, plain))):
            times = given if whole else np.round(given.astype(np.float64) * MICROSECONDS)
            return times.astype(np.int64)
        at = next(n for n, value in enumerate(plain) if not abs(value) < limit)
    else:
        at = next((n for n, value in enumerate(values) if type(value) not in (int, float)), 0)
    form = "microseconds since 1970 as a whole number, or seconds with a fraction"
    raise RequestError(f"column '{TIMESTAMP}', event {at + 1}: {_shown(values[at])}; expected {form}")


def _numbers(name: str, values: Sequence[Any]) -> Array:
    """Float64 ``[n]``; NaN where there is none."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        return values.astype(np.float64)
    found = np.empty(len(values), dtype=np.float64)
    for n, value in enumerate(values):
        if value is None:
            found[n] = np.nan
        elif isinstance(value, int | float | np.number) and not isinstance(value, bool):
            try:
                found[n] = float(value)
            except OverflowError:
                found[n] = np.inf
        else:
            raise RequestError(f"column '{name}', event {n + 1}: {_shown(value)}; expected a number")
    return found


def _check_numbers(column: Column, numbers: Array) -> None:
    low = numbers.min()
    if (low > -1 or not column.log1p) and (column.least is None or low >= column.least):
        return
    for at, number in enumerate(numbers.tolist()):
        has_none = column.log1p and -math.inf < number <= -1
        if has_none or (column.least is not None and number < column.least):
            reason = " has no log1p; expected above -1" if has_none else f"; expected {column.least:g} or more"
            raise RequestError(f"column '{column.source}', event {at + 1}: {number:g}{reason}")


def _scaled(column: Column, numbers: Array) -> Array:
    """Numbers as the model reads them: float32, or ids of their buckets."""
    known = None if math.isfinite(numbers.sum()) else np.isfinite(numbers)  # None: all of them
    safe = numbers if known is None else np.where(known, numbers, 0.0)
    if column.kind == "bucket":
        ids = np.searchsorted(np.asarray(column.boundaries), safe, side="right") + column.first_id
        buckets: Array = ids if known is None else np.where(known, ids, NULL_ID)
        return buckets.astype(np.int64)
    value = np.log1p(safe) if column.log1p else safe
    if known is not None:
        value = np.where(known, value, column.mean)
    if column.zscore:
        value = np.zeros_like(value) if column.constant else (value - column.mean) / column.std
    return np.asarray(value, dtype=np.float32)


def _once(column: Column, values: Array) -> Array:
    """A column of one value a sequence as that value."""
    if not column.once:
        return values
    if len(values) and bool((values != values[0]).any()):
        raise RequestError(f"column '{column.source}' changes within the session; it has one value a session")
    return np.asarray(values[-1])


def _text(column: Column, value: Any, at: int) -> str:
    """Text of a value that is no str."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise RequestError(f"column '{column.source}', event {at + 1}: not UTF-8 text") from None
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(value)
    raise RequestError(f"column '{column.source}', event {at + 1}: {_shown(value)}; expected text")


def _list(column: Column, value: Any, at: int) -> Sequence[Any]:
    """The values of a list, which may be written as text."""
    if value is None:
        return [None]
    if isinstance(value, str | bytes) and column.delimiter is not None:
        text = value if isinstance(value, str) else _text(column, value, at)
        return [part or None for part in text.split(column.delimiter)] if text else []
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray):
        raise RequestError(f"column '{column.source}', event {at + 1}: {_shown(value)}; expected a list of texts")
    return list(value)


def _padded(parts: Sequence[Array], repeat: bool) -> Array:
    """Arrays of one number of dimensions as one, filled up with 0 (or each with its last value)."""
    if len(parts) == 1:
        return parts[0][None]
    if parts[0].ndim == 0:
        return np.stack(parts)
    shape = tuple(max(p.shape[d] for p in parts) for d in range(parts[0].ndim))
    batch = np.zeros((len(parts), *shape), dtype=parts[0].dtype)
    for n, part in enumerate(parts):
        room: Any = (n, *(slice(size) for size in part.shape))
        batch[room] = part
        if repeat:
            batch[n, len(part) :] = part[-1]
    return batch


def _shown(value: Any) -> str:
    """A value in a message, short."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."

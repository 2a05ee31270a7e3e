"""Sessions and answers as tensors of the KServe v2 protocol, both ways; `recsys.serving.kserve` has its bodies.

Needs numpy and the standard library only and imports nothing of `recsys`, so that this file can be copied beside a
model. One row a session, its history padded on the right; docs/serving.md has the table of tensors.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
KINDS = {"time": "INT64", "text": "BYTES", "texts": "BYTES", "number": "FP64"}
TIMESTAMP, LENGTHS, K, REMOVE_SEEN = "timestamp", "lengths", "k", "remove_seen"
CONTROLS = {LENGTHS: "INT32", K: "INT32", REMOVE_SEEN: "BOOL"}
ITEMS, SCORES, PROBABILITIES = "items", "scores", "probabilities"
OUTPUTS = {ITEMS: "BYTES", SCORES: "FP32", PROBABILITIES: "FP32"}
DTYPES = {"BOOL": "|b1", "INT32": "<i4", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8", "BYTES": "|O"}
TYPES = {name: np.dtype(code) for name, code in DTYPES.items()}
DATATYPES = {dtype: name for name, dtype in TYPES.items()}
MOST_VALUES = 1 << 18
"""Of a column of lists in a request as the model reads it; see `check_lists`."""
_LATEST_SECOND, _MICROSECONDS = 1e11, 1_000_000


class WireError(ValueError):
    """A message is not of the protocol, or not of this model; one line that can be shown to whoever sent it."""


@dataclass(frozen=True)
class Field:
    """A column of a request: its name, its kind (a key of `KINDS`), and whether a session has one value of it."""

    name: str
    kind: str
    once: bool = False


def fields_of(raw: Mapping[str, str], once: Iterable[str]) -> list[Field]:
    """Fields of a bundle: `raw` of its Transform, and the sources of its columns of one value a session."""
    single = set(once)
    return [Field(name, kind, name in single) for name, kind in raw.items()]


def signature(fields: Sequence[Field]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Inputs and outputs as a model's metadata lists them."""
    inputs = [{"name": f.name, "datatype": KINDS[f.kind], "shape": [-1, 1 if f.once else -1]} for f in fields]
    inputs += [{"name": name, "datatype": kind, "shape": [-1, 1]} for name, kind in CONTROLS.items()]
    return inputs, [{"name": name, "datatype": kind, "shape": [-1, -1]} for name, kind in OUTPUTS.items()]


def fields_of_metadata(metadata: Mapping[str, Any]) -> list[Field]:
    """Fields of a model from its metadata; columns of lists count as `text`, since both are BYTES."""
    kinds = {KINDS[kind]: kind for kind in ("time", "text", "number")}
    try:
        given = [i for i in metadata["inputs"] if i["name"] not in CONTROLS]
        found = [Field(i["name"], kinds[i["datatype"]], i["shape"][-1] == 1) for i in given]
        outputs = {o["name"]: o["datatype"] for o in metadata["outputs"]}
    except (KeyError, TypeError, IndexError, AttributeError):
        raise WireError("the model's metadata cannot be read; is it one that `recsys` serves?") from None
    if TIMESTAMP not in [f.name for f in found] or not OUTPUTS.items() <= outputs.items():
        raise WireError("the model takes other inputs or gives other outputs than those that `recsys` serves")
    return found


# Sessions to tensors (a client).


def to_tensors(
    fields: Sequence[Field], sessions: Sequence[Mapping[str, Any]], k: int, remove_seen: bool = False
) -> dict[str, Array]:
    """Tensors of sessions, each with a value an event for every field (see `recsys.serving.transform.Transform`).

    Raises:
        WireError: a column is missing or of another length, or a value is none of its kind.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k < 2**31:
        raise WireError(f"k ({shown(k)}) must be a whole number of at least 1")
    lengths = [_length(session, fields) for session in sessions]
    rows, longest = len(sessions), max(lengths, default=0)
    tensors: dict[str, Array] = {}
    for column in fields:
        parts = [_values(column, session[column.name], n) for session, n in zip(sessions, lengths, strict=True)]
        tensors[column.name] = _side_by_side(column, parts, 1 if column.once else longest)
    tensors[LENGTHS] = np.array(lengths, dtype=np.int32).reshape(rows, 1)
    tensors[K] = np.full((rows, 1), k, dtype=np.int32)
    if remove_seen:
        tensors[REMOVE_SEEN] = np.ones((rows, 1), dtype=np.bool_)
    return tensors


def _side_by_side(column: Field, parts: Sequence[Any], width: int) -> Array:
    """The values of each session as a row ``[B, width]``, filled up on the right."""
    dtype = TYPES[KINDS[column.kind]]
    if all(len(part) == width for part in parts):
        return np.array(parts, dtype=dtype).reshape(len(parts), width)
    filler = {"time": 0, "number": math.nan}.get(column.kind, b"")
    tensor = np.full((len(parts), width), filler, dtype=dtype)
    for n, part in enumerate(parts):
        tensor[n, : len(part)] = part
    return tensor


def _length(session: Mapping[str, Any], fields: Sequence[Field]) -> int:
    """Events of a session that has every column."""
    if not isinstance(session, Mapping):
        raise WireError(f"a history is {shown(session)}; it holds columns: {', '.join(f.name for f in fields)}")
    for column in fields:
        if column.name not in session:
            raise WireError(f"column '{column.name}' is missing; a history holds {', '.join(f.name for f in fields)}")
    times = session[TIMESTAMP]
    if not _is_list(times):
        raise WireError(f"column '{TIMESTAMP}' is {shown(times)}; expected one time an event")
    if not len(times):
        raise WireError("the history is empty; give at least one event")
    return len(times)


def _values(column: Field, values: Any, events: int) -> Any:
    """A column of one session, ready to stand in its tensor."""
    if column.once and not _is_list(values):
        values = [values]
    elif not _is_list(values) or len(values) != events:
        size = f"{len(values)} values" if _is_list(values) else shown(values)
        raise WireError(f"column '{column.name}' holds {size}, '{TIMESTAMP}' {events}; give one an event")
    if column.kind == "time":
        return _times(values)
    found: list[Any] | Array | None = _plain(column, values)
    if found is None:
        cell = _number if column.kind == "number" else _cell
        found = [cell(column, value, n) for n, value in enumerate(values)]
    if not column.once:
        return found
    if len({"nan" if value != value else value for value in found}) > 1:
        raise WireError(f"column '{column.name}' changes within the session; it has one value a session")
    return found[-1:]


def _times(values: Any) -> Array:
    """Microseconds of whole numbers (microseconds) or of numbers with a fraction (seconds)."""
    try:
        given = np.asarray(values)
    except (ValueError, TypeError, OverflowError):
        given = np.asarray(None)
    if given.ndim == 1 and given.dtype.kind in "iuf":
        whole = given.dtype.kind in "iu"
        limit = _LATEST_SECOND * (_MICROSECONDS if whole else 1)
        plain = given.tolist()
        if -limit < min(plain) <= max(plain) < limit and (whole or not any(map(math.isnan, plain))):
            return given.astype(np.int64) if whole else np.round(given.astype(np.float64) * _MICROSECONDS)
        at = next(n for n, value in enumerate(plain) if not abs(value) < limit)
    else:
        at = next((n for n, value in enumerate(values) if type(value) not in (int, float)), 0)
    form = "microseconds since 1970 as a whole number, or seconds with a fraction"
    raise WireError(f"column '{TIMESTAMP}', event {at + 1}: {shown(values[at])}; expected {form}")


def _plain(column: Field, values: Any) -> list[Any] | Array | None:
    """Values of the one type that most columns hold, read at once; None where each has to be looked at."""
    kinds = set(map(type, values))
    try:
        if column.kind == "number" and kinds <= {int, float}:
            return np.array(values, dtype=np.float64)
        if column.kind == "text" and kinds <= {str}:
            return [value.encode() for value in values]
    except (UnicodeError, OverflowError):
        pass  # looked at one by one, the value is found and named
    return None


def _number(column: Field, value: Any, at: int) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise WireError(f"column '{column.name}', event {at + 1}: {shown(value)}; expected a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _cell(column: Field, value: Any, at: int) -> bytes:
    """A text, or a list of texts as JSON; what is missing is empty."""
    try:
        if value is None or isinstance(value, bytes):
            return value or b""
        if column.kind == "texts" or _is_list(value):
            parts = value if isinstance(value, str) else [p.decode() if isinstance(p, bytes) else p for p in value]
            return json.dumps(parts, ensure_ascii=False).encode()
        if isinstance(value, str | int | np.integer) and not isinstance(value, bool):
            return str(value).encode()
    except (UnicodeError, TypeError):
        pass
    raise WireError(f"column '{column.name}', event {at + 1}: {shown(value)}; expected text in UTF-8")


# Tensors to sessions (a server).


def from_tensors(
    fields: Sequence[Field], tensors: Mapping[str, Array]
) -> tuple[list[dict[str, Any]], list[int], list[bool]]:
    """Sessions as `Transform.encode` reads them, and for each its k and whether seen items are left out.

    Raises:
        WireError: an input is missing, unknown, or of another datatype or shape.
    """
    rows = _check_inputs(fields, tensors)
    lengths, wanted = tensors[LENGTHS][:, 0].tolist(), tensors[K][:, 0].tolist()
    seen = tensors[REMOVE_SEEN][:, 0].tolist() if REMOVE_SEEN in tensors else [False] * rows
    events = tensors[TIMESTAMP].shape[1]
    for n, length in enumerate(lengths):
        if not 0 <= length <= events:
            raise WireError(f"input '{LENGTHS}', session {n + 1}: {length}; expected 0 to {events}, the events given")
    sessions: list[dict[str, Any]] = [{} for _ in range(rows)]
    for column in fields:
        tensor = tensors[column.name]
        for n, session in enumerate(sessions):
            values: Any = tensor[n, : 1 if column.once else lengths[n]]
            if KINDS[column.kind] == "BYTES":
                values = _read_cells(column, values, f"input '{column.name}', session {n + 1}")
            session[column.name] = values if not column.once else [values[0]] * lengths[n]
    return sessions, wanted, seen


def check_lists(
    fields: Sequence[Field], sessions: Sequence[Mapping[str, Any]], max_length: int, most: int = MOST_VALUES
) -> None:
    """Refuse lists of which the model would read too many values.

    It reads lists as one array [sessions, events, longest list], so one long list makes all of it large.

    Raises:
        WireError: a column would become more than `most` values.
    """
    events = min(max(len(session[TIMESTAMP]) for session in sessions), max_length)
    for column in fields:
        if column.kind != "texts":
            continue
        longest = max((_width(value) for session in sessions for value in session[column.name]), default=1)
        if len(sessions) * events * longest > most:
            raise WireError(
                f"the longest list of '{column.name}' holds {longest:,} values; with {events:,} events of "
                f"{len(sessions):,} sessions beside it that is above {most:,}; send shorter lists"
            )


def _width(value: Any) -> int:
    """Values of a list, or at most how many a text with a delimiter holds."""
    return len(value) + isinstance(value, str) if value else 1


def _check_inputs(fields: Sequence[Field], tensors: Mapping[str, Array]) -> int:
    """Names, datatypes and shapes; returns the sessions."""
    times = tensors.get(TIMESTAMP)
    if times is None or times.ndim != 2 or not len(times) or not _are_right(fields, tensors, times.shape):
        _refuse_inputs(fields, tensors)
    return len(tensors[TIMESTAMP])


def _are_right(fields: Sequence[Field], tensors: Mapping[str, Array], shape: tuple[int, ...]) -> bool:
    """Whether all inputs are there, and no others, with their datatypes and shapes; `shape` is that of one an event."""
    single = (shape[0], 1)
    expected = [(f.name, KINDS[f.kind], single if f.once else shape) for f in fields]
    expected += [(name, kind, single) for name, kind in CONTROLS.items() if name in tensors or name != REMOVE_SEEN]
    for name, kind, wanted in expected:
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype != TYPES[kind] or tensor.shape != wanted:
            return False
    return len(tensors) == len(expected)


def _refuse_inputs(fields: Sequence[Field], tensors: Mapping[str, Array]) -> None:
    """Say what is wrong with the first that is."""
    expected = {f.name: KINDS[f.kind] for f in fields} | CONTROLS
    for name in tensors:
        if name not in expected:
            raise WireError(f"input {shown(name)} is unknown; the model reads {', '.join(expected)}")
    for name in expected:
        if name not in tensors and name != REMOVE_SEEN:
            raise WireError(f"input '{name}' is missing; the model reads {', '.join(expected)}")
    rows, events = _sizes(tensors[TIMESTAMP], TIMESTAMP)
    once = {f.name for f in fields if f.once} | set(CONTROLS)
    for name, tensor in tensors.items():
        found = DATATYPES.get(tensor.dtype, str(tensor.dtype))
        if found != expected[name]:
            raise WireError(f"input '{name}' has datatype {found}; expected {expected[name]}")
        wanted = (rows, 1 if name in once else events)
        if _sizes(tensor, name) != wanted:
            raise WireError(f"input '{name}' has shape {list(tensor.shape)}; expected {list(wanted)}")
    raise WireError("no session in the request")


def _sizes(tensor: Array, name: str) -> tuple[int, int]:
    if tensor.ndim != 2:
        raise WireError(f"input '{name}' has shape {list(tensor.shape)}; expected 2 numbers: sessions, events")
    return tensor.shape[0], tensor.shape[1]


def _read_cells(column: Field, values: Array, where: str) -> list[Any]:
    if column.kind == "text":
        try:
            return [value.decode() or None for value in values.tolist()]
        except UnicodeDecodeError:
            pass  # looked at one by one, the value is found and named
    return [_read_cell(column, value, where, at) for at, value in enumerate(values)]


def _read_cell(column: Field, value: Any, where: str, at: int) -> Any:
    """A text, or the list of texts that stands in it; None where it is empty."""
    if not value:
        return None
    try:
        text = value.decode("utf-8")
        if column.kind == "text":
            return text
        found = json.loads(text)
    except UnicodeDecodeError:
        raise WireError(f"{where}, event {at + 1}: not UTF-8 text") from None
    except (ValueError, RecursionError):
        found = 0
    if found is None or isinstance(found, str):
        return found
    if isinstance(found, list) and all(part is None or isinstance(part, str) for part in found):
        return found
    raise WireError(f"{where}, event {at + 1}: {shown(value)}; expected a JSON list of texts")


# Answers.


def answer_tensors(answers: Sequence[Any], wanted: Sequence[int]) -> dict[str, Array]:
    """Outputs ``[B, K]``, K the largest of `wanted`, of answers with `items`, `scores` and `probabilities`."""
    most = max(wanted)
    missing = [most - len(answer.items) for answer in answers]
    each = list(zip(answers, missing, strict=True))
    items = [[*(name.encode() for name in answer.items), *[b""] * left] for answer, left in each]
    scores = [[*answer.scores, *[-math.inf] * left] for answer, left in each]
    shares = [[*answer.probabilities, *[0.0] * left] for answer, left in each]
    return {
        name: np.array(rows, dtype=TYPES[OUTPUTS[name]]).reshape(len(answers), most)
        for name, rows in ((ITEMS, items), (SCORES, scores), (PROBABILITIES, shares))
    }


def read_answers(tensors: Mapping[str, Array], rows: int) -> list[tuple[list[str], list[float], list[float]]]:
    """Items, scores and probabilities of each row, without what fills it up."""
    for name, kind in OUTPUTS.items():
        tensor = tensors.get(name)
        if tensor is None or DATATYPES.get(tensor.dtype) != kind or tensor.ndim != 2 or len(tensor) != rows:
            raise WireError(f"the answer has no output '{name}' of {kind} for {rows} sessions")
    found = []
    for items, scores, shares in zip(*(tensors[name].tolist() for name in OUTPUTS), strict=True):
        count = sum(map(math.isfinite, scores))
        found.append(([_text(value) for value in items[:count]], scores[:count], shares[:count]))
    return found


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise WireError("the answer holds an item that is no UTF-8 text") from None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)


def shown(value: Any) -> str:
    """A value in a message, short."""
    text = ascii(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Bodies of the KServe v2 protocol over HTTP: JSON, and the extension for binary tensors. Needs numpy only.

Tensors are arrays of the datatypes in `recsys.serving.wire.DTYPES`; BYTES are arrays of bytes objects. JSON has no NaN
and no infinity: they are written as null, and null is read as NaN.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recsys.serving.wire import DATATYPES, DTYPES, TYPES, Array, WireError, shown

HEADER = "Inference-Header-Content-Length"
"""HTTP header: bytes of JSON in front of the binary tensors."""
Side = Literal["inputs", "outputs"]
_SIZE = struct.Struct("<I")
_FLOATS, _WHOLE = ("FP32", "FP64"), ("INT32", "INT64")
_MOST_DIMENSIONS = 2


@dataclass(frozen=True)
class Message:
    """What a body holds: tensors by name, its id, and which outputs it asks for (None: all), True for binary."""

    tensors: dict[str, Array]
    id: str | None = None
    outputs: dict[str, bool] | None = None
    binary: bool = False


def dump(
    side: Side,
    tensors: Mapping[str, Array],
    binary: bool | Mapping[str, bool],
    head: Mapping[str, Any] | None = None,
) -> tuple[bytes, int | None]:
    """A body, and the value of `HEADER` (None where all of it is JSON).

    Args:
        side: `inputs` of a request, or `outputs` of an answer.
        tensors: by name.
        binary: whether tensors stand behind the JSON, of all or by name.
        head: other members of the JSON object.
    """
    listed, chunks = [], []
    for name, tensor in tensors.items():
        datatype = DATATYPES[tensor.dtype]
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(tensor.shape)}
        if binary if isinstance(binary, bool) else binary.get(name, False):
            chunks.append(write_tensor(tensor, datatype))
            entry["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            entry["data"] = _to_json(tensor, datatype)
        listed.append(entry)
    text = json.dumps({**(head or {}), side: listed}, ensure_ascii=False, allow_nan=False).encode()
    return b"".join([text, *chunks]), len(text) if chunks else None


def load(side: Side, body: bytes, header_length: str | None = None) -> Message:
    """Read a body.

    Args:
        side: `inputs` of a request, or `outputs` of an answer.
        body: all of it.
        header_length: what `HEADER` says; None: the body is JSON.

    Raises:
        WireError: it is not of the protocol.
    """
    size = len(body)
    if header_length is not None:
        # int() would take signs, blanks and digits of other scripts.
        size = int(header_length) if header_length.isascii() and header_length.isdigit() else -1
        if not 0 < size <= len(body):
            raise WireError(
                f"header {HEADER}: {shown(header_length[:40])}; expected a number up to {len(body)}, the body"
            )
    try:
        head = json.loads(body[:size].decode("utf-8"))
    except (ValueError, RecursionError):
        raise WireError("the body is no JSON in UTF-8") from None
    if not isinstance(head, dict) or not isinstance(head.get(side), list):
        raise WireError(f"the body is no JSON object with a list '{side}'")
    tensors: dict[str, Array] = {}
    at, view = size, memoryview(body)
    for entry in head[side]:
        name, datatype, shape = read_entry(entry, side)
        if name in tensors:
            raise WireError(f"tensor {shown(name)} is given twice")
        binary = _parameters(entry, name).get("binary_data_size")
        if binary is None:
            tensors[name] = _from_json(entry.get("data"), name, datatype, shape)
            continue
        if isinstance(binary, bool) or not isinstance(binary, int) or not 0 <= binary <= len(body) - at:
            raise WireError(f"tensor '{name}': binary_data_size is {shown(binary)}; {len(body) - at} bytes are left")
        tensors[name] = read_tensor(view[at : at + binary], name, datatype, shape)
        at += binary
    if at != len(body):
        raise WireError(f"{len(body) - at} bytes stand behind the last tensor")
    return Message(tensors, *_wishes(head))


def read_entry(entry: Any, side: str) -> tuple[str, str, tuple[int, ...]]:
    """Name, datatype and shape of a tensor that a message describes; WireError where they are none."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise WireError(f"'{side}' holds {shown(entry)}; expected an object with name, datatype, shape")
    name, datatype, shape = entry["name"], entry.get("datatype"), entry.get("shape")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise WireError(f"tensor {shown(name)} has datatype {shown(datatype)}; known: {', '.join(DTYPES)}")
    sizes = shape if isinstance(shape, list) and 1 <= len(shape) <= _MOST_DIMENSIONS else [None]
    for size in sizes:
        if type(size) is not int or not 0 <= size < 2**31:
            raise WireError(f"tensor {shown(name)} has shape {shown(shape)}; expected 1 or 2 whole numbers")
    return name, datatype, tuple(sizes)


def _parameters(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = entry.get("parameters", {})
    if not isinstance(found, dict):
        raise WireError(f"parameters of {shown(name)} are {shown(found)}; expected an object")
    return found


def _wishes(head: Mapping[str, Any]) -> tuple[str | None, dict[str, bool] | None, bool]:
    """Id, outputs that are asked for, and whether all are wanted as binary."""
    identity = head.get("id")
    if identity is not None and not isinstance(identity, str):
        raise WireError(f"id is {shown(identity)}; expected text")
    binary = _parameters(head, "the request").get("binary_data_output", False) is True
    asked = head.get("outputs")
    if asked is None or not isinstance(head.get("inputs"), list):
        return identity, None, binary
    if not isinstance(asked, list) or not all(isinstance(o, dict) and isinstance(o.get("name"), str) for o in asked):
        raise WireError("'outputs' is no list of objects with a name")
    wanted = {o["name"]: _parameters(o, o["name"]).get("binary_data", binary) is True for o in asked}
    return identity, wanted or None, binary


# JSON.


def _to_json(tensor: Array, datatype: str) -> list[Any]:
    values: list[Any] = tensor.ravel().tolist()
    if datatype == "BYTES":
        try:
            return [value.decode("utf-8") for value in values]
        except UnicodeDecodeError:
            raise WireError("a text is no UTF-8") from None
    if datatype in _FLOATS:
        return [value if math.isfinite(value) else None for value in values]
    return values


def _from_json(data: Any, name: str, datatype: str, shape: tuple[int, ...]) -> Array:
    values = _flat(data, name, shape)
    for n, value in enumerate(values):
        if not _fits(value, datatype):
            raise WireError(f"tensor '{name}', value {n + 1}: {shown(value)}; expected {datatype}")
    try:
        if datatype == "BYTES":
            found = np.empty(len(values), dtype=object)
            found[:] = [value.encode("utf-8") for value in values]
        else:
            plain = [math.nan if value is None else value for value in values]
            with np.errstate(over="ignore"):
                found = np.array(plain, dtype=DTYPES[datatype])
    except UnicodeEncodeError:
        raise WireError(f"tensor '{name}' holds text that is no Unicode") from None
    except OverflowError:
        raise WireError(f"tensor '{name}' holds a number beyond {datatype}") from None
    return found.reshape(shape)


def _flat(data: Any, name: str, shape: tuple[int, ...]) -> list[Any]:
    """Values of a tensor in order of its rows: given flat, or nested as its shape says."""
    size = math.prod(shape)
    if not isinstance(data, list):
        raise WireError(f"tensor '{name}' has no list 'data'")
    values = data
    if any(isinstance(value, list) for value in data):
        for level, inner in enumerate(shape):
            if level and not all(isinstance(v, list) and len(v) == inner for v in values):
                raise WireError(f"tensor '{name}': the lists in 'data' are not of shape {list(shape)}")
            values = [v for part in values for v in part] if level else values
            if not level and len(values) != inner:
                raise WireError(f"tensor '{name}' holds {len(values)} lists; its shape {list(shape)} says {inner}")
    elif not data and not size:
        return []
    if len(values) != size:
        raise WireError(f"tensor '{name}' holds {len(values)} values; its shape {list(shape)} has {size}")
    return values


def _fits(value: Any, datatype: str) -> bool:
    if datatype == "BYTES":
        return isinstance(value, str)
    if datatype == "BOOL":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (datatype in _FLOATS and (value is None or isinstance(value, float)))


# Binary.


def write_tensor(tensor: Array, datatype: str) -> bytes:
    """A tensor in the binary form: little endian; of BYTES each value behind its length in four bytes."""
    if datatype != "BYTES":
        return tensor.astype(DTYPES[datatype], copy=False).tobytes()
    parts: list[bytes] = []
    for value in tensor.ravel().tolist():
        parts += (_SIZE.pack(len(value)), value)
    return b"".join(parts)


def read_tensor(data: memoryview, name: str, datatype: str, shape: tuple[int, ...]) -> Array:
    """The tensor that `write_tensor` wrote; WireError where the bytes are not those of its shape."""
    size = math.prod(shape)
    if datatype != "BYTES":
        dtype = TYPES[datatype]
        if len(data) != size * dtype.itemsize:
            raise WireError(
                f"tensor '{name}' has {len(data)} bytes; its shape {list(shape)} needs {size * dtype.itemsize}"
            )
        # Whatever is not 0 is true; a numpy bool of another byte would be neither.
        read = np.frombuffer(data, dtype=np.uint8) != 0 if datatype == "BOOL" else np.frombuffer(data, dtype=dtype)
        return read.reshape(shape)
    values: list[bytes] = []
    at = 0
    while at < len(data) and len(values) <= size:
        start = at + _SIZE.size
        end = start + _SIZE.unpack_from(data, at)[0] if start <= len(data) else start
        if end > len(data):
            raise WireError(f"tensor '{name}', value {len(values) + 1} is longer than what is left of the body")
        values.append(bytes(data[start:end]))
        at = end
    if len(values) != size:
        raise WireError(f"tensor '{name}' holds {len(values)} values; its shape {list(shape)} has {size}")
    found = np.empty(size, dtype=object)
    found[:] = values
    return found.reshape(shape)

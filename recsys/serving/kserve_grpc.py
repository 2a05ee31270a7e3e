"""Messages of the KServe v2 protocol over gRPC, as bytes of protocol buffers. Needs numpy and `kserve` only.

A client needs a dozen fields of the protocol's messages: numbers, texts and nested messages. Writing and reading these
takes less than generated code would, and works with any version of protobuf, or none. Field numbers are those of
grpc_predict_v2.proto (https://github.com/kserve/open-inference-protocol). Tensors stand in ``raw_input_contents`` and
``raw_output_contents``, in the binary form of `recsys.serving.kserve`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from recsys.serving.kserve import read_entry, read_tensor, write_tensor
from recsys.serving.wire import DATATYPES, Array, WireError

SERVICE = "/inference.GRPCInferenceService/"
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_MOST_VARINT = 10
"""Bytes of the longest number."""
_SIGN, _MODULUS = 1 << 63, 1 << 64


def dump_model(model: str) -> bytes:
    """``ModelReadyRequest`` or ``ModelMetadataRequest`` of a model's newest version."""
    return _piece(1, model.encode())


def dump_request(model: str, tensors: Mapping[str, Array]) -> bytes:
    """``ModelInferRequest``."""
    described, contents = [], []
    for name, tensor in tensors.items():
        datatype = DATATYPES[tensor.dtype]
        shape = b"".join(_varint(size) for size in tensor.shape)
        described.append(_piece(5, _piece(1, name.encode()) + _piece(2, datatype.encode()) + _piece(3, shape)))
        contents.append(_piece(7, write_tensor(tensor, datatype)))
    return b"".join([dump_model(model), *described, *contents])


def load_ready(message: bytes) -> bool:
    """Whether a ``ModelReadyResponse`` says so; WireError where it is none."""
    return any(field == 1 and value is True for field, value in _flags(message))


def load_metadata(message: bytes) -> dict[str, Any]:
    """Inputs and outputs of a ``ModelMetadataResponse``, as the protocol's JSON has them.

    Raises:
        WireError: it is none.
    """
    found: dict[str, Any] = {"inputs": [], "outputs": []}
    for field, part in _parts(message):
        if field in (4, 5):
            found["inputs" if field == 4 else "outputs"].append(_described(part))
    return found


def load_answer(message: bytes) -> dict[str, Array]:
    """Tensors of a ``ModelInferResponse`` by name.

    Raises:
        WireError: it is none, or its tensors do not stand in ``raw_output_contents``.
    """
    described, contents = [], []
    for field, part in _parts(message):
        if field == 5:
            described.append(_described(part))
        elif field == 6:
            contents.append(part)
    if len(described) != len(contents):
        raise WireError(f"the answer describes {len(described)} tensors and holds {len(contents)}")
    tensors = {}
    for entry, content in zip(described, contents, strict=True):
        name, datatype, shape = read_entry(entry, "outputs")
        tensors[name] = read_tensor(content, name, datatype, shape)
    return tensors


def _described(message: memoryview) -> dict[str, Any]:
    """Name, datatype and shape of a tensor."""
    entry: dict[str, Any] = {"name": "", "datatype": "", "shape": []}
    for field, value in _fields(message):
        if field in (1, 2) and isinstance(value, memoryview):
            entry["name" if field == 1 else "datatype"] = _text(value)
        elif field == 3:
            entry["shape"] += _sizes(value)
    return entry


def _sizes(value: int | memoryview) -> list[int]:
    """Sizes of a shape, which stand one by one or packed."""
    numbers = [value] if isinstance(value, int) else []
    at = 0
    while isinstance(value, memoryview) and at < len(value):
        number, at = _read_varint(value, at)
        numbers.append(number)
    return [number - _MODULUS if number >= _SIGN else number for number in numbers]


def _text(value: memoryview) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise WireError("the message holds a name that is no UTF-8 text") from None


# Protocol buffers: https://protobuf.dev/programming-guides/encoding


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _piece(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(data)) + data


def _parts(message: bytes) -> Iterator[tuple[int, memoryview]]:
    """Fields that hold bytes, texts or messages."""
    return ((field, value) for field, value in _fields(memoryview(message)) if isinstance(value, memoryview))


def _flags(message: bytes) -> Iterator[tuple[int, bool]]:
    """Fields that hold numbers, as truth values."""
    return ((field, value != 0) for field, value in _fields(memoryview(message)) if isinstance(value, int))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers of the fields with what they hold; those of fixed size are passed over."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            number, at = _read_varint(message, at)
            yield tag >> 3, number
            continue
        if kind not in (_EIGHT, _BYTES, _FOUR):
            raise WireError(f"the message has a field of the unknown kind {kind}")
        size, at = _read_varint(message, at) if kind == _BYTES else (8 if kind == _EIGHT else 4, at)
        if size > len(message) - at:
            raise WireError("the message is cut off")
        if kind == _BYTES:
            yield tag >> 3, message[at : at + size]
        at += size


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number and the place behind it."""
    value = 0
    for n, byte in enumerate(message[at : at + _MOST_VARINT]):
        value |= (byte & 127) << 7 * n
        if byte < 128:
            return value % _MODULUS, at + n + 1
    raise WireError("the message is cut off")

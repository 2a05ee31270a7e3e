"""The few messages of KServe v2 over gRPC that the tests send, by hand: no generated code, and a second opinion."""

from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import numpy as np

SERVICE = "/inference.GRPCInferenceService/"
NAMES = {"O": "BYTES", "i4": "INT32", "i8": "INT64", "f4": "FP32", "f8": "FP64", "b1": "BOOL"}
DTYPES = {"FP32": "<f4", "INT64": "<i8"}


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def piece(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def fields_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Length-delimited fields; others are passed over."""
    at = 0

    def read() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < len(data):
        tag = read()
        size = read()  # or the number itself, where the field holds one
        if tag & 7 == 2:
            yield tag >> 3, data[at : at + size]
            at += size


def raw(values: np.ndarray) -> bytes:
    if values.dtype != object:
        return values.tobytes()
    return b"".join(len(v).to_bytes(4, "little") + v for v in values.ravel().tolist())


def request_of(model: str, tensors: Mapping[str, np.ndarray]) -> bytes:
    parts = [piece(1, model.encode())]
    for name, values in tensors.items():
        kind = NAMES["O" if values.dtype == object else values.dtype.str[1:]]
        shape = b"".join(map(varint, values.shape))
        parts.append(piece(5, piece(1, name.encode()) + piece(2, kind.encode()) + piece(3, shape)))
    return b"".join([*parts, *(piece(7, raw(values)) for values in tensors.values())])


def answer_of(data: bytes) -> dict[str, np.ndarray]:
    """Outputs of one row."""
    described, contents = [], []
    for field, part in fields_of(data):
        if field == 5:
            facts = dict(fields_of(part))
            described.append((facts[1].decode(), facts[2].decode()))
        elif field == 6:
            contents.append(part)
    found = {}
    for (name, kind), content in zip(described, contents, strict=True):
        if kind == "BYTES":
            texts: list[Any] = []
            while content:
                size = int.from_bytes(content[:4], "little")
                texts.append(content[4 : 4 + size])
                content = content[4 + size :]
            found[name] = np.array([texts], dtype=object)
        else:
            found[name] = np.frombuffer(content, DTYPES[kind])[None]
    return found


def call(address: str, method: str, message: bytes = b"", **metadata: str) -> bytes:
    """The answer's bytes; grpc.RpcError where there is none."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        given = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        answer: bytes = channel.unary_unary(SERVICE + method)(message, timeout=30, metadata=given)
        return answer

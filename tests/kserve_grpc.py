"""Messages of KServe v2 over gRPC by Google's own runtime: a second opinion on what recsys writes and reads by hand.

The fields are those of grpc_predict_v2.proto (https://github.com/kserve/open-inference-protocol) that the tests need.
"""

from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "/inference.GRPCInferenceService/"
NAMES = {"O": "BYTES", "i4": "INT32", "i8": "INT64", "f4": "FP32", "f8": "FP64", "b1": "BOOL"}
DTYPES = {"FP32": "<f4", "FP64": "<f8", "INT32": "<i4", "INT64": "<i8", "BOOL": "|b1"}
KINDS = {"string": 9, "int64": 3, "bool": 8, "bytes": 12}
FIELDS: dict[str, list[tuple[str, int, str, bool]]] = {
    "Tensor": [("name", 1, "string", False), ("datatype", 2, "string", False), ("shape", 3, "int64", True)],
    "ModelReadyRequest": [("name", 1, "string", False), ("version", 2, "string", False)],
    "ModelReadyResponse": [("ready", 1, "bool", False)],
    "ModelMetadataRequest": [("name", 1, "string", False), ("version", 2, "string", False)],
    "ModelMetadataResponse": [
        ("name", 1, "string", False),
        ("versions", 2, "string", True),
        ("platform", 3, "string", False),
        ("inputs", 4, "Tensor", True),
        ("outputs", 5, "Tensor", True),
    ],
    "ModelInferRequest": [
        ("model_name", 1, "string", False),
        ("model_version", 2, "string", False),
        ("id", 3, "string", False),
        ("inputs", 5, "Tensor", True),
        ("raw_input_contents", 7, "bytes", True),
    ],
    "ModelInferResponse": [
        ("model_name", 1, "string", False),
        ("model_version", 2, "string", False),
        ("id", 3, "string", False),
        ("outputs", 5, "Tensor", True),
        ("raw_output_contents", 6, "bytes", True),
    ],
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="tests.proto", package="tests", syntax="proto3")
    for message, fields in FIELDS.items():
        added = file.message_type.add(name=message)
        for name, number, kind, many in fields:
            field = added.field.add(name=name, number=number, label=3 if many else 1, type=KINDS.get(kind, 11))
            if kind not in KINDS:
                field.type_name = f".tests.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tests.{name}")) for name in FIELDS}


MESSAGES = _classes()


def raw(values: np.ndarray) -> bytes:
    if values.dtype != object:
        return values.tobytes()
    return b"".join(len(v).to_bytes(4, "little") + v for v in values.ravel().tolist())


def array_of(datatype: str, shape: list[int], content: bytes) -> np.ndarray:
    if datatype != "BYTES":
        return np.frombuffer(content, DTYPES[datatype]).reshape(shape)
    texts: list[bytes] = []
    while content:
        size = int.from_bytes(content[:4], "little")
        texts.append(content[4 : 4 + size])
        content = content[4 + size :]
    found = np.empty(len(texts), dtype=object)
    found[:] = texts
    return found.reshape(shape)


def described(tensors: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    kinds = {name: NAMES["O" if v.dtype == object else v.dtype.str[1:]] for name, v in tensors.items()}
    return [{"name": name, "datatype": kinds[name], "shape": v.shape} for name, v in tensors.items()]


def request_of(model: str, tensors: Mapping[str, np.ndarray]) -> bytes:
    contents = [raw(values) for values in tensors.values()]
    message = MESSAGES["ModelInferRequest"](model_name=model, inputs=described(tensors), raw_input_contents=contents)
    data: bytes = message.SerializeToString()
    return data


def tensors_of(described: Any, contents: Any) -> dict[str, np.ndarray]:
    pairs = zip(described, contents, strict=True)
    return {t.name: array_of(t.datatype, list(t.shape), content) for t, content in pairs}


def answer_of(data: bytes) -> dict[str, np.ndarray]:
    answer = MESSAGES["ModelInferResponse"].FromString(data)
    return tensors_of(answer.outputs, answer.raw_output_contents)


def call(address: str, method: str, message: bytes = b"", **metadata: str) -> bytes:
    """The answer's bytes; grpc.RpcError where there is none."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        given = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        answer: bytes = channel.unary_unary(SERVICE + method)(message, timeout=30, metadata=given)
        return answer

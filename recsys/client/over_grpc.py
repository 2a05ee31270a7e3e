"""The way to a server over gRPC. Needs grpcio."""

import threading
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from recsys.client.transport import MOST_BYTES, Failed, Passing, Refused, left_of, plain
from recsys.errors import ConfigError
from recsys.serving import kserve_grpc, wire

ASKED_AGAIN = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
"""A server or proxy says the first where it is busy, starting or away, the second where it is asked too often, and the
third where what is behind it is too slow; where this side says the third, no time is left anyway. gRPC also says the
second of a message that is too large: that cannot be told apart, and asking in vain does less harm than giving up.
"""
REFUSED = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "UNIMPLEMENTED",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "OUT_OF_RANGE",
    "FAILED_PRECONDITION",
}
"""gRPC's counterparts of the other statuses 4xx of HTTP."""


class Grpc:
    """A channel to a server.

    Args:
        target: HOST:PORT.
        model: that is asked.
        token: sent as a bearer token.
        secure: TLS.
        roots: PEM certificates to trust with it; None: those that grpcio brings.

    Raises:
        ConfigError: grpcio is not installed.
    """

    def __init__(self, target: str, model: str, token: str | None, secure: bool, roots: bytes | None) -> None:
        if find_spec("grpc") is None:
            raise ConfigError("grpc:// needs grpcio, which is not installed: pip install 'recsys[serve]'")
        self._target, self._model, self._secure, self._roots = target, model, secure, roots
        self._sent = [("authorization", f"Bearer {token}")] if token else []
        self._channel: Any = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the channel."""
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def metadata(self, until: float) -> Mapping[str, Any]:
        """Inputs and outputs of the model."""
        message = self._call("ModelMetadata", kserve_grpc.dump_model(self._model), until)
        try:
            return kserve_grpc.load_metadata(message)
        except wire.WireError as error:
            raise Failed(str(error)) from None

    def infer(self, tensors: Mapping[str, wire.Array], until: float) -> Mapping[str, wire.Array]:
        """The model's outputs."""
        message = self._call("ModelInfer", kserve_grpc.dump_request(self._model, tensors), until)
        try:
            return kserve_grpc.load_answer(message)
        except wire.WireError as error:
            raise Failed(str(error)) from None

    def ready(self, until: float) -> bool:
        """Whether the model says that it is ready."""
        message = self._call("ModelReady", kserve_grpc.dump_model(self._model), until)
        try:
            return kserve_grpc.load_ready(message)
        except wire.WireError as error:
            raise Failed(str(error)) from None

    def _call(self, method: str, message: bytes, until: float) -> bytes:
        import grpc

        ask = self._open().unary_unary(kserve_grpc.SERVICE + method)
        try:
            answer: bytes = ask(message, timeout=left_of(until), metadata=self._sent)
            return answer
        except grpc.RpcError as error:
            status, said = error.code().name, plain(error.details() or "")
        except ValueError as error:  # another thread closed the channel
            raise Passing(plain(error)) from None
        reason = f"status {status}: {said}"
        if status in ASKED_AGAIN:
            raise Passing(reason)
        raise (Refused if status in REFUSED else Failed)(reason)

    def _open(self) -> Any:
        """The channel, which connects when it is used, and anew when the connection was lost."""
        import grpc

        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.max_receive_message_length", MOST_BYTES),
            ("grpc.max_send_message_length", -1),
            # The client decides how often it asks; a channel that waits longer would fail each try unasked.
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        with self._lock:
            if self._channel is None and self._secure:
                credentials = grpc.ssl_channel_credentials(self._roots)
                self._channel = grpc.secure_channel(self._target, credentials, options)
            elif self._channel is None:
                self._channel = grpc.insecure_channel(self._target, options)
            return self._channel

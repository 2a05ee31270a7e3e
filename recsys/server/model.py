"""A bundle behind the protocol: the bytes of a request to the bytes of its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.errors import InputError
from recsys.server.limits import Limits
from recsys.serving import kserve, wire
from recsys.serving.bundle import Bundle
from recsys.serving.verify import difference, read_golden, replay

VERSION = "1"


@dataclass(frozen=True)
class Reply:
    """Body of an answer, the bytes of JSON in it where more follows, and its sessions."""

    body: bytes
    header_length: int | None
    sessions: int


class Model:
    """Answers requests; safe to call from several threads.

    Args:
        name: that callers know it by.
        bundle: what answers.
        limits: on requests.
    """

    def __init__(self, name: str, bundle: Bundle, limits: Limits) -> None:
        self.name, self.bundle, self.limits = name, bundle, limits
        transform = bundle.transform
        self.fields = wire.fields_of(transform.raw, [c.source for c in transform.columns if c.once])

    def warm_up(self) -> None:
        """Replay the golden requests; InputError where an answer is not that of the export."""
        folder = Path(self.bundle.folder)
        requests, answers, k = read_golden(folder)
        for n, (found, right) in enumerate(zip(replay(self.bundle, requests, k), answers, strict=True)):
            reason = difference(found, right, float(self.bundle.manifest["tolerance"]))
            if reason is not None:
                raise InputError(f"{folder}: golden request {n + 1}: {reason}; `recsys verify {folder}` says more")

    def metadata(self) -> dict[str, Any]:
        """What the protocol tells of a model."""
        inputs, outputs = wire.signature(self.fields)
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "recsys_bundle",
            "inputs": inputs,
            "outputs": outputs,
        }

    def infer(self, body: bytes, header_length: str | None) -> Reply:
        """Answer one request.

        Raises:
            WireError, InputError: the request cannot be read, or is above a limit; the text is for its sender.
        """
        message = kserve.load("inputs", body, header_length)
        unknown = [name for name in message.outputs or {} if name not in wire.OUTPUTS]
        if unknown:
            raise wire.WireError(f"output {wire.shown(unknown[0])} is unknown; known: {', '.join(wire.OUTPUTS)}")
        self._check_sizes(message.tensors)
        sessions, wanted, seen = wire.from_tensors(self.fields, message.tensors)
        wanted = self._bounded(wanted)
        wire.check_lists(self.fields, sessions, self.bundle.transform.max_length, self.limits.values)
        outputs = wire.answer_tensors(self.bundle.recommend(sessions, wanted, remove_seen=seen), wanted)
        if message.outputs is not None:
            outputs = {name: outputs[name] for name in message.outputs}
        head: dict[str, Any] = {"model_name": self.name, "model_version": VERSION}
        if message.id is not None:
            head["id"] = message.id
        binary = message.binary if message.outputs is None else message.outputs
        return Reply(*kserve.dump("outputs", outputs, binary, head), len(sessions))

    def _check_sizes(self, tensors: dict[str, wire.Array]) -> None:
        """Limits that can be told from shapes, before anything is made of the values."""
        shape = tensors[wire.TIMESTAMP].shape if wire.TIMESTAMP in tensors else ()
        if len(shape) != 2:
            return  # `from_tensors` says so
        _refuse_above("sessions", shape[0], self.limits.sessions)
        _refuse_above("events, padding counted,", shape[0] * shape[1], self.limits.events)

    def _bounded(self, wanted: Sequence[int]) -> list[int]:
        """Each k, at most the number of ids: more could not be answered, and would only make the answer larger."""
        for number in wanted:
            if number < 1:
                raise InputError(f"k ({number}) must be a whole number of at least 1")
        most = len(self.bundle.transform.names)
        bounded = [min(number, most) for number in wanted]
        _refuse_above("items wanted (k)", len(bounded) * max(bounded), self.limits.items)
        return bounded


def _refuse_above(what: str, found: int, limit: int) -> None:
    if found > limit:
        raise InputError(f"the request has {found:,} {what} and this server takes {limit:,}; send less at a time")

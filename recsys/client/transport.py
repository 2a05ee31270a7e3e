"""What the client needs of a way to a server, and how such a way fails."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

from recsys.errors import one_line
from recsys.serving.wire import Array

MOST_BYTES = 256 << 20
"""Of an answer."""


class Passing(Exception):
    """No answer, or one that says to come again: asking once more is safe, since a request changes nothing."""


class Refused(Exception):
    """The server does not take this request, and would not take it another time."""


class Failed(Exception):
    """The server has no answer to this request that can be used."""


class Transport(Protocol):
    """One way to the models of a server; `until` is a time of `time.monotonic`. Safe to use from several threads.

    Any call but `close` raises Passing, Refused or Failed with one line that says why.
    """

    def metadata(self, until: float) -> Mapping[str, Any]:
        """Inputs and outputs of the model, as the protocol's JSON has them."""

    def infer(self, tensors: Mapping[str, Array], until: float) -> Mapping[str, Array]:
        """The model's outputs."""

    def ready(self, until: float) -> bool:
        """Whether the model says that it is ready."""

    def close(self) -> None:
        """Give up connections; the next call opens new ones."""


def left_of(until: float) -> float:
    """Seconds that are left; Passing where there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise Passing("the deadline is over")
    return left


def plain(text: object) -> str:
    """What a server says, as one line that can be shown."""
    return "".join(c if c.isprintable() else " " for c in one_line(text)) or "nothing more"

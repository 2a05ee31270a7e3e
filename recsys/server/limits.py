"""What the local server takes, and how long it waits."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from recsys.errors import ConfigError, nearest
from recsys.serving import wire


@dataclass(frozen=True)
class Limits:
    """Bounds on requests, times in seconds. A request above one of them is refused with a line that names it.

    Attributes:
        body_bytes: of a request.
        sessions: of a request.
        events: of a request, padding counted.
        values: of the lists of a request as the model reads them, padding counted.
        items: wanted of all sessions of a request together, of each at most the catalogue.
        waiting: requests that wait for a worker; more are answered 503.
        connections: open at the same time; requests on more are answered 503.
        header_seconds: until the head of a request is there; then the connection is closed.
        body_seconds: until the body of a request is there; then 408.
        answer_seconds: until the answer is there; then 504.
        send_seconds: for 1 MiB of the answer, or what is left of it, to be taken; then the connection is closed.
        idle_seconds: that a connection without a request stays open.
        stop_seconds: that requests under way have when the server stops.
    """

    body_bytes: int = 16 << 20
    sessions: int = 64
    events: int = 1 << 18
    values: int = wire.MOST_VALUES
    items: int = 1 << 20
    waiting: int = 64
    connections: int = 256
    header_seconds: float = 10.0
    body_seconds: float = 10.0
    answer_seconds: float = 30.0
    send_seconds: float = 30.0
    idle_seconds: float = 30.0
    stop_seconds: float = 10.0

    def __post_init__(self) -> None:
        for bound in fields(self):
            if not getattr(self, bound.name) > 0:
                raise ConfigError(f"limit {bound.name} is {getattr(self, bound.name)}; expected a number above 0")


def read_limits(settings: Sequence[str]) -> Limits:
    """Limits of texts NAME=NUMBER; ConfigError where a name is unknown or the number none."""
    kinds = {bound.name: int if bound.type is int else float for bound in fields(Limits)}
    values: dict[str, Any] = {}
    for setting in settings:
        name, _, number = setting.partition("=")
        if name not in kinds:
            raise ConfigError(f"--limit {setting}: limit '{name}' is unknown{nearest(name, kinds)}")
        try:
            values[name] = kinds[name](number)
        except ValueError:
            kind = "whole number" if kinds[name] is int else "number"
            raise ConfigError(f"--limit {setting}: expected {name}=N with a {kind}") from None
    return Limits(**values)

"""What the stages ask of a service, and what may go wrong. Implementations stand beside this file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.errors import RecsysError

Vectors = NDArray[np.float32]
UNKNOWN_LANGUAGE = "und"  # ISO 639's code for a language that is not determined


class ServiceError(RecsysError):
    """One request or one item failed for good; others may still be answered."""


class Unreachable(ServiceError):
    """A request failed after all its tries: no connection, time-out, 429, 5xx, or an answer that is not JSON."""


class ServiceDown(RecsysError):
    """No further request makes sense (key refused, wrong address, request after request failed).

    What was answered before is in the cache: the same command continues from there.
    """


@dataclass
class Stats:
    """What was asked of a service; each different text of a call counts once, as one of the first three."""

    answered: int = 0  # by the service
    from_cache: int = 0
    failed: int = 0
    requests: int = 0  # sent, retries included
    retries: int = 0
    characters: int = 0  # of the texts in answered requests: what services that charge by character bill
    tokens: int = 0  # as the service stated them

    def to_dict(self) -> dict[str, int]:
        """The figures by name, for a report."""
        return asdict(self)


class LanguageIdentifier(Protocol):
    """Tells the language of short texts."""

    name: str
    stats: Stats

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """(code, probability in 0..1) of each text: ISO 639-1 where the language has one, else ISO 639-3.

        ``("und", 0.0)`` where nothing can be told (no letters). Names of two or three words are often wrong: use the
        probability.
        """
        ...


class Translator(Protocol):
    """Translates short texts to English."""

    name: str
    stats: Stats
    failures: dict[str, str]  # text -> why it has no translation
    doubts: dict[str, str]  # text -> what is odd in its translation, which stands

    def translate(self, texts: Sequence[str], languages: Sequence[str | None]) -> list[str | None]:
        """English of each text; None where that failed (the reason is in `failures`). A language of None is unknown."""
        ...


class Embedder(Protocol):
    """Places texts as points whose cosine tells their likeness."""

    name: str
    stats: Stats

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[n, d] float32 of L2 norm 1; a blank text is the zero vector. Raises ServiceError when one has no answer."""
        ...


class Chat(Protocol):
    """Answers a question as JSON."""

    name: str
    stats: Stats

    def answer(self, system: str, user: str, schema: Mapping[str, Any]) -> str:
        """JSON text of an object that fits the JSON schema.

        Raises:
            ServiceError: this question has no such answer; others may.
            ServiceDown: asking on makes no sense.
        """
        ...

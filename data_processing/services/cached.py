"""What every service gets: each different text once, in batches, cached as soon as it is answered."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_processing.services.cache import Cache, key
from data_processing.services.json_schema import parse_object
from data_processing.services.language import latin_share
from data_processing.services.protocols import (
    UNKNOWN_LANGUAGE,
    Chat,
    Embedder,
    LanguageIdentifier,
    ServiceDown,
    ServiceError,
    Translator,
    Unreachable,
    Vectors,
)

MAX_FAILURES_IN_A_ROW = 3  # unreachable requests, each after all its tries, before a run stops
CHAT_TRIES = 2  # of a question whose answer does not fit the schema
SURE = 0.8  # probability from which an identifier's "not English" is believed


class _Breaker:
    """Stops a run whose service does not answer any more, instead of waiting out every text of it."""

    def __init__(self, name: str) -> None:
        self.name, self.in_a_row = name, 0

    def failed(self, error: ServiceError) -> None:
        self.in_a_row = self.in_a_row + 1 if isinstance(error, Unreachable) else 0
        if self.in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise ServiceDown(
                f"{self.name}: {self.in_a_row} requests in a row failed, the last with: {error}; what was answered "
                "is cached, run the same command again to continue"
            ) from error

    def answered(self) -> None:
        self.in_a_row = 0


class CachedEmbedder:
    """An `Embedder` that asks `service` for each different text once; norm, width and finiteness are checked here.

    Args:
        service: the implementation.
        cache: None keeps nothing.
        batch: texts a request.
        dimensions: vectors are cut to this width and normalised again (for Matryoshka models); None: as they come.
    """

    def __init__(self, service: Embedder, cache: Cache | None, *, batch: int, dimensions: int | None) -> None:
        self.service, self.cache, self.batch, self.dimensions = service, cache, batch, dimensions
        self.name = service.name if dimensions is None else f"{service.name}:{dimensions}"
        self.stats = service.stats
        self._width: int | None = dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`.

        Raises:
            ServiceError: a request failed, or its answer has another shape or a value that is not finite. What was
                answered before is cached.
        """
        unique = list(dict.fromkeys(text for text in texts if text.strip()))
        rows: dict[str, Vectors] = {}
        if self.cache is not None:
            keys = {key(self.name, text): text for text in unique}
            for found, value in self.cache.get(keys).items():
                stored = np.frombuffer(value, dtype="<f4")
                self._checked(stored[None], 1)
                rows[keys[found]] = stored  # not normalised twice: a run that continues gives the same bits
        self.stats.from_cache += len(rows)
        missing = [text for text in unique if text not in rows]
        for some in _batches(missing, self.batch):
            try:
                vectors = self._ask(some)
            except ServiceError:
                self.stats.failed += len(some)
                raise
            rows.update(zip(some, vectors, strict=True))
            self.stats.answered += len(some)
        out = np.zeros((len(texts), self._known_width(bool(texts))), dtype=np.float32)
        for at, text in enumerate(texts):
            if text in rows:
                out[at] = rows[text]
        return out

    def _ask(self, texts: list[str]) -> Vectors:
        vectors = self._checked(self.service.embed(texts), len(texts))
        if self.cache is not None:
            values = vectors.astype("<f4")
            self.cache.put({key(self.name, text): values[at].tobytes() for at, text in enumerate(texts)})
        return vectors

    def _checked(self, vectors: Vectors, count: int) -> Vectors:
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != count or not vectors.shape[1]:
            raise ServiceError(f"{self.name}: {count} texts were answered with an array of shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ServiceError(f"{self.name}: an embedding holds a value that is not finite")
        if self.dimensions is not None:
            vectors = vectors[:, : self.dimensions]
        if self._width is None:
            self._width = vectors.shape[1]
        if vectors.shape[1] != self._width:
            fix = "; lower dimensions" if self.dimensions is not None else ""
            given = f"an embedding has {vectors.shape[1]} dimensions, {self._width} expected{fix}"
            raise ServiceError(f"{self.name}: {given}")
        return normalised(vectors)

    def _known_width(self, needed: bool) -> int:
        """Of vectors; where only blank texts were given, one text is embedded to learn it."""
        if self._width is None and needed:
            self.embed(["text"])
        return self._width or 0


def normalised(vectors: Vectors) -> Vectors:
    """[n, d] with rows of L2 norm 1; a row of zeros stays."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    # Scaled first: squares of very small or large values leave float32.
    scaled = np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.divide(scaled, norms, out=np.zeros_like(vectors), where=norms > 0).astype(np.float32)


class CachedTranslator:
    """A `Translator` that asks `service` for each different (text, language) once and looks at what comes back.

    A text whose language is given as ``en``, or that is blank, is its own translation. An answer mostly in letters
    that English does not use, or one that `identifier` takes for another language with a probability of 0.8 or more,
    is a failure. An answer that only repeats the text is kept (names such as "Zoom") and recorded in `doubts`.
    """

    def __init__(
        self, service: Translator, cache: Cache | None, *, batch: int, identifier: LanguageIdentifier | None
    ) -> None:
        self.service, self.cache, self.batch, self.identifier = service, cache, batch, identifier
        self.name, self.stats, self.failures = service.name, service.stats, service.failures
        self.doubts: dict[str, str] = {}  # text -> what is odd in its translation, which stands
        self._breaker = _Breaker(self.name)

    def translate(self, texts: Sequence[str], languages: Sequence[str | None]) -> list[str | None]:
        """See `Translator`; a language of ``und`` is unknown too."""
        asked = [
            (text, None if language == UNKNOWN_LANGUAGE else language)
            for text, language in zip(texts, languages, strict=True)
        ]
        known: dict[tuple[str, str | None], str | None] = {}
        keys: dict[bytes, tuple[str, str | None]] = {}
        for text, language in dict.fromkeys(asked):
            if language == "en" or not text.strip():
                known[text, language] = text
            else:
                keys[key(self.name, text, language)] = (text, language)
        if self.cache is not None:
            for found, value in self.cache.get(keys).items():
                known[keys[found]] = value.decode()
                self.stats.from_cache += 1
        by_language: dict[str | None, list[str]] = {}
        for text, language in keys.values():
            if (text, language) not in known:
                by_language.setdefault(language, []).append(text)
        for language, missing in by_language.items():
            for some in _batches(missing, self.batch):
                for text, answer in zip(some, self._ask(some, language), strict=True):
                    known[text, language] = answer
        return [known[pair] for pair in asked]

    def _ask(self, texts: list[str], language: str | None) -> list[str | None]:
        for text in texts:
            self.failures.pop(text, None)
        try:
            answers = self.service.translate(texts, [language] * len(texts))
        except ServiceError as error:
            self.stats.failed += len(texts)
            self.failures.update(dict.fromkeys(texts, str(error)))
            self._breaker.failed(error)
            return [None] * len(texts)
        self._breaker.answered()
        if len(answers) != len(texts):
            raise ServiceError(f"{self.name}: {len(texts)} texts came back as {len(answers)}")
        answers = [self._judged(text, answer) for text, answer in zip(texts, answers, strict=True)]
        good = {key(self.name, t, language): a.encode() for t, a in zip(texts, answers, strict=True) if a is not None}
        if self.cache is not None and good:
            self.cache.put(good)
        self.stats.answered += len(good)
        self.stats.failed += len(texts) - len(good)
        return answers

    def _judged(self, text: str, answer: str | None) -> str | None:
        if answer is None:
            self.failures.setdefault(text, "no answer")
            return None
        answer = answer.encode("utf-8", "replace").decode().strip()  # half a character cannot be written later
        if not answer:
            self.failures[text] = "the answer is blank"
            return None
        reason = self._not_english(answer)
        if reason:
            self.failures[text] = reason
            return None
        if answer.casefold() == text.strip().casefold():
            self.doubts[text] = "the answer repeats the text"
        return answer

    def _not_english(self, answer: str) -> str | None:
        if latin_share(answer) < 0.5:
            return f"the answer '{answer[:60]}' is not English"
        if self.identifier:
            language, probability = self.identifier.identify([answer])[0]
            if language not in ("en", UNKNOWN_LANGUAGE) and probability >= SURE:
                return f"the answer '{answer[:60]}' is not English but '{language}' ({probability:.2f})"
        return None


class CachedChat:
    """A `Chat` that asks `service` each question once, and again when the answer does not fit the schema."""

    def __init__(self, service: Chat, cache: Cache | None) -> None:
        self.service, self.cache = service, cache
        self.name, self.stats = service.name, service.stats
        self._breaker = _Breaker(self.name)

    def answer(self, system: str, user: str, schema: Mapping[str, Any]) -> str:
        """See `Chat`. Answers that do not fit are never cached."""
        at = key(self.name, system, user, json.dumps(schema, sort_keys=True))
        if self.cache is not None and (found := self.cache.get([at])):
            self.stats.from_cache += 1
            return found[at].decode()
        try:
            text = self._ask(system, user, schema)
        except ServiceError as error:
            self.stats.failed += 1
            self._breaker.failed(error)
            raise
        self._breaker.answered()
        self.stats.answered += 1
        if self.cache is not None:
            self.cache.put({at: text.encode()})
        return text

    def _ask(self, system: str, user: str, schema: Mapping[str, Any]) -> str:
        for tried in range(1, CHAT_TRIES + 1):
            text = self.service.answer(system, user, schema)
            try:
                return json.dumps(parse_object(text, schema), ensure_ascii=False)
            except ServiceError as error:
                if tried == CHAT_TRIES:
                    raise ServiceError(f"{self.name}: {CHAT_TRIES} answers did not fit; the last: {error}") from error
            self.stats.retries += 1
        raise AssertionError  # the loop returns or raises


def _batches(texts: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]

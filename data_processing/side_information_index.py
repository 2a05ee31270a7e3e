"""Chunks of documentation in a vector store (Chroma, embedded): embedded once, found by likeness to a command."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_processing.documents import Chunk
from data_processing.services.protocols import Embedder
from recsys.errors import ConfigError, InputError, one_line
from recsys.runtime import progress

_BATCH = 256  # chunks that are embedded and stored together; what a killed run keeps
_PAGE = 2048  # vectors that are read from the store at once
_CANDIDATES = 60  # of highest cosine, at least, among which the words of headings decide
_HEADING_WEIGHT = 0.2  # of words that a command shares with a heading, beside the cosine
_SAME = 0.97  # cosine from which two chunks say the same, such as two versions of one page
_WORD = re.compile(r"\w+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class Found:
    """A chunk and the cosine of its embedding to the query's."""

    chunk: Chunk
    similarity: float


def words_of(name: str) -> str:
    """A name as words: ``SolutionExplorer`` and ``snake_case`` fall apart."""
    return " ".join(_CAMEL.sub(" ", name).replace("_", " ").split())


def stems(text: str) -> list[str]:
    """Lower-case words, without the s of a plural or a third person."""
    words = _WORD.findall(words_of(text).lower())
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words]


def embedded_text(chunk: Chunk) -> str:
    """What is embedded of a chunk: the two nearest headings, then the text."""
    return f"{words_of(': '.join(chunk.headings[-2:]))}\n{chunk.text}"


class DocumentIndex:
    """A collection of one persistent Chroma store, named by the content of the chunks and the embedder.

    A second run on the same documents finds it complete and embeds nothing; an interrupted one adds what is missing.
    The store makes no network request: vectors are given to it and its telemetry is off. Its own search is not used:
    the graph behind it differs from build to build (measured: .994 of the nearest three were found, others each time),
    and the same input must give the same bytes. All vectors, read page by page, are compared instead: exact, and fast.

    Args:
        folder: of the store.
        chunks: what is to be found.
        embedder: gives the vectors of chunks.

    Raises:
        ConfigError: chromadb is not installed.
        InputError: `folder` holds something else, or a damaged store.
    """

    def __init__(self, folder: Path, chunks: Sequence[Chunk], embedder: Embedder) -> None:
        self.chunks = list(chunks)
        self.collection = _collection_name(self.chunks, embedder.name)
        self.embedded = 0  # chunks that this run embedded
        self._client = _open(folder)
        try:
            self._store = self._client.get_or_create_collection(
                self.collection,
                embedding_function=None,
                metadata={"embedder": embedder.name},
                configuration={"hnsw": {"space": "cosine"}},
            )
            self._complete(embedder)
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def _complete(self, embedder: Embedder) -> None:
        stored = set(self._store.get(include=[])["ids"])
        missing = [at for at in range(len(self.chunks)) if _id(at) not in stored]
        starts = range(0, len(missing), _BATCH)
        for start in progress(starts, "embed documents", unit=f"x{_BATCH} chunks"):
            some = missing[start : start + _BATCH]
            vectors = embedder.embed([embedded_text(self.chunks[at]) for at in some])
            self._store.upsert(
                ids=[_id(at) for at in some],
                embeddings=vectors,
                metadatas=[{"source": self.chunks[at].source} for at in some],
                documents=[self.chunks[at].text for at in some],
            )
            self.embedded += len(some)

    def search(self, names: Sequence[str], queries: NDArray[np.float32], wanted: int) -> list[list[Found]]:
        """The `wanted` best chunks of each command, best first; of near-equal chunks only the best.

        Args:
            names: of the commands.
            queries: their embeddings [n, d].
            wanted: chunks for each. They are ordered by the cosine and a bonus for words that the name shares with the
                chunk's last heading (Jaccard): embeddings of short names alone take ``CreateSkylight`` for a roof.
        """
        near = self._nearest(queries, max(_CANDIDATES, 3 * wanted))
        found: list[list[Found]] = []
        for start in range(0, len(queries), _BATCH):
            some = near[start : start + _BATCH]
            at = {row: place for place, row in enumerate(sorted({int(row) for row in some.ravel()}))}
            vectors = self._vectors(list(at))
            for query, name, rows in zip(queries[start:], names[start:], some.tolist(), strict=False):
                those = vectors[[at[row] for row in rows]]
                found.append(self._best(name, rows, those, those @ query, wanted))
        return found

    def _nearest(self, queries: NDArray[np.float32], size: int) -> NDArray[np.int64]:
        """Rows [n, size] of the chunks of highest cosine to each query, in order; equal ones by row."""
        rows = np.empty((len(queries), 0), np.int64)
        scores = np.empty((len(queries), 0), np.float32)
        for start in range(0, len(self.chunks), _PAGE):
            page = np.arange(start, min(start + _PAGE, len(self.chunks)))
            likeness = np.round(queries @ self._vectors(page.tolist()).T, 5)
            scores = np.concatenate([scores, likeness], axis=1)
            rows = np.concatenate([rows, np.broadcast_to(page, likeness.shape)], axis=1)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :size]
            scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        return rows

    def _vectors(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Stored vectors [n, d] of chunks."""
        parts: dict[str, NDArray[np.float32]] = {}
        for start in range(0, len(rows), _PAGE):
            got = self._store.get(ids=[_id(row) for row in rows[start : start + _PAGE]], include=["embeddings"])
            parts.update(zip(got["ids"], np.asarray(got["embeddings"], np.float32), strict=True))
        return np.stack([parts[_id(row)] for row in rows])

    def _best(
        self, name: str, rows: list[int], vectors: NDArray[np.float32], likeness: NDArray[np.float32], wanted: int
    ) -> list[Found]:
        shared = [jaccard(name, self.chunks[row].headings[-1]) for row in rows]
        scores = [round(float(likeness[at]) + _HEADING_WEIGHT * bonus, 5) for at, bonus in enumerate(shared)]
        chosen: list[int] = []
        for at in sorted(range(len(rows)), key=lambda at: (-scores[at], rows[at])):
            if len(chosen) < wanted and not any(vectors[at] @ vectors[other] > _SAME for other in chosen):
                chosen.append(at)
        return [Found(self.chunks[rows[at]], round(float(likeness[at]), 5)) for at in chosen]


def jaccard(one: str, other: str) -> float:
    """Words that two names share, as a share of all their words."""
    words, others = set(stems(one)), set(stems(other))
    return len(words & others) / max(len(words | others), 1)


def _id(row: int) -> str:
    return f"{row:08d}"


def _collection_name(chunks: Sequence[Chunk], embedder: str) -> str:
    digest = hashlib.sha256(embedder.encode())
    for chunk in chunks:
        digest.update(json.dumps([chunk.file, chunk.headings, chunk.text]).encode())
    return f"docs-{digest.hexdigest()[:40]}"


def _open(folder: Path) -> Any:
    try:
        import chromadb
        from chromadb.config import Settings
        from chromadb.errors import ChromaError
    except ImportError as error:
        raise ConfigError(f"side information needs {error.name}: pip install 'recsys[rag]'") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return chromadb.PersistentClient(folder, settings=Settings(anonymized_telemetry=False))
    except (OSError, ValueError, ChromaError) as error:
        reason = one_line(error)
        raise InputError(f"{folder}: not a usable vector store ({reason}); delete it or name another cache") from error

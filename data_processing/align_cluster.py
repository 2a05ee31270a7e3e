"""Which names are one command, where no id says so: embeddings, spelling, and average linkage.

Likeness of two names is the cosine of their features (embedding and letters), less what either has in common with the
names of other languages anyway: ``cos(x, y) - (level(x) + level(y)) / 2 + median level``, where a level is the mean
cosine to the `NEIGHBOURS` nearest names that could be the same command (CSLS: Conneau et al. 2018, arXiv:1710.04087,
kept on the cosine's scale by the median). Names of one language are never one command: a program gives each command
one name in a language, and its near-synonyms (Insert View, Insert Views) are what plain clustering merges first.

Limits: for m names without an id among n in a category, time grows with m * n (20,000 of 20,000: half a minute on one
core; 500,000: hours) and memory with n (about 6 kB a name). Names that ids settle cost nothing but their embedding.
A name is compared with its `CANDIDATES` nearest only, and where names form a chain of more than `LARGEST` they are
held to a higher similarity, in steps, until the chain breaks.
"""

import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_processing.services.protocols import Embedder, Vectors
from recsys.errors import ConfigError

NEIGHBOURS = 10  # of a name's level
CANDIDATES = 50  # nearest names that a name is compared with
LARGEST = 2_000  # names that linkage sees at once
SPELLING = 0.1  # share of letters in the cosine; the embedding has the rest
SPELLING_WIDTH = 512
BLOCK = 1_024  # rows of the similarity matrix at a time
APART = 1e9  # distance of names that must not be one command; an average over it stays far above any threshold
STEP = 0.02  # of the similarity asked for in a chain that is too long


@dataclass
class Points:
    """What is clustered: names, or groups of names that ids have settled. All of one category."""

    features: Vectors  # [n, d], norm 1
    languages: list[frozenset[str]]  # of the names of each; unknown counts as one language
    settled: NDArray[np.bool_]  # [n] has an id: never one command with another that has one


def name_features(texts: Sequence[str], embedder: Embedder) -> Vectors:
    """[n, d + 512] of norm 1: the embedding, and hashed groups of 2 to 4 letters without marks and case."""
    meaning = embedder.embed(texts) * np.float32(np.sqrt(1 - SPELLING))
    letters = np.zeros((len(texts), SPELLING_WIDTH), dtype=np.float32)
    for row, text in enumerate(texts):
        for gram in _letter_groups(text):
            code = zlib.crc32(gram.encode())
            letters[row, code % SPELLING_WIDTH] += 1.0 if (code >> 16) & 1 else -1.0
    letters = np.sign(letters) * np.sqrt(np.abs(letters))
    return unit_rows(np.hstack([meaning, unit_rows(letters) * np.float32(np.sqrt(SPELLING))]))


def _letter_groups(text: str) -> list[str]:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    words = [f"^{word}$" for word in plain.split()]
    return [word[at : at + n] for word in words for n in (2, 3, 4) for at in range(len(word) - n + 1)]


def unit_rows(vectors: Vectors) -> Vectors:
    """Rows scaled to norm 1; rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def corrected(cosines: Vectors, row_levels: Vectors, column_levels: Vectors, median: float) -> Vectors:
    """Likeness ``[n, m]`` from cosines and the levels of rows ``[n]`` and columns ``[m]``; see the module."""
    level = np.add.outer(row_levels, column_levels) / np.float32(2)
    return np.asarray(cosines - level + np.float32(median), dtype=np.float32)


def cluster(points: Points, min_similarity: float) -> NDArray[np.int64]:
    """Cluster of each point ``[n]``; numbers follow the first point of each.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    found = _Candidates(points)
    n = len(points.settled)
    clusters = np.arange(n)
    for members in found.components(min_similarity):
        clusters[members] = members[_linkage(found, members, min_similarity)]
    return clusters


class _Candidates:
    """The nearest points of each point, and how near points are to others anyway."""

    def __init__(self, points: Points) -> None:
        self.points = points
        codes = {language: at for at, language in enumerate(sorted(set().union(*points.languages)))}
        self.spoken = np.zeros((len(points.languages), len(codes)), dtype=np.float32)
        for row, languages in enumerate(points.languages):
            self.spoken[row, [codes[language] for language in languages]] = 1
        n = len(points.settled)
        self.levels = np.zeros(n, dtype=np.float32)
        everything, is_open = np.arange(n), np.flatnonzero(~points.settled)
        edges = [self._nearest(is_open, everything), self._nearest(np.flatnonzero(points.settled), is_open)]
        self.rows, self.columns, self.cosines = (np.concatenate(parts) for parts in zip(*edges, strict=True))
        linked = np.unique(self.rows)
        self.median = float(np.median(self.levels[linked])) if len(linked) else 0.0
        levels = (self.levels[self.rows] + self.levels[self.columns]) / 2
        self.likeness = self.cosines - levels + np.float32(self.median)

    def _nearest(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Vectors]:
        """Pairs (row, column, cosine) of each row's candidates among the columns that it may join; sets levels."""
        found: list[tuple[NDArray[np.int64], NDArray[np.int64], Vectors]] = []
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            cosines = self.cosine(some, columns)
            count = min(CANDIDATES, len(columns))
            if not count:
                continue
            best = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
            values = np.take_along_axis(cosines, best, axis=1)
            nearest = -np.sort(-values, axis=1)[:, :NEIGHBOURS]
            allowed = nearest > -1.5
            sums = np.where(allowed, nearest, 0).sum(axis=1)
            self.levels[some] = sums / np.maximum(allowed.sum(axis=1), 1)
            at = np.nonzero(values > -1.5)
            found.append((some[at[0]], columns[best[at]], values[at]))
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        pairs, others, cosine = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return pairs, others, cosine

    def cosine(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Vectors:
        """[rows, columns]; -2 where the two must not be one command."""
        features, settled = self.points.features, self.points.settled
        # Rounded: the last bits of a matrix product depend on how many threads computed it.
        cosines = np.round(features[rows] @ features[columns].T, 5)
        apart = self.spoken[rows] @ self.spoken[columns].T > 0
        apart |= settled[rows][:, None] & settled[columns][None, :]
        apart |= rows[:, None] == columns[None, :]
        cosines[apart] = -2
        return cosines.astype(np.float32)

    def components(self, min_similarity: float) -> list[NDArray[np.int64]]:
        """Sets of points among which pairs reach the similarity; average linkage never joins two sets."""
        waiting, done = [(np.arange(len(self.levels)), min_similarity)], []
        while waiting:
            members, least = waiting.pop()
            for part in self._connected(members, least):
                if len(part) > LARGEST:
                    waiting.append((part, least + STEP))
                elif len(part) > 1:
                    done.append(part)
        return sorted(done, key=lambda part: int(part[0]))

    def _connected(self, members: NDArray[np.int64], least: float) -> list[NDArray[np.int64]]:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        place = np.full(len(self.levels), -1)
        place[members] = np.arange(len(members))
        near = (self.likeness >= least) & (place[self.rows] >= 0) & (place[self.columns] >= 0)
        rows, columns = place[self.rows[near]], place[self.columns[near]]
        graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(members), len(members)))
        _, labels = connected_components(graph, directed=False)
        order = np.argsort(labels, kind="stable")
        cuts = np.flatnonzero(np.diff(labels[order])) + 1
        return list(np.split(members[order], cuts))


def _linkage(found: _Candidates, members: NDArray[np.int64], min_similarity: float) -> NDArray[np.int64]:
    """For each member the place, among members, of its cluster's first."""
    try:
        from sklearn.cluster import AgglomerativeClustering
    except ImportError as error:
        raise ConfigError("align.embedder needs scikit-learn: pip install 'recsys[rag]'") from error
    cosines = found.cosine(members, members)
    levels = found.levels[members]
    distances = np.maximum(1.0 - corrected(cosines, levels, levels, found.median).astype(np.float64), 0.0)
    distances[cosines < -1.5] = APART
    np.fill_diagonal(distances, 0.0)
    model = AgglomerativeClustering(
        n_clusters=None,
        metric="precomputed",
        linkage="average",
        distance_threshold=np.nextafter(1.0 - min_similarity + 1e-6, 2.0),
    )
    labels = model.fit(distances).labels_
    _, first = np.unique(labels, return_index=True)
    return first[labels]

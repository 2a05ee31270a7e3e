"""Clusters of names against plain average linkage, and the names' features."""

from collections import defaultdict
from itertools import combinations

import numpy as np
import pytest

from data_processing import align_cluster
from data_processing.align_cluster import Points, cluster, name_features
from data_processing.align_names import plain_name


class Embedder:
    """Sees only whether a name begins like a line."""

    name = "stub"

    def embed(self, texts):
        return np.array([[1, 0] if text.startswith("lin") else [0, 1] for text in texts], dtype=np.float32)


def reference_linkage(likeness, apart, least):
    """Average linkage, pair by pair, as the textbook has it."""
    clusters = [[n] for n in range(len(likeness))]
    while True:
        best = None
        for a, b in combinations(range(len(clusters)), 2):
            pairs = [(i, j) for i in clusters[a] for j in clusters[b]]
            if any(apart[i, j] for i, j in pairs):
                continue
            mean = np.mean([min(likeness[i, j], 1.0) for i, j in pairs])
            if mean >= least and (best is None or mean > best[0]):
                best = (mean, a, b)
        if best is None:
            return {frozenset(c) for c in clusters}
        clusters[best[1]] += clusters.pop(best[2])


@pytest.mark.parametrize("seed", range(6))
def test_clusters_equal_plain_average_linkage(seed):
    random = np.random.default_rng(seed)
    n = 40
    centres = random.normal(size=(12, 16))
    features = centres[random.integers(0, 12, n)] + random.normal(size=(n, 16)) * 0.45
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    languages = [frozenset(random.choice(["en", "de", "fr", "ja"], random.integers(1, 3))) for _ in range(n)]
    settled = random.random(n) < 0.3
    cosines = np.round(features @ features.T, 5).astype(np.float64)
    apart = np.array([[bool(a & b) for a in languages] for b in languages]) | np.logical_and.outer(settled, settled)
    levels = np.array([np.sort(cosines[i][~apart[i]])[-10:].mean() for i in range(n)])
    likeness = cosines - np.add.outer(levels, levels) / 2 + np.median(levels)
    expected = reference_linkage(likeness, apart, 0.5)
    found = defaultdict(set)
    for point, number in enumerate(cluster(Points(features, languages, settled), 0.5).tolist()):
        found[number].add(point)
    assert set(map(frozenset, found.values())) == expected
    assert any(len(c) > 1 for c in expected) and len(expected) > 5


def test_a_long_chain_is_broken_and_blocks_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 6)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    points = Points(features, [frozenset([str(n)]) for n in range(300)], np.zeros(300, dtype=bool))
    whole = cluster(points, 0.3)
    monkeypatch.setattr(align_cluster, "BLOCK", 7)
    assert np.array_equal(whole, cluster(points, 0.3))
    monkeypatch.setattr(align_cluster, "LARGEST", 20)
    assert np.bincount(cluster(points, 0.3)).max() <= 20


def test_plain_names_and_features():
    assert plain_name("&Save  &As...") == "save as" and plain_name("保存(&S)") == "保存" and plain_name("&") == "&"
    features = name_features(["linie", "linien", "roof"], Embedder())
    assert np.allclose(np.linalg.norm(features, axis=1), 1)
    assert features[0] @ features[1] > features[0] @ features[2] + 0.02

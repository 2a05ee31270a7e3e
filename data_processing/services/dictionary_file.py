"""Translations from a CSV file that a person wrote or reviewed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from data_processing.services.protocols import UNKNOWN_LANGUAGE, Stats
from recsys.cleaning.small_tables import read_rows
from recsys.errors import InputError


class DictionaryFile:
    """A CSV file with the columns ``text, translation`` and optionally ``language`` (blank: any language).

    A text is looked up as it stands, then without regard to case and spacing; in the language asked for, then in rows
    without a language; where the language is unknown, in all languages, if they agree.

    Raises:
        InputError: file or column is missing, no row, a blank cell, or two translations of one text (names file, row).
    """

    def __init__(self, path: Path) -> None:
        self.stats = Stats()
        self.failures: dict[str, str] = {}
        self.doubts: dict[str, str] = {}
        self.path = path
        # text -> language ("": any) -> translation; the second table is by folded text
        self._exact: dict[str, dict[str, str]] = {}
        self._folded: dict[str, dict[str, set[str]]] = {}
        self._read()
        self.name = f"dictionary:{path.name}:{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"

    def translate(self, texts: Sequence[str], languages: Sequence[str | None]) -> list[str | None]:
        """See `Translator`; a text that the file does not hold is a failure, one in English its own translation."""
        known: dict[tuple[str, str | None], str | None] = {}
        for text, language in zip(texts, languages, strict=True):
            if (text, language) in known:
                continue
            answer = self._look_up(text, None if language == UNKNOWN_LANGUAGE else language)
            if answer is None and language == "en":
                answer = text
            if answer is None:
                self.failures[text] = f"{self.path}: has no translation of it, or several"
            known[text, language] = answer
        self.stats.failed += sum(answer is None for answer in known.values())
        self.stats.answered += sum(answer is not None for answer in known.values())
        return [known[pair] for pair in zip(texts, languages, strict=True)]

    def _look_up(self, text: str, language: str | None) -> str | None:
        exact = {code: {translation} for code, translation in self._exact.get(text, {}).items()}
        for table in (exact, self._folded.get(_fold(text), {})):
            if language is None:
                found = set().union(*table.values())
            else:
                found = table.get(language.lower()) or table.get("", set())
            if len(found) == 1:
                return next(iter(found))
        return None

    def _read(self) -> None:
        for number, row in read_rows(self.path, ("text", "translation")):
            self._add(row["text"], row["translation"].strip(), row.get("language", "").strip().lower(), number)
        if not self._exact:
            raise InputError(f"{self.path}: holds no translation; give it rows of text,translation[,language]")

    def _add(self, text: str, translation: str, language: str, row: int) -> None:
        if not text.strip() or not translation:
            raise InputError(f"{self.path}: row {row}: text or translation is blank; fill it or delete the row")
        known = self._exact.setdefault(text, {}).setdefault(language, translation)
        if known != translation:
            raise InputError(f"{self.path}: row {row}: '{text}' is '{known}' above and '{translation}' here; keep one")
        self._folded.setdefault(_fold(text), {}).setdefault(language, set()).add(translation)


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())

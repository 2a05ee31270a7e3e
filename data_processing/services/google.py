"""Google Cloud Translate, by its REST interface, version 2 (key) and version 3 (project and access token)."""

from collections.abc import Mapping, Sequence
from typing import Any

from data_processing.services.http import HttpClient
from data_processing.services.protocols import ServiceError

V2_URL = "https://translation.googleapis.com/language/translate/v2"
V3_URL = "https://translation.googleapis.com/v3"
MAX_BATCH = 128  # texts that version 2 takes at once


class GoogleTranslate:
    """One request a batch. Bills by character: `stats.characters`.

    Args:
        client: connection to `V2_URL` or `V3_URL`.
        project: ``projects/NAME`` or ``projects/NAME/locations/PLACE`` for version 3; None: version 2.
    """

    def __init__(self, client: HttpClient, project: str | None) -> None:
        self.client, self.project, self.stats = client, project, client.stats
        self.name = f"{client.service}:{client.url}:{project}"
        self.failures: dict[str, str] = {}
        self.doubts: dict[str, str] = {}

    def translate(self, texts: Sequence[str], languages: Sequence[str | None]) -> list[str | None]:
        """See `Translator`; `languages` are all the same."""
        language = languages[0] if languages else None
        if self.project is None:
            body: dict[str, Any] = {"q": list(texts), "target": "en", "format": "text"}
            path, source = "", "source"
        else:
            body = {"contents": list(texts), "targetLanguageCode": "en", "mimeType": "text/plain"}
            path, source = f"/{self.project}:translateText", "sourceLanguageCode"
        if language:
            body[source] = language
        answer = self.client.post(path, body)
        entries = self._entries(answer.get("data") if self.project is None else answer, len(texts))
        self.stats.characters += sum(map(len, texts))
        return [entry if isinstance(entry, str) else None for entry in entries]

    def _entries(self, holder: object, count: int) -> list[object]:
        entries = holder.get("translations") if isinstance(holder, Mapping) else None
        if not isinstance(entries, list) or len(entries) != count:
            found = len(entries) if isinstance(entries, list) else "no"
            raise ServiceError(f"{self.name}: {count} texts were answered with {found} translations")
        return [entry.get("translatedText") if isinstance(entry, dict) else None for entry in entries]

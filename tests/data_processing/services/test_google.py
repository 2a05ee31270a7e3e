"""Google Cloud Translate against a server on the loopback address that speaks its two versions."""

import pytest

from data_processing.services.google import GoogleTranslate
from data_processing.services.protocols import ServiceError


def test_version_2(server, client):
    server.replies = [server.Reply({"data": {"translations": [{"translatedText": "Line"}, {"translatedText": "Arc"}]}})]
    tested = GoogleTranslate(client, None)
    assert tested.translate(["Linie", "Bogen"], ["de", "de"]) == ["Line", "Arc"]
    assert server.asked[0].path == "/v1"
    assert server.asked[0].body == {"q": ["Linie", "Bogen"], "target": "en", "format": "text", "source": "de"}
    assert tested.stats.characters == 10


def test_version_3(server, client):
    server.replies = [server.Reply({"translations": [{"translatedText": "Line", "detectedLanguageCode": "de"}]})]
    assert GoogleTranslate(client, "projects/p").translate(["Linie"], [None]) == ["Line"]
    assert server.asked[0].path == "/v1/projects/p:translateText"
    expected = {"contents": ["Linie"], "targetLanguageCode": "en", "mimeType": "text/plain"}
    assert server.asked[0].body == expected


@pytest.mark.parametrize("body", [{"data": {"translations": [{"translatedText": "Line"}]}}, {"data": []}, {}])
def test_wrong_count(server, client, body):
    server.replies = [server.Reply(body)]
    with pytest.raises(ServiceError, match="2 texts were answered with (1|no) translations"):
        GoogleTranslate(client, None).translate(["Linie", "Bogen"], ["de", "de"])


def test_one_entry_without_text(server, client):
    server.replies = [server.Reply({"data": {"translations": [{"translatedText": "Line"}, {"error": "x"}]}})]
    assert GoogleTranslate(client, None).translate(["Linie", "Bogen"], ["de", "de"]) == ["Line", None]

"""Translations from a CSV file."""

import pytest

from data_processing.services.dictionary_file import DictionaryFile
from recsys.errors import InputError


@pytest.fixture
def write(tmp_path):
    def one(text, encoding="utf-8"):
        path = tmp_path / "words.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return one


def test_look_up(write):
    rows = ["text,translation,language", "Linie,Line,de", "ligne,Line,fr", "Gift,Poison,de", "Gift,Present,"]
    rows += ["Rot,Rotate,", "Zu,Close,de", "Zu,To,nl"]
    tested = DictionaryFile(write("\n".join(rows)))
    asked = [
        ("Linie", "de", "Line"),
        (" LINIE ", "de", "Line"),
        ("Linie", None, "Line"),
        ("Linie", "und", "Line"),
        ("Linie", "fr", None),
        ("Gift", "de", "Poison"),
        ("Gift", "nl", "Present"),
        ("Gift", None, None),  # two translations, and no language to choose by
        ("Rot", "pl", "Rotate"),
        ("Zu", "nl", "To"),
        ("Zu", None, None),
        ("Circle", "en", "Circle"),
        ("Kreis", "de", None),
    ]
    got = tested.translate([text for text, _, _ in asked], [language for _, language, _ in asked])
    assert got == [expected for _, _, expected in asked]
    assert set(tested.failures) == {"Linie", "Gift", "Zu", "Kreis"}
    assert (tested.stats.answered, tested.stats.failed) == (9, 4)


def test_without_language_and_with_a_byte_order_mark(write):
    tested = DictionaryFile(write('text,translation\n"Kreis, rund",Circle\n', "utf-8-sig"))
    assert tested.translate(["Kreis, rund"], ["de"]) == ["Circle"]


def test_the_name_follows_the_content(write):
    first = DictionaryFile(write("text,translation\na,b\n")).name
    assert DictionaryFile(write("text,translation\na,c\n")).name != first


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("text,translated\na,b\n", "column 'translation' is missing.*did you mean 'translated'"),
        ("text,translation\n", "holds no translation"),
        ("", "empty; needs the columns text, translation"),
        ("text,translation\na,b\nc,\n", "row 2: column 'translation' is empty"),
        ("text,translation\na\n", "row 1: column 'translation' is empty"),
        ("text,translation\na, \n", "row 1: text or translation is blank"),
        ("text,translation\na,b\na,c\n", "row 2: 'a' is 'b' above and 'c' here; keep one"),
    ],
)
def test_bad_files(write, content, reason):
    with pytest.raises(InputError, match=f"words.csv.*{reason}"):
        DictionaryFile(write(content))


def test_not_text(write, tmp_path):
    with pytest.raises(InputError, match="words.csv: row 1: not UTF-8; save as UTF-8"):
        DictionaryFile(write("text,translation\nä,b\n", "latin-1"))
    with pytest.raises(InputError, match="missing.csv: no such file"):
        DictionaryFile(tmp_path / "missing.csv")

"""The dictionary reads back what was written, follows labels, and names what a person got wrong."""

import polars as pl
import pytest

from recsys.cleaning.dictionary import CommandIds, Dictionary, nearest_message
from recsys.cleaning.fitting import AlignConfig
from recsys.errors import InputError

BY_NUMBER = AlignConfig(id_pattern=r"(?s)^(Tool|Menu): .*(\(-?\d+\))$", untrusted_ids=["Menu (58)"])


def dictionary(tmp_path, text):
    path = tmp_path / "d.csv"
    path.write_text(text, encoding="utf-8")
    return Dictionary.load(path)


def items(*names):
    return pl.DataFrame({"item_id": names, "n": range(len(names))}, schema={"item_id": pl.String, "n": pl.Int64})


def test_labels_replace_messages_and_nothing_else(tmp_path):
    loaded = dictionary(tmp_path, "message,count,label\nLinie,3,Line\nLine,9,Line\nLigne,1,Linie\n")
    events = items("Ligne", "Line", None, "Linie", "other", "Ligne")
    out = loaded.apply(events)
    assert out["item_id"].to_list() == ["Line", "Line", None, "Line", "other", "Line"]
    assert out.drop("item_id").equals(events.drop("item_id")) and out.columns == events.columns
    assert events["item_id"][0] == "Ligne", "the caller's table stays"


def test_unseen_messages_go_by_their_id_where_that_has_one_label(tmp_path):
    text = (
        "message,command_id,label\nTool: Line (-2),Tool (-2),Tool: Line (-2)\n"
        "Tool: A (3),Tool (3),Tool: A (3)\nTool: B (3),Tool (3),Tool: B (3)\nMenu: C (58),,Menu: C (58)\n"
    )
    loaded = dictionary(tmp_path, text)
    events = items("Tool: Linie (-2)", "Tool: Neu (3)", "Menu: D (58)", "Tool: Zwei (4)", "Menu: Linie (-2)")
    expected = ["Tool: Line (-2)", *events["item_id"].to_list()[1:]]
    assert loaded.apply(events, BY_NUMBER)["item_id"].to_list() == expected
    assert loaded.apply(events)["item_id"].to_list() == events["item_id"].to_list(), "without the pattern"
    copy = tmp_path / "copy.csv"
    loaded.save(copy)
    again = Dictionary.load(copy)
    assert again.table.equals(loaded.table)
    assert again.apply(events, BY_NUMBER)["item_id"].to_list() == expected


def test_command_id_is_the_groups_joined():
    ids = CommandIds(BY_NUMBER)
    assert ids.of("Tool: Line\nof two (12) (-201)") == "Tool (-201)"
    assert ids.of("Menu: X (58)") is None, "not trusted"
    assert ids.of("End Event: X (58)") is None
    assert CommandIds(None).of("Tool: X (1)") is None


def test_labels_are_followed_however_long_the_way(tmp_path):
    rows = "".join(f"m{i},m{i + 1}\n" for i in range(2_000)) + "m2000,m2000\n"
    assert dictionary(tmp_path, "message,label\n" + rows).labels["label"].unique().to_list() == ["m2000"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("message,label\na,b\nb,b\na,c\n", ["row 3", "'a'", "'c'", "'b' in row 1"]),
        ("message,label\nx,x\na,b\nb,c\nc,a\n", ["row 2", "circle", "'a' -> 'b' -> 'c' -> 'a'"]),
        ("message,label\nLine,Line\na,Lime\n", ["row 2", "'Lime' is not known", "did you mean 'Line'"]),
        ("message,label\na,\n", ["row 1", "'label' is empty"]),
        ("message,lable\na,a\n", ["column 'label' is missing", "did you mean 'lable'"]),
        ('message,label\n"a,a\n', ["cannot be read as CSV"]),
        ("", ["empty; needs the columns message, label"]),
    ],
)
def test_what_a_person_got_wrong_is_one_line(tmp_path, text, words):
    with pytest.raises(InputError) as error:
        dictionary(tmp_path, text)
    assert "\n" not in str(error.value) and str(tmp_path / "d.csv") in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_no_such_file_and_equal_rows(tmp_path):
    with pytest.raises(InputError, match="d.csv"):
        Dictionary.load(tmp_path / "d.csv")
    assert dictionary(tmp_path, "message,label\na,a\na,a\n").labels.rows() == [("a", "a")]


def test_the_nearest_of_very_many_names_is_found():
    names = [f"Tool: number {i} ({i})" for i in range(60_000)]
    assert nearest_message("Tool: numbr 777 (777)", names) == " (did you mean 'Tool: number 777 (777)'?)"
    assert nearest_message("zzz", names) == ""


@pytest.mark.parametrize("align", [None, BY_NUMBER])
def test_events_without_a_label_are_counted(tmp_path, align):
    text = "message,command_id,label\nTool: Line (-2),Tool (-2),Tool: Line (-2)\nX,,Tool: Line (-2)\n"
    names = ["Tool: Linie (-2)", "Tool: Linie (-2)", "X", "X", "Y", None, "Tool: Line (-2)", "Tool: Neu (3)"]
    out, unknown = dictionary(tmp_path, text).apply_counted(items(*names), align)
    assert out["item_id"].to_list().count("Tool: Line (-2)") == (5 if align else 3)
    assert unknown == (2 if align else 4), "Y, Neu, and without ids both Linie; a null is no name"

"""Lines to frames: the columns of a finished file, and lines that cannot be read."""

import json

import pytest

from recsys.cleaning.lines import LineReader
from recsys.cleaning.profile import load_profile
from recsys.cleaning.sources import LogReader
from recsys.errors import InputError

VECTORWORKS = load_profile("vectorworks")
HEADER = "ts,session_anonymized,cat,message"
GOOD = "2025-01-01 10:00:00.5,s,Tool,Tool: A (1)"
ROW = {"ts": "02/05/2025 14:05:59 1317.743954 +0000", "session": "s", "cat": "Tool", "message": "Tool: A (1)"}


def test_json_lines_are_read_as_in_a_file(tmp_path):
    rows = [ROW, ROW | {"message": None}, ROW | {"session": 7, "label": {"a": [1]}}, {"ts": ROW["ts"]}, ROW]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    (frame,) = LogReader(tmp_path / "log.jsonl", VECTORWORKS).frames()
    (whole,) = LineReader(VECTORWORKS, "log").read(lines)
    reader = LineReader(VECTORWORKS, "log")
    single = [f for text in lines for f in reader.read([text + "\n"])]
    assert whole.select(frame.columns).equals(frame)
    assert [f.row(0) for f in single] == whole.rows()
    assert reader.rejected_count == 0


def test_an_optional_column_may_come_within_the_first_hundred_lines():
    reader = LineReader(VECTORWORKS, "log")
    text, named = json.dumps(ROW), json.dumps(ROW | {"sn": "u"})
    assert "user_id" not in reader.read([text] * 99)[0].columns
    assert reader.read([named, text])[0]["user_id"].to_list() == ["u", None]
    late = LineReader(VECTORWORKS, "log")
    late.read([text] * 100)
    assert "user_id" not in late.read([named])[0].columns


def test_bad_rows_are_numbered_in_the_whole_log():
    reader = LineReader(VECTORWORKS, "user.csv")
    frames = reader.read([HEADER, GOOD, "", GOOD + ",one,two", GOOD])
    frames += reader.read([GOOD.replace("2025", "noon"), GOOD, HEADER, GOOD.replace("A", "\ud800")])
    assert [t for f in frames for t in f["message"].to_list()] == ["Tool: A (1)"] * 3
    found = [str(error) for error in reader.rejected]
    assert [text.split(": ")[:2] for text in found] == [["user.csv", f"line {n}"] for n in (4, 6, 9)]
    assert "6 values for 4 columns" in found[0] and "time 'noon-01-01" in found[1] and "UTF-8" in found[2]


def test_a_quote_that_is_never_closed_does_not_swallow_the_log():
    reader = LineReader(VECTORWORKS, "user.csv")
    reader.read([HEADER, GOOD.replace("Tool:", '"Tool:')])
    frames = []
    for _ in range(3):
        frames += reader.read([GOOD] * 1000)
    assert sum(f.height for f in frames) > 1_500
    assert reader.rejected_count == 1 and "line 2: a quote" in str(reader.rejected[0])


def test_a_header_without_a_needed_column_is_refused_and_another_can_follow():
    reader = LineReader(VECTORWORKS, "user.csv")
    with pytest.raises(InputError, match=r"user.csv.*'message' is missing"):
        reader.read(["ts,session,cat"])
    assert reader.read([HEADER, GOOD])[0].height == 1

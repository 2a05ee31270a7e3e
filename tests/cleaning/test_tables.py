"""Malformed tables: one line that names file, row and fix."""

import json

import pytest

from recsys.cleaning import tables
from recsys.cleaning.profile import load_profile
from recsys.cleaning.sources import LogReader
from recsys.errors import InputError

VECTORWORKS = load_profile("vectorworks")
HEADER = b"ts,session_anonymized,cat,message\n"
ROW = b"2025-01-01 10:00:00.5,s1,Tool,Tool: A (1)\n"


def failure(tmp_path, data, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        list(LogReader(path, VECTORWORKS).frames())
    text = str(error.value)
    assert text.startswith(str(path)) and "\n" not in text
    return text[len(str(path)) :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", ": the file is empty"),
        (b"\n\n", "column 'ts' is missing"),
        (HEADER, ": no rows below the header"),
        (HEADER.rstrip(), ": no rows below the header"),
        (b"ts,session_anonymized,cat\n" + ROW, "column 'message' is missing; columns: ts, session_anonymized, cat"),
        (b"time,ts,ts\n1,2,3\n", "names 'ts' twice"),
        (HEADER + ROW * 3 + b"2025-01-01 10:00:00.5,s1,Tool,\xe4 (1)\n", ": row 4: not UTF-8"),
        ((HEADER + ROW).decode().encode("utf-16"), "UTF-16"),
        (HEADER + ROW + b"a,b,c,d,e\n", ": row 2: 5 values for 4 columns"),
        (HEADER + ROW + b'x,s1,Tool,"never closed\n' + ROW, "malformed CSV"),
        (HEADER + ROW + b"yesterday,s1,Tool,Tool: A (1)\n", ": row 2: time 'yesterday'"),
    ],
)
def test_csv(tmp_path, data, message):
    assert message in failure(tmp_path, data)


def test_rows_are_counted_over_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CHUNK", 64)
    assert ": row 31: time 'never'" in failure(tmp_path, HEADER + ROW * 30 + b"never,s1,Tool,x\n")
    assert ": row 31: 5 values" in failure(tmp_path, HEADER + ROW * 30 + b"1,2,3,4,5\n")


def test_a_quote_that_never_closes_is_found_before_memory_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CHUNK", 64)
    monkeypatch.setattr(tables, "_UNCLOSED", 1024)
    assert 'is a quote (") never closed?' in failure(tmp_path, HEADER + b'x,s1,Tool,"open\n' + ROW * 100)


def live(**change):
    row = {"ts": "02/05/2025 14:05:59 1317.743954 +0000", "session": "s", "cat": "Tool", "message": "Tool: A (1)"}
    row = {k: v for k, v in (row | change).items() if v is not None}
    return json.dumps(row).encode() + b"\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (live() * 200 + b'{"ts": \n', ": row 201: not JSON"),
        (live() * 200 + b"[1]\n", ": row 201: expected one JSON object a line"),
        (live() * 200 + b'{"ts": "\xff"}\n', ": row 201: not UTF-8"),
        (live(message=None), "column 'message' is missing"),
        (live() * 3 + live(ts="02/05/2025"), ": row 4: time '02/05/2025'"),
        (b'{"ts"', "not JSON"),
        (live() + b'{"ts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", ": row 2: "),
    ],
)
def test_json_lines(tmp_path, data, message):
    assert message in failure(tmp_path, data, "a.jsonl")


def test_parquet(tmp_path):
    assert "not a readable Parquet file" in failure(tmp_path, b"PAR1 and then nothing", "a.parquet")


def test_an_unknown_encoding_is_named(tmp_path):
    profile = VECTORWORKS.model_copy(deep=True)
    profile.files.encoding = "utf-9"
    path = tmp_path / "a.csv"
    path.write_bytes(HEADER + ROW)
    with pytest.raises(InputError, match="'utf-9' is not known"):
        list(LogReader(path, profile).frames())


@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_blank_lines_are_no_rows(tmp_path, monkeypatch, chunk, end):
    monkeypatch.setattr(tables, "CHUNK", chunk)
    rows = [b"2025-01-01 10:00:00.5,s1,Tool,Tool: A (1)", b'2025-01-01 10:00:01.5,s1,Tool,"Tool: B\n\n\nb (2)"', b""]
    lines = [HEADER.strip(), b"", rows[0], b"", b" ", *rows * 3, b"", rows[0]]
    for number, tail in enumerate((b"", end, end * 3)):
        path = tmp_path / f"{number}.csv"
        path.write_bytes(end.join(lines) + tail)
        frames = list(LogReader(path, VECTORWORKS).frames())
        messages = [message for frame in frames for message in frame["message"].to_list()]
        assert messages == ["Tool: A (1)", *["Tool: A (1)", "Tool: B\n\n\nb (2)"] * 3, "Tool: A (1)"]
    assert ": row 9: time 'x'" in failure(tmp_path, path.read_bytes() + b"x,s1,Tool,Tool: A (1)")
    assert ": row 9: not UTF-8" in failure(tmp_path, path.read_bytes() + b"x,s1,Tool,\xe4")
    assert ": row 9: 5 values" in failure(tmp_path, path.read_bytes() + b"x,s1,Tool,a,b")


def test_blank_lines_of_json_lines_are_no_rows(tmp_path):
    blank = live() + b"\n" + live() + b"\r\n"
    assert ": row 3: not JSON" in failure(tmp_path, blank + b"{", "a.jsonl")
    assert ": row 3: time 'x'" in failure(tmp_path, blank + live(ts="x"), "a.jsonl")
    assert ": row 203: not JSON" in failure(tmp_path, blank + live() * 200 + b"\n{", "a.jsonl")

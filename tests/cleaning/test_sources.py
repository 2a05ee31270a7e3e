"""Logs of every wrapping and shape give the same rows; metadata is found."""

import io
import json

import polars as pl
import pytest

from recsys.cleaning import tables
from recsys.cleaning.profile import load_profile
from recsys.cleaning.sources import LogReader, attributes
from recsys.errors import InputError
from tests.cleaning.conftest import tar_bytes

VECTORWORKS = load_profile("vectorworks")
HARD = ["Tool: a, b (1)", 'Tool: "quoted" (2)', "Tool: two\nlines (3)", "Tool: 🧱 壁 (4)", "Tool: it's; \t tab (5)"]


def csv_text(messages, session="s1", header="ts,session_anonymized,cat,message"):
    quoted = ['"' + m.replace('"', '""') + '"' for m in messages]
    rows = (f'2025-01-01 10:00:{i:02}.5,"{session}",Tool,{m}' for i, m in enumerate(quoted))
    return "\n".join([header, *rows]) + "\n"


def messages(path, profile=VECTORWORKS):
    return pl.concat(LogReader(path, profile).frames())["message"].to_list()


def test_every_wrapping_gives_the_same_rows(wrapped):
    path = wrapped(csv_text(HARD))
    assert messages(path) == HARD
    assert messages(path.parent) == HARD


def test_session_ids_are_kept_intact(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(csv_text(["Tool: A (1)"], session="007, é\n🧱"), encoding="utf-8")
    assert pl.concat(LogReader(path, VECTORWORKS).frames())["session_id"].to_list() == ["007, é\n🧱"]


@pytest.mark.parametrize("chunk", [16, 61, 200])
def test_rows_do_not_depend_on_where_chunks_end(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(tables, "CHUNK", chunk)
    path = tmp_path / "a.csv"
    path.write_text(csv_text(HARD * 5), encoding="utf-8")
    assert messages(path) == HARD * 5


def live_row(message, **more):
    row = {"ts": "02/05/2025 14:05:59 1317.743954 +0000", "session": 12, "cat": "Tool", "message": message}
    return json.dumps(row | {"z": {"k": 1}} | more, ensure_ascii=False)


@pytest.mark.parametrize("chunk", [200, 1 << 20])
def test_json_lines(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(tables, "CHUNK", chunk)
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(live_row(m) for m in HARD) + "\n\n", encoding="utf-8")
    frame = pl.concat(LogReader(path, VECTORWORKS).frames())
    assert frame["message"].to_list() == HARD
    assert frame["session_id"].to_list() == ["12"] * 5
    assert frame["clock"].to_list() == [1_317_743_954] * 5


def test_parquet_alone_and_in_an_archive(tmp_path):
    time = "2025-01-01 10:00:00.5"
    frame = pl.DataFrame({"ts": [time] * 5, "session": ["s"] * 5, "cat": ["Tool"] * 5, "message": HARD})
    frame.write_parquet(tmp_path / "a.parquet")
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    (tmp_path / "b.tar").write_bytes(tar_bytes({"a.parquet": buffer.getvalue()}))
    assert messages(tmp_path / "a.parquet") == HARD
    assert messages(tmp_path / "b.tar") == HARD


def test_folder_is_read_in_natural_order_and_skips_are_named(tmp_path):
    for number in (10, 9, 1):
        (tmp_path / f"part-{number}.csv").write_text(csv_text([f"Tool: {number} (1)"]))
    (tmp_path / "notes.bin").write_text("x")
    (tmp_path / ".hidden.csv").write_text("x")
    reader = LogReader(tmp_path, VECTORWORKS)
    found = pl.concat(reader.frames())["message"].to_list()
    assert found == ["Tool: 1 (1)", "Tool: 9 (1)", "Tool: 10 (1)"]
    assert sorted(reader.skipped) == [".hidden.csv", "notes.bin"]


def test_other_separators_marks_and_line_ends(tmp_path):
    path = tmp_path / "a.csv"
    text = csv_text(["Tool: A (1)", "Tool: B (2)"]).replace(",", ";").replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert messages(path) == ["Tool: A (1)", "Tool: B (2)"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp932"])
def test_other_encodings_by_profile(tmp_path, encoding):
    profile = VECTORWORKS.model_copy(deep=True)
    profile.files.encoding = encoding
    name = "Tool: 壁 (1)" if encoding != "latin-1" else "Tool: Tür (1)"
    path = tmp_path / "a.csv"
    path.write_text(csv_text([name] * 3), encoding=encoding)
    assert messages(path, profile) == [name] * 3


VS = load_profile("visual_studio")


def test_metadata_in_folder_beside_file_and_named(tmp_path):
    log = tmp_path / "logs" / "dev.csv"
    log.parent.mkdir()
    log.write_text("timestamp,developer_id,message\n2014-01-01 10:00:00,7,Edit.Paste\n")
    table = "id,message,num_users,category\n0,Edit.Paste,1,Edit\n1,View.File,2,NULL\n2,NoDot,2,\n3,Edit.Copy,3,NA\n"
    for place in (log.parent / "MessageList.csv", tmp_path / "MessageList.csv", tmp_path / "named.csv"):
        place.write_text(table)
        for path in (log.parent, log):
            if path == log and place.parent == tmp_path and place.name != "named.csv":
                continue
            reader = LogReader(path, VS, metadata=place if place.name == "named.csv" else None)
            assert pl.concat(reader.frames()).height == 1
            assert reader.metadata is not None
            known = {"Edit.Paste": "Edit", "View.File": None, "NoDot": None, "Edit.Copy": "NA"}
            assert dict(reader.metadata.iter_rows()) == known
        place.unlink()


def test_attributes_take_the_target_from_the_name():
    items = pl.DataFrame({"item_id": ["Edit.Paste.All", "NoDot"]})
    found = attributes(items, None, VS.metadata)
    assert found["target"].to_list() == ["Edit", None]


def test_metadata_that_contradicts_itself(tmp_path):
    (tmp_path / "MessageList.csv").write_text("message,category\nA,x\nA,y\n")
    (tmp_path / "dev.csv").write_text("timestamp,developer_id,message\n2014-01-01 10:00:00,7,A\n")
    with pytest.raises(InputError, match="'A' stands twice"):
        list(LogReader(tmp_path, VS).frames())


def test_a_log_of_another_program_asks_for_the_right_profile(tmp_path):
    (tmp_path / "a.csv").write_text("when,who,what\n1,2,3\n")
    expected = (
        "column 'ts' is missing; columns: when, who, what; is it a log, and profile 'vectorworks' the one for it?"
    )
    with pytest.raises(InputError) as error:
        list(LogReader(tmp_path, load_profile("vectorworks")).frames())
    assert str(error.value) == f"{tmp_path / 'a.csv'}: {expected}"

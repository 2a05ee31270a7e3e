"""A file that grows, turns over and shrinks, against what was written into it."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.cleaning.live import LiveCleaner
from recsys.cleaning.profile import load_profile
from recsys.cleaning.tail import LogTail
from recsys.errors import ConfigError

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n\ufeff"), max_size=12)


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, max_size=8), st.data())
def test_any_cut_of_the_bytes_gives_the_lines(tmp_path_factory, lines, data):
    """Cut anywhere, in the middle of characters too; no more than a few bytes a call."""
    path = tmp_path_factory.mktemp("tail") / "log"
    whole = "".join(f"{text}\n" for text in lines).encode()
    most = data.draw(st.sampled_from([1 << 26, 3, 70]), label="most")
    written, found = 0, []
    with LogTail(path, most=most) as tail:
        while written < len(whole):
            piece = whole[written : written + data.draw(st.integers(1, 30), label="bytes")]
            append(path, piece)
            written += len(piece)
            found += tail.poll()
            assert found == lines[: len(found)]
        for _ in range(len(whole)):
            found += tail.poll()
    assert found == lines and tail.rejected_count == 0 and tail.cut == 0


def test_a_half_written_line_waits_and_a_missing_file_is_no_error(tmp_path):
    path = tmp_path / "log.jsonl"
    tail = LogTail(path)
    assert tail.poll() == []
    append(path, b'\xef\xbb\xbf{"a": 1}\r\n{"b"')
    assert tail.poll() == ['{"a": 1}']
    assert tail.poll() == []
    append(path, b": 2}")
    assert tail.poll() == []
    append(path, b"\n\n")
    assert tail.poll() == ['{"b": 2}', ""]


def test_rotation_reads_the_old_file_to_its_end_first(tmp_path):
    path = tmp_path / "log"
    append(path, b"one\n")
    tail = LogTail(path)
    assert tail.poll() == ["one"]
    append(path, b"two\nthree")
    path.rename(tmp_path / "log.1")
    append(tmp_path / "log.1", b" and more")  # by a writer that still holds the old file
    append(path, b"four\nfi")
    assert tail.poll() == ["two", "three and more", "four"]
    append(path, b"ve\n")
    assert tail.poll() == ["five"]
    path.rename(tmp_path / "log.2")
    assert tail.poll() == []
    append(path, b"six\n")
    assert tail.poll() == ["six"] and tail.cut == 0


def test_a_rotated_file_is_read_to_its_end_however_little_a_call_reads(tmp_path):
    path = tmp_path / "log"
    append(path, b"one\n")
    tail = LogTail(path, most=5)
    found = tail.poll()
    append(path, b"two\nthree\nfour\n")
    path.rename(tmp_path / "log.1")
    append(path, b"five\nsix\n")
    for _ in range(8):
        found += tail.poll()
    assert found == ["one", "two", "three", "four", "five", "six"]


@pytest.mark.parametrize("again", [b"x\n", b"another start, longer than all that was there before\n"])
def test_truncation_starts_from_the_beginning(tmp_path, again):
    path = tmp_path / "log"
    append(path, b"one\ntwo\nhal")
    tail = LogTail(path)
    assert tail.poll() == ["one", "two"]
    path.write_bytes(again)  # the same file, also where it has grown past the old position meanwhile
    assert tail.poll() == [again.decode().strip()]
    assert tail.cut == 1


def test_it_never_reads_twice(tmp_path, monkeypatch):
    path = tmp_path / "log"
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *given: read.append(len(found := pread(*given))) or found)
    tail = LogTail(path)
    for at in range(200):
        append(path, b"a line of some thirty characters, %03d\n" % at)
        assert len(tail.poll()) == 1
    assert sum(read) <= path.stat().st_size + 200 * 64


def test_a_line_that_is_not_text_is_told_and_the_others_stay(tmp_path):
    path = tmp_path / "log"
    append(path, b"one\nW\xe4nde\nthree\n")
    tail = LogTail(path)
    assert tail.poll() == ["one", "three"]
    assert tail.rejected_count == 1
    assert f"{path}: line 2: not utf-8" in str(tail.rejected[0])
    assert LogTail(path, "latin-1").poll() == ["one", "Wände", "three"]
    for encoding in ("utf-16", "no-such"):
        with pytest.raises(ConfigError, match=encoding):
            LogTail(path, encoding)


def test_a_csv_log_is_followed_into_cleaning_through_a_rotation(tmp_path):
    header = "ts,session_anonymized,cat,message\n"
    row = '2025-01-01 10:00:{:02},s,Tool,"Tool: {} (1)"\n'.format
    path = tmp_path / "log.csv"
    tail, cleaner = LogTail(path), LiveCleaner(load_profile("vectorworks"))
    text = header + row(0, "A") + row(1, 'the ""big""\none')
    cut = text.index("big")
    append(path, text[:cut].encode())
    cleaner.feed(tail.poll())
    assert cleaner.events()["item_id"].to_list() == ["Tool: A (1)"]
    append(path, text[cut:].encode())
    path.rename(tmp_path / "old.csv")
    append(path, (header + row(2, "B")).encode())
    cleaner.feed(tail.poll())
    assert cleaner.events()["item_id"].to_list() == ["Tool: A (1)", 'Tool: the "big"\none (1)', "Tool: B (1)"]
    assert cleaner.reader.rejected_count == 0

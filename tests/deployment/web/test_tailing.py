"""Files and folders that grow, turn over and shrink, against what was written into them."""

import os
import shutil

import pytest

from deployment.web import tailing
from deployment.web.notes import Notes
from deployment.web.tailing import BoundedTail, Watch
from recsys.cleaning.profile import load_profile
from recsys.errors import InputError

PROFILE = load_profile("vectorworks")


@pytest.fixture(autouse=True)
def always_look(monkeypatch):
    monkeypatch.setattr(tailing, "_LOOK", 0.0)


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


class Follower:
    """A watch and everything it gave, by name of the file."""

    def __init__(self, *paths, **options):
        self.told = []
        self.watch = Watch(paths, PROFILE, tell=Notes(self.told.append), **options)

    def poll(self):
        return {found.path.name: found.lines for found in self.watch.poll()}


def test_a_line_that_is_too_long_is_dropped_and_counted_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "log"
    tail = BoundedTail(path, longest=100)
    append(path, b"a\n" + b"x" * 101 + b"\nb\n" + b"y" * 100 + b"\n")
    assert tail.poll() == ["a", "b", "y" * 100] and tail.too_long == 1
    for _ in range(5):
        append(path, b"z" * 90)
        assert tail.poll() == []
    assert tail.too_long == 2 and len(tail._rest) <= 100
    append(path, b"z\nc\nd")
    assert tail.poll() == ["c"]
    append(path, b"\n")
    assert tail.poll() == ["d"] and tail.too_long == 2


def test_the_end_of_a_dropped_line_is_no_line_after_rotation_or_truncation(tmp_path):
    path = tmp_path / "log"
    tail = BoundedTail(path, longest=10)
    append(path, b"x" * 30)
    assert tail.poll() == []
    append(path, b"tail")
    path.rename(tmp_path / "old")
    append(path, b"one\n")
    assert tail.poll() == ["one"]
    append(path, b"z" * 30)
    assert tail.poll() == []
    path.rename(tmp_path / "older")
    append(path, b"1.5\n")
    assert tail.poll() == ["1.5"]
    append(path, b"y" * 30)
    assert tail.poll() == []
    path.write_bytes(b"two\n")
    assert tail.poll() == ["two"] and tail.too_long == 3


def test_files_of_a_folder_are_followed_from_their_start_whenever_they_appear(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"a1\na2")
    follower = Follower(tmp_path)
    assert follower.poll() == {"a.jsonl": ["a1"]}
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b.jsonl").write_bytes(b"b1\n")
    (tmp_path / "README.md").write_bytes(b"no log\n")
    (tmp_path / "empty.jsonl").touch()
    append(tmp_path / "a.jsonl", b"\na3\n")
    assert follower.poll() == {"a.jsonl": ["a2", "a3"], "b.jsonl": ["b1"]}
    append(tmp_path / "empty.jsonl", b"e1\n")
    assert follower.poll() == {"empty.jsonl": ["e1"]}
    assert follower.poll() == {}
    (tmp_path / "below" / "b.jsonl").unlink()
    follower.poll()
    follower.poll()
    assert follower.watch.counts()["files"] == 2


@pytest.mark.parametrize("name", ["log.jsonl.1", "log.jsonl-20250131", "kept.jsonl"])
def test_a_rotated_part_in_the_folder_is_not_read_twice(tmp_path, name):
    path = tmp_path / "log.jsonl"
    append(path, b"one\n")
    follower = Follower(tmp_path)
    assert follower.poll() == {"log.jsonl": ["one"]}
    append(path, b"three")
    path.rename(tmp_path / name)
    append(path, b"four\n")
    assert follower.poll() == {"log.jsonl": ["three", "four"]}
    for _ in range(3):
        assert follower.poll() == {}


def test_parts_that_were_rotated_away_before_the_start_are_not_followed(tmp_path):
    names = [
        "log.jsonl",
        "log.jsonl.1",
        "log.jsonl.2025-01-31",
        "log.jsonl-20250131T10",
        "log.jsonl.old",
        "log.2.jsonl",
    ]
    for name in names:
        append(tmp_path / name, name.encode() + b"\n")
    follower = Follower(tmp_path)
    assert set(follower.poll()) == {"log.jsonl", "log.2.jsonl"} and follower.poll() == {}
    assert len(follower.told) == 4 and "a part of log.jsonl that was rotated away" in follower.told[0]


@pytest.mark.parametrize("name", ["log.jsonl.1", "kept.jsonl"])
def test_a_copy_that_is_left_by_truncation_is_not_read_twice(tmp_path, name):
    path, first = tmp_path / "log.jsonl", b"".join(b"line %d\n" % n for n in range(10))
    append(path, first)
    follower = Follower(tmp_path)
    assert len(follower.poll()["log.jsonl"]) == 10
    shutil.copyfile(path, tmp_path / name)
    os.truncate(path, 0)
    append(path, b"new\n")
    assert follower.poll() == {"log.jsonl": ["new"]}
    assert follower.poll() == {}


def test_files_with_the_same_header_are_different_logs(tmp_path):
    header = b",".join(b"column %d" % n for n in range(200)) + b"\n"
    (tmp_path / "a.csv").write_bytes(header + b"a\n")
    follower = Follower(tmp_path)
    assert len(follower.poll()["a.csv"]) == 2
    (tmp_path / "b.csv").write_bytes(header + b"b\n")
    (tmp_path / "c.csv").write_bytes(header)
    assert {name: len(lines) for name, lines in follower.poll().items()} == {"b.csv": 2, "c.csv": 1}


def test_a_file_whose_number_was_used_by_one_that_is_gone_is_new(tmp_path):
    path = tmp_path / "log.jsonl"
    append(path, b"one\n")
    follower = Follower(tmp_path)
    follower.poll()
    follower.watch._read.add((path.stat().st_dev, 123456789))
    follower.poll()
    assert {inode for _, inode in follower.watch._read} == {path.stat().st_ino}


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"\xfd7zXZ\x00", b"PAR1", b"\x28\xb5\x2f\xfd"])
def test_packed_files_are_refused_by_name_and_passed_over_in_folders(tmp_path, magic):
    path = tmp_path / "log.jsonl"
    path.write_bytes(magic + b"rest")
    with pytest.raises(InputError, match=r"log\.jsonl: a \w+ file.*--replay"):
        Follower(path)
    told = []
    watch = Watch([tmp_path], PROFILE, tell=told.append)
    assert not list(watch.poll()) and not list(watch.poll())
    assert len(told) == 1 and "is not followed" in told[0]


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="none.jsonl: no such file or folder"):
        Follower(tmp_path / "none.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match="only files can be followed"):
        Follower(tmp_path / "pipe.jsonl")
    assert Follower(tmp_path).poll() == {}  # a pipe in a folder would block whoever opens it


def test_of_too_many_files_the_newest_are_followed(tmp_path):
    for n in range(6):
        (tmp_path / f"{n}.jsonl").write_bytes(b"x\n")
        os.utime(tmp_path / f"{n}.jsonl", (n, n))
    follower = Follower(tmp_path, most=2)
    assert set(follower.poll()) == {"4.jsonl", "5.jsonl"}
    assert len(follower.told) == 1 and "more than 2 files" in follower.told[0]


def test_a_file_that_cannot_be_read_is_said_once_and_read_when_it_can(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    append(path, b"one\n")
    follower = Follower(path)

    def refuse(self):
        raise InputError("permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(BoundedTail, "poll", refuse)
        assert follower.poll() == {} == follower.poll()
    assert len(follower.told) == 1
    assert follower.poll() == {"log.jsonl": ["one"]}


def test_lines_that_are_no_text_are_counted(tmp_path):
    append(tmp_path / "log.jsonl", b"good\n\xff\xfe\n\xc3\n")
    follower = Follower(tmp_path)
    assert follower.poll() == {"log.jsonl": ["good"]}
    append(tmp_path / "log.jsonl", b"\xc3")
    follower.poll()
    append(tmp_path / "log.jsonl", b"\xa9\n")
    assert follower.poll() == {"log.jsonl": ["é"]}
    assert follower.watch.counts()["not_text"] == 2

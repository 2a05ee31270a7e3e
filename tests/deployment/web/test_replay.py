"""A recorded log played again: every byte of every line, at the pace of its times."""

import gzip
import json
import lzma
import time

import pytest

from data_processing.simulate import simulate
from deployment.web.feed import Feed
from deployment.web.replay import Replay, timed_lines
from recsys.cleaning.pipeline import clean_logs
from recsys.cleaning.profile import load_profile
from recsys.errors import InputError
from tests.tiny_live import VECTORWORKS as CLEANING
from tests.tiny_live import log_line

VECTORWORKS = load_profile("vectorworks")


def pauses(path, **options):
    return [(timed.line, timed.pause) for timed in timed_lines(path, VECTORWORKS, **options)]


def test_pauses_are_those_of_the_log_by_the_speed_and_never_too_long(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [log_line("Wall", second) for second in (0, 4, 4, 2, 6, 50)]
    path.write_bytes(b"".join(lines))
    assert pauses(path, speed=2.0) == list(zip(lines, (0.0, 2.0, 0.0, 0.0, 2.0, 5.0), strict=True))
    assert [pause for _, pause in pauses(path, longest=1.0)] == [0.0, 1.0, 0.0, 0.0, 1.0, 1.0]


def test_lines_that_cannot_be_read_are_played_too(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [log_line("Wall", 0), b"no json\n", b"\xff\xfe\x00\n", b"\n", log_line("Wall", 9)]
    path.write_bytes(b"".join(lines)[:-1])
    found = pauses(path)
    assert [line for line, _ in found] == lines  # the last one gets its newline
    assert sum(pause for _, pause in found) == 5.0


@pytest.mark.parametrize("pack", [None, gzip.open, lzma.open])
def test_a_generated_log_that_is_played_is_cleaned_as_if_it_were_read(tmp_path, pack):
    simulate(tmp_path / "made", users=2, sessions_per_user=1, log_format="live", events_per_session=20.0)
    (made,) = (tmp_path / "made" / "logs").glob("*.jsonl")
    log = made
    if pack:
        log = tmp_path / "log.jsonl.packed"
        with pack(log, "wb") as file:
            file.write(made.read_bytes())
    folder = tmp_path / "played"
    folder.mkdir()
    told = []
    with Replay(log, folder, VECTORWORKS, speed=1e9, tell=told.append) as replay:
        feed = Feed([replay.file], CLEANING, tell=told.append)
        feed.poll()
        assert replay.wait(30)
        while feed.poll().behind:
            pass
        assert replay.file.read_bytes() == made.read_bytes()
    assert feed.cleaner.events().equals(clean_logs(made, VECTORWORKS))
    assert told == [f"{log}: played to its end, {replay.lines:,} lines"]


def test_the_real_log_is_played_whole(tmp_path, shared_data):
    log = shared_data("vw_log/vw_user_log.jsonl.xz")
    with Replay(log, tmp_path, VECTORWORKS, speed=1e9, tell=lambda _: None) as replay:
        assert replay.wait(60)
    lines = replay.file.read_bytes().splitlines()
    assert len(lines) == replay.lines > 1000 and all(json.loads(line)["session"] for line in lines)
    assert replay.file.name == "vw_user_log.jsonl"


def test_a_csv_log_begins_with_its_header(tmp_path):
    path = tmp_path / "log.csv"
    rows = [f"2025-01-02 10:00:{at},a,UNDO,End Event: Wall (1)\n".encode() for at in ("00.0", "02.5")]
    lines = [b"ts,session_anonymized,cat,message\n", *rows]
    path.write_bytes(b"".join(lines))
    assert [line for line, _ in pauses(path)] == lines
    assert sum(pause for _, pause in pauses(path)) == 2.5


def test_it_stops_in_the_middle_of_a_pause(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(log_line("Wall", 0) + log_line("Door", 59))
    folder = tmp_path / "played"
    folder.mkdir()
    with Replay(path, folder, VECTORWORKS, longest=3600.0, tell=print) as replay:
        until = time.monotonic() + 20
        while replay.lines < 1 and time.monotonic() < until:
            time.sleep(0.002)
    assert replay.lines == 1 and replay.wait(0)


def test_what_cannot_be_played_is_refused_before_anything_is(tmp_path):
    def refused(path, match):
        with pytest.raises(InputError, match=match):
            Replay(path, tmp_path, VECTORWORKS)

    refused(tmp_path / "none", "none: no such file")
    refused(tmp_path, "a folder; name one file of it")
    (tmp_path / "empty").touch()
    refused(tmp_path / "empty", "empty: the file is empty")
    (tmp_path / "table.parquet").write_bytes(b"PAR1....")
    refused(tmp_path / "table.parquet", "a Parquet file has no lines")
    (tmp_path / "other.csv").write_bytes(b"a,b\n1,2\n")
    refused(tmp_path / "other.csv", "other.csv: column 'ts' is missing")
    (tmp_path / "other.jsonl").write_bytes(b'{"a": 1}\n')
    refused(tmp_path / "other.jsonl", "not one of its first lines can be read: .*column 'ts' is missing")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(log_line("Wall", 0) * 10)[:-20])
    refused(tmp_path / "cut.gz", "the gzip file is cut off")


def test_a_line_that_is_none_ends_the_replay_with_a_line(tmp_path):
    path, folder, told = tmp_path / "log.jsonl", tmp_path / "played", []
    folder.mkdir()
    path.write_bytes(log_line("Wall", 0) * 200 + b"x" * (17 << 20))
    with Replay(path, folder, VECTORWORKS, speed=1e9, tell=told.append) as replay:
        assert replay.wait(30)
    assert replay.lines == 192 and len(told) == 1 and told[0].endswith("is it a log?; the replay ends here")


def test_a_log_that_is_packed_is_played_from_a_copy_that_is_whole(tmp_path):
    path, folder = tmp_path / "log.jsonl.gz", tmp_path / "played"
    folder.mkdir()
    path.write_bytes(gzip.compress(log_line("Wall", 0))[:-4])
    with pytest.raises(InputError, match="the gzip file is cut off"):
        Replay(path, folder, VECTORWORKS)
    path.write_bytes(gzip.compress(log_line("Wall", 0)))
    with Replay(path, folder, VECTORWORKS, tell=lambda _: None) as replay:
        path.unlink()
        assert replay.wait(30)
    assert replay.file.read_bytes() == log_line("Wall", 0) and replay.file.name == "log.jsonl"

"""Outputs appear whole or not at all; commands leave with a status and one line."""

import argparse
import errno
import mmap
import os
import resource
import signal
import subprocess
import sys

import polars as pl
import pytest

from recsys.errors import InputError
from recsys.runtime import (
    atomic_file,
    atomic_folder,
    command_line,
    gigabytes,
    note,
    peak_memory_gb,
    resident_memory_gb,
    sha256_file,
)


def test_a_folder_appears_by_rename(tmp_path):
    out = tmp_path / "deep" / "out"
    with atomic_folder(out) as work:
        (work / "a").write_text("1")
        assert not out.exists()
    assert (out / "a").read_text() == "1"
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as work:
        (work / "a").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_it_may_be_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("1")
    with pytest.raises(InputError, match="exists already"), atomic_folder(out):
        pass
    with pytest.raises(RuntimeError), atomic_folder(out, replace=True):
        raise RuntimeError
    assert (out / "old").exists()
    with atomic_folder(out, replace=True) as work:
        (work / "new").write_text("2")
    assert [p.name for p in out.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_two_runs_on_one_folder_the_second_is_refused(tmp_path):
    with atomic_folder(tmp_path / "out") as work:
        (work / "a").write_text("first")
        for replace in (False, True):
            again = atomic_folder(tmp_path / "out", replace=replace)
            with pytest.raises(InputError, match="another run is writing it"), again:
                pass
        with atomic_folder(tmp_path / "other"):
            pass
    assert (tmp_path / "out" / "a").read_text() == "first"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "out"]


KILLED = """
import sys, time
from pathlib import Path
from recsys.runtime import atomic_folder
with atomic_folder(Path(sys.argv[1])) as work:
    (work / "half").write_text("x")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_left_neither_blocks_nor_stays(tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(out)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(InputError, match="another run is writing it"), atomic_folder(out):
            pass
        process.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 2  # its lock, and the folder it was writing
    (tmp_path / ".out.by_hand").mkdir()  # a name that looks alike, but is not what the lock names
    with atomic_folder(out) as work:
        (work / "whole").write_text("y")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.by_hand", "out"]
    assert [p.name for p in out.iterdir()] == ["whole"]


def test_a_lock_that_names_anything_else_removes_nothing(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / ".out.lock").write_text("precious")
    with atomic_folder(tmp_path / "out"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "precious"]


@pytest.mark.parametrize("error", ["system", "polars"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, error):
    text = "out: cannot be written: the disk is full; nothing of it is kept"
    with pytest.raises(InputError, match=text), atomic_folder(tmp_path / "out") as work:
        (work / "half").write_text("x")
        if error == "system":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_grow_is_one_line_and_leaves_nothing(tmp_path):
    """The nearest to a full disk that needs no rights: a real write of Polars that the system refuses."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        text = "out: cannot be written: the file is too large"
        with pytest.raises(InputError, match=text), atomic_folder(tmp_path / "out") as work:
            pl.DataFrame({"a": range(100_000)}).write_parquet(work / "a.parquet", compression="uncompressed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_by_rename(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as work:
        work.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with atomic_file(path) as work:
        work.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_become_one_line_and_status_two(capsys):
    @command_line
    def main(arguments):
        raise InputError(f"{arguments[0]}: no such file")

    assert main(["log.csv"]) == 2
    assert capsys.readouterr().err == "error: log.csv: no such file\n"
    with pytest.raises(InputError):
        main(["log.csv", "--debug"])


def test_other_exceptions_are_not_hidden():
    @command_line
    def main(arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main([])


def test_sha256_of_a_known_text(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_note_is_one_line_on_standard_error(capsys):
    note("2 sessions are empty")
    assert capsys.readouterr() == ("", "note: 2 sessions are empty\n")


def test_gigabytes_are_given_in_bytes():
    assert [gigabytes(text) for text in ("256", "0.5", "1e-9")] == [256 * 10**9, 5 * 10**8, 1]
    for text in ("0", "-1", "nan", "inf", "lots", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}': expected a number of gigabytes above 0"):
            gigabytes(text)


@pytest.mark.parametrize("below", ["x", "x/y"])
def test_a_place_below_a_file_is_one_line_that_names_the_file(tmp_path, below, capsys):
    file = tmp_path / "log.csv"
    file.write_text("kept")
    for write in (atomic_file, atomic_folder):
        with pytest.raises(InputError) as error, write(file / below):
            pytest.fail("nothing can be written there")
        assert str(error.value) == f"{file / below}: cannot be written: {file} is a file; choose another place"
    assert file.read_text() == "kept" and list(tmp_path.iterdir()) == [file]


def test_resident_memory_is_that_of_now():
    before = resident_memory_gb()
    held = mmap.mmap(-1, 200_000_000)  # given back when it is closed, which no allocator promises of its own
    held[:: mmap.PAGESIZE] = bytes(len(held[:: mmap.PAGESIZE]))
    assert resident_memory_gb() - before > 0.15
    held.close()
    assert resident_memory_gb() - before < 0.1
    assert peak_memory_gb() - before > 0.15

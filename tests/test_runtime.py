"""Outputs appear whole or not at all; commands leave with a status and one line."""

import argparse

import pytest

from recsys.errors import InputError
from recsys.runtime import atomic_file, atomic_folder, command_line, gigabytes, note, sha256_file


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

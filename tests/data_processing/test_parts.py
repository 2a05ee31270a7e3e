"""Events folders: what opens, what is refused, and the flags that say who works."""

import argparse
import json
import os

import polars as pl
import pytest

from data_processing.parts import EventsFolder, add_workers, given_workers, link_or_copy, read_table, write_json
from recsys.buckets import Workers
from recsys.cleaning.profile import load_profile
from recsys.config import save_config
from recsys.errors import InputError

SHELL = load_profile("shell_cyber")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "raw"
    (path / "events").mkdir(parents=True)
    (path / "cleaning").mkdir()
    save_config(SHELL, path / "cleaning" / "profile.yaml")
    for number in (11, 2, 0):
        rows = pl.DataFrame({"session_id": ["s"], "item_id": ["A"], "timestamp": [number]})
        rows.write_parquet(path / "events" / f"part-{number:05d}.parquet")
    (path / "events" / "notes.txt").write_text("not a part")
    write_json(path / "report.json", {"stages": [], "größe": 1})
    return path


def test_parts_are_in_order_with_their_profile_and_report(folder):
    found = EventsFolder(folder)
    assert [pl.read_parquet(part)["timestamp"].item() for part in found.parts] == [0, 2, 11]
    assert found.columns == ["session_id", "item_id", "timestamp"]
    assert found.profile == SHELL
    assert found.report() == {"stages": [], "größe": 1}
    other = load_profile("vectorworks")
    assert EventsFolder(folder, other).profile is other


@pytest.mark.parametrize("gone", ["events", "cleaning"])
def test_another_folder_is_refused(gone, folder):
    (folder / gone).rename(folder / "away")
    with pytest.raises(InputError, match="raw: not a folder of data_processing.reconstruct"):
        EventsFolder(folder)


def test_a_folder_without_parts_is_refused(folder):
    for part in (folder / "events").glob("*.parquet"):
        part.unlink()
    with pytest.raises(InputError, match=r"events/ holds no part-\*.parquet"):
        EventsFolder(folder)


@pytest.mark.parametrize("content", [None, b"{", b"\xff"])
def test_a_damaged_report_is_one_line_with_the_fix(content, folder):
    report = folder / "report.json"
    report.unlink() if content is None else report.write_bytes(content)
    with pytest.raises(InputError) as caught:
        EventsFolder(folder).report()
    line = str(caught.value)
    assert line.startswith(f"{report}: cannot be read") and "run the stage that writes it again" in line
    assert "\n" not in line


def test_json_is_for_people(tmp_path):
    write_json(tmp_path / "a.json", {"name": "größe 壁", "list": [1]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "größe 壁" in text and text.endswith("}\n") and text.count("\n") > 3
    assert json.loads(text) == {"name": "größe 壁", "list": [1]}


def test_a_linked_file_has_no_second_copy_of_its_bytes(tmp_path, monkeypatch):
    source = tmp_path / "a"
    source.write_bytes(b"content")
    link_or_copy(source, tmp_path / "b")
    assert (tmp_path / "b").stat().st_ino == source.stat().st_ino

    def refuse(*_):
        raise OSError("this file system cannot")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(source, tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"content"
    assert (tmp_path / "c").stat().st_ino != source.stat().st_ino


def given(*flags):
    parser = argparse.ArgumentParser()
    add_workers(parser)
    return given_workers(parser.parse_args(flags))


def test_who_works_is_said_by_flags():
    assert given() == Workers("loop", os.cpu_count())
    assert given("--engine", "processes", "--workers", "7") == Workers("processes", 7)


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_a_number_of_workers_that_cannot_be_is_refused(number, capsys):
    with pytest.raises(SystemExit) as left:
        given("--engine", "processes", "--workers", number)
    assert left.value.code == 2
    assert f"'{number}': expected a whole number from 1 on" in capsys.readouterr().err


def test_a_part_that_was_cut_off_is_named(folder):
    part = sorted((folder / "events").glob("*.parquet"))[-1]
    with part.open("r+b") as file:
        file.truncate(part.stat().st_size // 2)
    with pytest.raises(InputError, match=rf"{part.name}: not a readable Parquet file \(cut off\?\)"):
        EventsFolder(folder)


def test_a_part_that_is_damaged_within_is_named_where_it_is_read(folder):
    part = folder / "events" / "part-00002.parquet"
    whole = pl.DataFrame({"session_id": [f"s{i}" for i in range(2000)], "item_id": ["A", "B"] * 1000})
    whole.write_parquet(part)
    assert read_table(part, ["item_id"]).equals(whole.select("item_id"))
    with pytest.raises(InputError, match=r"part-00002.parquet: .*timestamp.*; run the stage that wrote it again"):
        read_table(part, ["item_id", "timestamp"])
    data = bytearray(part.read_bytes())
    data[4:400] = bytes(396)
    part.write_bytes(data)
    assert len(EventsFolder(folder).parts) == 3, "its end is whole"
    with pytest.raises(InputError, match=r"part-00002.parquet: not a readable Parquet file \(cut off\?\): ") as error:
        read_table(part)
    assert "\n" not in str(error.value)


def test_a_filtered_folder_is_told_from_one_of_reconstruct(folder):
    EventsFolder(folder).require_unfiltered()
    (folder / "commands.parquet").touch()
    with pytest.raises(InputError, match="raw: is filtered already; give the folder of data_processing.reconstruct"):
        EventsFolder(folder).require_unfiltered()

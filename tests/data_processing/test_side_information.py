import json
import os
import socket
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from data_processing import services
from data_processing.parts import EventsFolder
from data_processing.services.protocols import ServiceDown, Unreachable
from data_processing.side_information import add_side_information, main
from data_processing.side_information_table import names_of
from recsys.cleaning.workflows import Workflow, Workflows
from recsys.errors import ConfigError, InputError
from tests.data_processing.side_information_fakes import (
    ITEMS,
    ScriptedChat,
    WordEmbedder,
    config,
    documentation,
    events_folder,
)

GOOD = '{"summary": "Draws  a wall.", "classification": "Create", "target": "Wall"}'
BAD_LABEL = '{"summary": "Removes it.", "classification": "Destroy", "target": "Group"}'
CHAT = {"chat": {"kind": "scripted"}}


@pytest.fixture
def embedders(monkeypatch: pytest.MonkeyPatch) -> list[WordEmbedder]:
    """Every embedder that the stage made: queries first, then documents; and no network for anybody."""
    made: list[WordEmbedder] = []

    def make(*_: object) -> WordEmbedder:
        made.append(WordEmbedder())
        return made[-1]

    def refuse(*_: object) -> None:
        raise AssertionError("a network request")

    monkeypatch.setattr(services, "make_embedder", make)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return made


def _chat(monkeypatch: pytest.MonkeyPatch, script: dict) -> ScriptedChat:
    chat = ScriptedChat(script)
    monkeypatch.setattr(services, "make_chat", lambda *_: chat)
    return chat


def _table(out: Path) -> dict[str, dict]:
    return {row["item_id"]: row for row in pl.read_csv(out / "side_information.csv").iter_rows(named=True)}


def test_offline_gives_sentences_and_labels(tmp_path: Path, embedders: list[WordEmbedder]) -> None:
    events, docs = events_folder(tmp_path / "events", config()), documentation(tmp_path / "docs")
    report = add_side_information(events, docs, tmp_path / "out")
    table = _table(tmp_path / "out")
    wall, group, layer, door, rare = (table[item] for item in ITEMS)
    assert wall["summary"].startswith("Draws a straight wall between two points.")
    assert (wall["classification"], wall["target"], wall["sources"]) == ("Create", "Wall", "wall.md#Wall")
    assert group["summary"] == "Removes a group and all objects in it."
    assert (group["classification"], group["target"]) == ("Delete", "Group")
    assert (layer["classification"], layer["target"]) == ("Move", "Layer")
    assert (door["summary"], door["classification"], door["target"]) == (None, "Create", None)
    assert door["reason"].startswith("no sentence near enough")
    assert (rare["status"], rare["classification"]) == ("rare", None)
    commands = pl.read_parquet(tmp_path / "out" / "commands.parquet")
    assert commands["item_id"].to_list() == list(ITEMS)
    assert commands["description"].to_list()[1] == group["summary"]
    assert report["side_information"]["status"] == {"extracted": 4, "rare": 1}
    assert json.loads((tmp_path / "out" / "report.json").read_text())["side_information"]["documents"]["chunks"] == 3


def test_the_folder_is_complete_and_parts_are_linked(tmp_path: Path, embedders: list[WordEmbedder]) -> None:
    events, docs = events_folder(tmp_path / "events", config()), documentation(tmp_path / "docs")
    add_side_information(events, docs, tmp_path / "out")
    names = {str(p.relative_to(events)) for p in events.rglob("*")}
    assert names < {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")}
    assert os.path.samefile(
        events / "events" / "part-00000.parquet", tmp_path / "out" / "events" / "part-00000.parquet"
    )
    with pytest.raises(InputError, match="exists already"):
        add_side_information(events, docs, tmp_path / "out")


def test_a_second_run_embeds_no_document_and_writes_the_same(tmp_path: Path, embedders: list[WordEmbedder]) -> None:
    events, docs = events_folder(tmp_path / "events", config()), documentation(tmp_path / "docs")
    for name in ("one", "two"):
        add_side_information(events, docs, tmp_path / name, cache=tmp_path / "cache")
    assert [e.texts for e in embedders[1::2]] == [3, 0]
    for name in ("commands.parquet", "side_information.csv", "report.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    (docs / "door.md").write_text("# Door\n\nSets a door into a wall of the plan.\n")
    add_side_information(events, docs, tmp_path / "three", cache=tmp_path / "cache")
    assert embedders[-1].texts == 4  # other documents are another collection


def test_answers_are_checked_corrected_once_and_failures_recorded(
    tmp_path: Path, embedders: list[WordEmbedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    good_group = BAD_LABEL.replace("Destroy", "Delete")
    script = {
        "Wall": GOOD,
        "Group": [BAD_LABEL, good_group],
        "Layer": ["no JSON", "{}"],
        "Door": Unreachable("HTTP 503"),
    }
    chat = _chat(monkeypatch, script)
    events, docs = events_folder(tmp_path / "events", config(**CHAT)), documentation(tmp_path / "docs")
    report = add_side_information(events, docs, tmp_path / "out")["side_information"]
    table = _table(tmp_path / "out")
    assert (table[ITEMS[0]]["summary"], table[ITEMS[0]]["status"]) == ("Draws a wall.", "answered")
    assert table[ITEMS[1]]["classification"] == "Delete"
    assert table[ITEMS[2]]["status"] == table[ITEMS[3]]["status"] == "failed"
    assert table[ITEMS[2]]["classification"] is None
    assert "summary" in table[ITEMS[2]]["reason"]
    assert table[ITEMS[3]]["reason"] == "HTTP 503"
    assert report["status"] == {"answered": 2, "failed": 2, "rare": 1}
    assert [f["item_id"] for f in report["failures"]] == [ITEMS[2], ITEMS[3]]
    assert [q.splitlines()[0] for q in chat.asked] == [
        "Command: Wall", *["Command: Delete Group"] * 2, *["Command: Move Layer"] * 2, "Command: Door",
    ]  # fmt: skip
    assert "'Create', 'Update', 'Delete' or 'Move'" in chat.asked[2]  # the correction tells what was wrong
    assert "Draws a straight wall between two points." in chat.asked[0]
    assert "Create (tool); Update; Delete; Move" in chat.asked[0]
    costs = json.loads((tmp_path / "out" / "side_information_costs.json").read_text())
    assert (costs["questions"], costs["corrected"]) == (4, 2)


def test_a_service_that_is_down_leaves_nothing(
    tmp_path: Path, embedders: list[WordEmbedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    _chat(monkeypatch, {"Wall": GOOD, "": ServiceDown("key refused")})
    events, docs = events_folder(tmp_path / "events", config(**CHAT)), documentation(tmp_path / "docs")
    with pytest.raises(ServiceDown, match="key refused"):
        add_side_information(events, docs, tmp_path / "out", cache=tmp_path / "cache")
    assert not (tmp_path / "out").exists()


def test_known_metadata_stays_unless_it_is_to_be_replaced(
    tmp_path: Path, embedders: list[WordEmbedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, Any] = {
        "classification": ["Known", "Known", None, None, None],
        "target": ["Thing", None, None, None, None],
        "description": ["Said before.", None, None, None, None],
    }
    events, docs = events_folder(tmp_path / "events", **known), documentation(tmp_path / "docs")
    chat = _chat(monkeypatch, {"": GOOD})
    add_side_information(events, docs, tmp_path / "kept", config=config(**CHAT), limit=2)
    table = _table(tmp_path / "kept")
    assert [table[item]["status"] for item in ITEMS] == ["known", "answered", "answered", "not asked", "rare"]
    assert (table[ITEMS[0]]["summary"], table[ITEMS[0]]["target"]) == ("Said before.", "Thing")
    assert (table[ITEMS[1]]["classification"], table[ITEMS[1]]["target"]) == ("Known", "Wall")
    assert len(chat.asked) == 2
    add_side_information(events, docs, tmp_path / "new", config=config(replace=True, **CHAT))
    assert _table(tmp_path / "new")[ITEMS[0]]["classification"] == "Create"


def test_overrides_win(tmp_path: Path, embedders: list[WordEmbedder]) -> None:
    events, docs = events_folder(tmp_path / "events", config()), documentation(tmp_path / "docs")
    overrides = tmp_path / "mine.csv"
    overrides.write_text(f'item_id,target,summary\n"{ITEMS[0]}",Group,\n"{ITEMS[4]}",,Seldom used.\n')
    add_side_information(events, docs, tmp_path / "out", overrides=overrides)
    table = _table(tmp_path / "out")
    assert (table[ITEMS[0]]["target"], table[ITEMS[0]]["classification"]) == ("Group", "Create")
    assert table[ITEMS[0]]["summary"].startswith("Draws a straight wall")
    assert table[ITEMS[4]]["summary"] == "Seldom used."
    assert table[ITEMS[0]]["status"] == table[ITEMS[4]]["status"] == "override"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "item_id,target\nTool: Wal (-203),Wall\n",
            r"mine.csv: row 1: no command 'Tool: Wal \(-203\)' \(did you mean 'Tool: Wall",
        ),
        (f"item_id,target\n{ITEMS[0]},Wall\n{ITEMS[0]},Group\n", "row 2: .* stands in row 1 already"),
        (f"item_id,target\n{ITEMS[0]},Wal\n", r"row 1: target 'Wal' is none .*did you mean 'Wall'"),
        ("item,target\nx,Wall\n", "column 'item_id' is missing"),
        ("item_id,other\nx,Wall\n", "has none of the columns summary, classification, target; columns: item_id, other"),
    ],
)
def test_wrong_overrides_are_one_line(tmp_path: Path, embedders: list[WordEmbedder], text: str, message: str) -> None:
    events, docs = events_folder(tmp_path / "events", config()), documentation(tmp_path / "docs")
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        add_side_information(events, docs, tmp_path / "out", overrides=tmp_path / "mine.csv")


def test_names_for_people_also_of_workflows(tmp_path: Path) -> None:
    events = events_folder(tmp_path / "events")
    Workflows(merges=[Workflow(name="A + B", constituents=[ITEMS[0], ITEMS[2]])]).save(events / "cleaning")
    names = names_of(["A + B", ITEMS[1], "Edit.Undo"], EventsFolder(events))
    assert names == ["Wall, then Move Layer", "Delete Group", "Edit.Undo"]


def test_a_profile_without_the_section_and_the_command_line(
    tmp_path: Path, embedders: list[WordEmbedder], capsys: pytest.CaptureFixture[str]
) -> None:
    docs = documentation(tmp_path / "docs")
    bare = events_folder(tmp_path / "bare")
    with pytest.raises(ConfigError, match="no section side_information"):
        add_side_information(bare, docs, tmp_path / "out")
    events = events_folder(tmp_path / "events", config())
    arguments = ["--events", str(events), "--docs", str(docs), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "5 commands (extracted 4, rare 1)" in capsys.readouterr().out
    assert (tmp_path / "cache" / "chroma").is_dir()
    assert main([*arguments[:3], str(events / "events"), *arguments[4:], "--overwrite"]) == 2
    assert "no readable document" in capsys.readouterr().err

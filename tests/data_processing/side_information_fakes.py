"""Embedder and chat without a model, and a small events folder, for the tests of side information."""

import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_processing.parts import write_json
from data_processing.services.protocols import Stats
from recsys.cleaning.fitting import AlignConfig, SideInformationConfig
from recsys.cleaning.profile import ColumnsConfig, Profile, TimeFormat, UndoConfig
from recsys.config import save_config

ITEMS = (
    "Tool: Wall (-203)",
    "Menu: Modify - Delete Group (12)",
    "End Event: Move Layer (4)",
    "Tool: Door (7)",
    "Tool: Rare (9)",
)
DOCS = {
    "wall.md": "# Wall\n\nDraws a straight wall between two points. The height can be set.\n",
    "group.md": "# Delete Group\n\nFunction DeleteGroup removes a group and all objects in it.\n",
    "layer.md": "# Layers\n\nA layer holds objects of one scale and one height.\n",
}


class WordEmbedder:
    """Words at places of their own (by a hash): the cosine is the share of common words."""

    def __init__(self) -> None:
        self.name, self.stats, self.texts = "words", Stats(), 0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), 512), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                vectors[row, zlib.crc32(word.encode()) % 512] += 1
        self.texts += len(texts)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


class ScriptedChat:
    """Gives the answers of a script: the first whose key stands in the question; a list is used up in order."""

    def __init__(self, script: Mapping[str, Any]) -> None:
        self.name, self.stats, self.script = "scripted", Stats(), dict(script)
        self.asked: list[str] = []

    def answer(self, system: str, user: str, schema: Mapping[str, Any]) -> str:
        self.asked.append(user)
        answer = next(answer for key, answer in self.script.items() if key in user.splitlines()[0])
        answer = answer.pop(0) if isinstance(answer, list) else answer
        if isinstance(answer, Exception):
            raise answer
        return str(answer)


def config(**changes: Any) -> SideInformationConfig:
    """Four classes, four targets; embedder kinds are replaced by the fakes."""
    values = {
        "classification": {"Create": ["tool"], "Update": [], "Delete": [], "Move": []},
        "target": ["Object", "Wall", "Group", "Layer"],
        "embedder": {"kind": "words"},
        **changes,
    }
    return SideInformationConfig.model_validate(values)


def events_folder(path: Path, settings: SideInformationConfig | None = None, **columns: Sequence[str | None]) -> Path:
    """An events folder with the commands `ITEMS` (the last one rare) and further columns of commands.parquet."""
    (path / "events").mkdir(parents=True)
    (path / "cleaning").mkdir()
    pl.DataFrame({"session_id": ["a"], "item_id": [ITEMS[0]], "timestamp": [1]}).write_parquet(
        path / "events" / "part-00000.parquet"
    )
    profile = Profile(
        name="test",
        columns=ColumnsConfig(time=["ts"], message=["message"], session=["session"]),
        times=[TimeFormat(format="epoch_us", example="1")],
        undo=UndoConfig(mode="keep"),
        align=AlignConfig(name_pattern=r"^\w[\w ]*: (.+?)(?: \(-?\d+\))*$"),
        side_information=settings,
    )
    save_config(profile, path / "cleaning" / "profile.yaml")
    write_json(path / "report.json", {"stages": [], "result": {"events": 1}})
    (path / "splits.json").write_text("{}")
    table = {"item_id": ITEMS, "count": [9, 8, 7, 6, 1], "kept": [True, True, True, True, False], **columns}
    pl.DataFrame(table, schema_overrides=dict.fromkeys(columns, pl.String)).write_parquet(path / "commands.parquet")
    return path


def documentation(path: Path) -> Path:
    """A folder with `DOCS`."""
    path.mkdir()
    for name, text in DOCS.items():
        (path / name).write_text(text)
    return path

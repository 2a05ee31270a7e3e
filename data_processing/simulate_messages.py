"""Every text that a generated log can hold: the Vectorworks event grammar in five languages."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from data_processing.simulate_catalogue import LANGUAGES, MENU, TOOL, Catalogue, Command

_ROW_NAMES = (
    "tool menu end begin destroy internal renamed undo redo remove menu_undo menu_redo abort cts_begin "
    "cts_end "
    "beta problem cts_notify cts_begin_0 cts_end_0 alert document_1 document_2 document_3 dialog_open "
    "dialog_close"
)
ROWS = _ROW_NAMES.split()
ROW = {name: i for i, name in enumerate(ROWS)}
WITH_COMMAND = ROW["cts_end"] + 1  # the first kinds name a command, the others do not
VARIANTS = 8  # spellings of a Tool, Menu or End Event row
SPELLED = ROW["end"] + 1

_FIXED_TEXT = {
    "beta": ("UNDO", "Beta Undo Alert: the size of the undo table differs from its count."),
    "problem": ("UNDO", "Undo Problem: 'Create Wall' (328) has no matching handle, event skipped."),
    "cts_notify": ("CTS", "CTS notifying observers"),
    "cts_begin_0": ("CTS", "Begin Event"),
    "cts_end_0": ("CTS", "End Event"),
    "alert": ("ALERT", 'ALERT: The tool "Edit" works on walls, slabs and roofs only.'),
    "document_1": ("Document Activation", "The value of bAlreadyActivating=0, bActivate=1, ftd=7,  newFtd=7"),
    "document_2": ("Document Activation", "Active filename:project.vwx"),
    "document_3": ("Document Activation", "New filename:project.vwx"),
    "dialog_open": ("Dialog[OPEN]", "Dialog[OPEN]: ID-10010 (Preferences)"),
    "dialog_close": ("Dialog[CLOSE]", "Dialog[CLOSE]: ID-10010 Return=1"),
}  # fmt: skip


def _message(row: str, command: Command, language: str, variant: int, quoted: bool) -> str:
    """The text of one row that names a command."""
    names = command.names[language]
    quote = "'" if quoted else ""
    name = " - ".join(f"{quote}{part}{quote}" for part in names)
    tail = f"{name} ({command.number})"
    counter = "" if command.kind != MENU or variant == 6 else f" ({variant + 1})"
    if row in ("tool", "menu", "end"):
        if variant == 6 and row == "end":
            return f"{command.kind}: (MAX-20) {tail}"
        if variant == 7:
            return f"{command.kind}:  {name}  ({command.number}){counter}"
        return f"{command.kind}: {tail}{counter}"
    if row in ("menu_undo", "menu_redo"):
        number = 56 if row == "menu_undo" else 57
        return f"Menu: {quote}{row[5:].title()} {names[0]}{quote} ({number}) (1)"
    prefixes = {"begin": "Event: (MAX-20)", "internal": "Begin Internal Event:", "undo": "Undo Event:",
                "redo": "Redo Event:", "remove": "Undo and Remove Action:",
                "abort": "Abort Event:"}  # fmt: skip
    if row == "destroy":
        return f"DestroyEvent: (MAX-20) Deleting undo event {tail} ."
    if row == "renamed":
        return f"Event name changed from {names[0]} to Change View."
    return f"{prefixes[row]} {tail}"


@dataclass(frozen=True)
class _Text:
    message: str
    cat: str
    log_lvl: int = 5
    label: str | None = None
    reason: str | None = None
    source: str | None = None


def _texts(row: str, commands: list[Command], quoted: bool) -> list[_Text]:
    """All texts of one row kind, in the order of `MessageTable.codes`."""
    if row in _FIXED_TEXT:
        cat, message = _FIXED_TEXT[row]
        level = 4 if cat.startswith("Document") else 5
        if not row.endswith("_0"):
            return [_Text(message, cat, level)]
        return [_Text(message, cat, level, "''(0)", "Finished" if row == "cts_end_0" else None, "CTS")]
    cat = {"tool": TOOL, "menu": MENU, "menu_undo": MENU, "menu_redo": MENU}.get(row, "UNDO")
    texts = []
    for language in LANGUAGES:
        for command in commands:
            if row in ("cts_begin", "cts_end"):
                label, reason = f"'{command.names[language][0]}'({command.number})", None
                message = "Begin Event"
                if row == "cts_end":
                    message, reason = "End Event", "Finished"
                texts.append(_Text(message, "CTS", 5, label, reason, "Undo"))
                continue
            for variant in range(VARIANTS if ROW[row] < SPELLED else 1):
                texts.append(_Text(_message(row, command, language, variant, quoted), cat))
    return texts


class MessageTable:
    """Every text that a log can hold, once; rows refer to it by code.

    `texts` has the columns message, cat, log_lvl, label, reason and source (the last three null where a row
    lacks them).
    """

    def __init__(self, catalogue: Catalogue, quoted: bool) -> None:
        self.commands = catalogue.commands
        self.base = np.zeros(len(ROWS), dtype=np.int64)
        texts: list[_Text] = []
        for kind, row in enumerate(ROWS):
            self.base[kind] = len(texts)
            texts += _texts(row, self.commands, quoted)
        schema = {name: pl.String for name in ("message", "cat", "label", "reason", "source")}
        columns = {name: [getattr(text, name) for text in texts] for name in _Text.__dataclass_fields__}
        self.texts = pl.DataFrame(columns, schema_overrides=schema)

    def codes(self, kind: np.ndarray, language: np.ndarray, command: np.ndarray, variant: np.ndarray) -> np.ndarray:
        """Codes of rows given their row kind, language, command and spelling (all ``[R]``)."""
        spelled = kind < SPELLED
        offset = (language * len(self.commands) + command) * np.where(spelled, VARIANTS, 1)
        offset += np.where(spelled, variant, 0)
        return self.base[kind] + np.where(kind < WITH_COMMAND, offset, 0)

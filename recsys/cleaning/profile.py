"""A cleaning profile: every rule of cleaning as data, read from YAML.

Built-in profiles are ``configs/profiles/<name>.yaml`` (inside an installed package ``recsys/_profiles``).
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from recsys.cleaning.fitting import AlignConfig, RedundancyConfig, SideInformationConfig, WorkflowConfig
from recsys.config import StrictModel, parse, read_yaml
from recsys.errors import ConfigError, nearest
from recsys.schema import ARGUMENTS, CATEGORY, ITEM_ID, MERGE_COUNT, SESSION_ID, TIMESTAMP, USER_ID

_PACKAGE = Path(__file__).resolve().parent.parent
_PROFILE_FOLDERS = (_PACKAGE / "_profiles", _PACKAGE.parent / "configs" / "profiles")
EVENT_COLUMNS = (SESSION_ID, ITEM_ID, TIMESTAMP, USER_ID, CATEGORY, MERGE_COUNT)  # of every grammar
# What rows carry on their way, and what later stages add: a column of the log must not stand in for one of these.
_WORKING_COLUMNS = (
    *("message", "clock", "kind", "reason", "key_hash", "bucket", "session_number", "first_number_of_user"),
    *("process", "run", "within", "follows_hidden", "group", "split", ARGUMENTS, "last_timestamp", "constituents"),
)
_OF_A_RUN = {"split", "etl", "model", "training"}  # keys of a run's configuration
Epoch = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}


class ColumnsConfig(StrictModel):
    """Which column of the log holds what. Several names are alternatives: a file uses the first that it has."""

    time: list[str]
    message: list[str]
    session: list[str] = Field(default_factory=list)  # empty: sessions come from gaps in a user's time
    user: list[str] = Field(default_factory=list)
    category: list[str] = Field(default_factory=list)
    keep: list[str] = Field(default_factory=list)  # further columns that events carry on, as text

    @field_validator("*", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("keep")
    @classmethod
    def _are_free(cls, value: list[str]) -> list[str]:
        taken = [name for name in value if name in EVENT_COLUMNS or name in _WORKING_COLUMNS]
        if taken:
            raise ValueError(f"'{taken[0]}' is a column that cleaning writes itself; rename it in the log")
        return value


class TimeFormat(StrictModel):
    """One way in which a log writes time.

    With `pattern`, a regular expression with the groups ``time`` and optionally ``zone`` and ``clock``, `format` reads
    the time and the zone joined by one blank. ``clock`` is a process clock in seconds: see `recsys.cleaning.sessions`.
    """

    format: str  # strftime's, or epoch_s, epoch_ms, epoch_us
    pattern: str | None = None
    zone: str = "UTC"  # of times that carry none
    example: str  # shown in errors

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if "time" not in groups or set(groups) - {"time", "zone", "clock"}:
            raise ValueError("needs a group 'time' and may have 'zone' and 'clock', no other")
        return value

    @field_validator("zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError) as error:
            raise ValueError("no such time zone; use a name such as Europe/Berlin or UTC") from error
        return value


class NoiseConfig(StrictModel):
    """Rows that are dropped for their message alone."""

    messages: list[str] = Field(default_factory=list)  # whole messages
    prefixes: list[str] = Field(default_factory=list)  # starts of messages
    ids: list[int] = Field(default_factory=list)  # numbers in brackets at the end of a message, (242); never of a Menu


class UndoConfig(StrictModel):
    """What undo and redo rows do.

    stack: undo takes back the newest event (by its name, where the row names one) and redo brings it back;
    keep: undo and redo rows are commands like any other; none: they leave and nothing is taken back.
    """

    mode: Literal["stack", "keep", "none"] = "stack"
    starters: bool = True  # an undone event takes along the Tool or Menu row that began it (grammar vectorworks)
    not_starters: list[str] = Field(default_factory=list)  # prefixes of Tool and Menu rows that never begin an event
    # Numbers of tools that are noise themselves but begin events (selection: a drag), so that the tool chosen before
    # them is not taken along (grammar vectorworks). Not those that only ever begin noise, such as pan.
    hidden_starters: list[int] = Field(default_factory=list)
    starter_seconds: Annotated[float, Field(gt=0)] | None = None  # longest time from a Tool or Menu to its event
    undo_messages: list[str] = Field(default_factory=list)  # grammar plain
    redo_messages: list[str] = Field(default_factory=list)  # grammar plain
    undoable_prefixes: list[str] = Field(default_factory=list)  # grammar plain; empty: every command can be undone
    not_undoable: list[str] = Field(default_factory=list)  # grammar plain: prefixes of exceptions


class RareConfig(StrictModel):
    """Commands with fewer than `min_count` events in the training groups."""

    min_count: Annotated[int, Field(ge=1)] = 1
    action: Literal["drop", "out_of_vocabulary"] = "drop"  # events leave, or stay as unknown commands


class MetadataConfig(StrictModel):
    """A table of what is known about commands, and how it is read."""

    files: list[str] = Field(default_factory=list)  # name patterns inside the folder or archive, or beside the log
    item: str = "item_id"  # its column with the command, as cleaned events name it
    classification: str | None = None
    target: str | None = None
    description: str | None = None
    nulls: list[str] = Field(default_factory=list)  # texts that mean unknown, beside empty ones
    target_before: str | None = None  # target = part of the command before the first of this text


class FilesConfig(StrictModel):
    """Which files of a folder or archive are read as logs (shell patterns of the file name)."""

    logs: list[str] = Field(default_factory=lambda: ["*"])
    skip: list[str] = Field(default_factory=lambda: [".*", "README*", "LICENSE*", "*.md"])
    encoding: str = "utf-8"


class Profile(StrictModel):
    """All rules that turn one kind of log into events."""

    name: str
    columns: ColumnsConfig
    times: Annotated[list[TimeFormat], Field(min_length=1)]
    files: FilesConfig = Field(default_factory=FilesConfig)
    # plain: the message is the command; shell: its first word is, the rest are its arguments
    grammar: Literal["vectorworks", "plain", "shell"] = "plain"
    categories: list[str] | None = None  # kept values of the category column; None keeps all
    noise: NoiseConfig = Field(default_factory=NoiseConfig)
    gap_minutes: Annotated[float, Field(gt=0)] | None = None  # a longer pause of a user starts a session
    undo: UndoConfig = Field(default_factory=UndoConfig)
    collapse: bool = True  # equal commands in a row become one event with a merge_count
    rare: RareConfig = Field(default_factory=RareConfig)
    min_length: Annotated[int, Field(ge=1)] = 1  # events; shorter sessions leave
    metadata: MetadataConfig = Field(default_factory=MetadataConfig)
    align: AlignConfig | None = None
    redundancy: RedundancyConfig | None = None
    workflows: WorkflowConfig | None = None
    side_information: SideInformationConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.columns.session) == (self.gap_minutes is not None):
            raise ValueError("give either columns.session or gap_minutes, whichever the log's sessions come from")
        if self.gap_minutes is not None and not self.columns.user:
            raise ValueError("gap_minutes needs columns.user, whose pauses split sessions")
        if self.categories is not None and not self.columns.category:
            raise ValueError("categories needs columns.category")
        if self.grammar != "vectorworks" and self.undo.mode != "keep" and not self.undo.undo_messages:
            raise ValueError(f"undo.mode '{self.undo.mode}' needs undo.undo_messages; or set undo.mode to 'keep'")
        return self

    @property
    def hidden_starters(self) -> list[int]:
        """Numbers of noise tools that the undo stack looks at; empty where it does not ask what began an event."""
        asks = self.grammar == "vectorworks" and self.undo.mode == "stack" and self.undo.starters
        return self.undo.hidden_starters if asks else []

    @property
    def event_columns(self) -> list[str]:
        """The columns that cleaned events may have, in order."""
        arguments = [ARGUMENTS] if self.grammar == "shell" else []
        return [*EVENT_COLUMNS, *arguments, *self.columns.keep]


def load_profile(name: str | Path) -> Profile:
    """Read a profile: a built-in name (``vectorworks``) or the path of a YAML file.

    Raises:
        ConfigError: no such profile, or an unknown key or bad value in it.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        values = read_yaml(path)
        if "columns" not in values and _OF_A_RUN & values.keys():
            raise ConfigError(f"{path}: the configuration of a run, not a cleaning profile; give it as --config")
        return parse(Profile, values, path)
    found = {p.stem: p for folder in reversed(_PROFILE_FOLDERS) for p in sorted(folder.glob("*.yaml"))}
    if str(name) not in found:
        raise ConfigError(f"no cleaning profile '{name}'{nearest(str(name), found)}; or give the path of a YAML file")
    return parse(Profile, read_yaml(found[str(name)]), found[str(name)])

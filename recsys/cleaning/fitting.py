"""What the fitted stages of cleaning do, as data: sections of a profile. An absent section leaves its stage out."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from recsys.config import StrictModel

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


def _regular_expression(value: str | None) -> str | None:
    if value is not None:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if not groups:
            raise ValueError("needs a group, in brackets, around what it takes")
    return value


class ServiceConfig(StrictModel):
    """Who translates, embeds or answers, and how it is reached. Keys are read from the environment, never from here."""

    kind: str  # which implementation: see data_processing.services
    model: str | None = None
    url: str | None = None  # base address of the service, where the implementation has one
    key_variable: str | None = None  # environment variable with the key; None: the implementation's usual one
    path: str | None = None  # file or folder, for implementations that read one
    dimensions: Annotated[int, Field(ge=1)] | None = None  # of embeddings; None: the model's own
    batch: Count = 64  # texts a request
    timeout: Seconds = 30.0  # seconds a request
    attempts: Count = 5  # tries of a request before it counts as failed
    temperature: Annotated[float, Field(ge=0)] = 0.2  # of chat answers


class AlignConfig(StrictModel):
    """How the names that one command has in many languages become one."""

    # Groups of these, joined, are a command's id: items of one id are one command. None: items have no ids.
    id_pattern: str | None = None
    name_pattern: str | None = None  # its group is the name alone, for people and models; None: the whole item
    untrusted_ids: list[str] = Field(default_factory=list)  # ids that different commands share
    language: ServiceConfig | None = None  # who tells the language of a name
    translator: ServiceConfig | None = None
    embedder: ServiceConfig | None = None
    # Names without a common id are one command from here on: see data_processing.align_cluster for the scale.
    # Chosen by scripts/measure_alignment.py on Spanish, Italian and Dutch.
    min_similarity: Share = 0.5

    _patterns = field_validator("id_pattern", "name_pattern")(_regular_expression)

    @model_validator(mode="after")
    def _tells_languages(self) -> Self:
        if self.embedder is not None and self.language is None:
            raise ValueError(
                "embedder needs language: similar names of one language are two commands, of two languages one"
            )
        return self


class RedundancyConfig(StrictModel):
    """When one command always brings another one with it, so that one of the two says nothing.

    The measures are defined in `data_processing.redundancy`. What tells software from a habit is time: a person who
    always does B after A takes a while, a program does not. So a pair must often come within `at_once`; it need not
    always, since a change of the view or a dialog may lie between, for which `seconds` leaves room.
    """

    rows: Count = 1  # the other command comes within this many events
    seconds: Seconds = 30.0  # and within this time
    at_once: Seconds = 0.25  # faster than a person gives two commands; logs of whole seconds cannot show it
    min_at_once: Share = 0.1  # of the occurrences: lower bound (Wilson, 95 %) of the share that comes at once
    min_count: Count = 5  # events of the high-level command in the training groups
    min_support: Share = 0.0
    min_confidence: Share = 0.95
    min_lift: Annotated[float, Field(ge=0)] = 2.0
    show_confidence: Share = 0.5  # pairs from here on stand in the table, so that a person sees what just missed
    drop: Literal["high", "low"] = "high"  # which of the two leaves; the document drops the high-level one
    high: list[str] = Field(default_factory=list)  # prefixes of commands that may be high-level; none: all
    low: list[str] = Field(default_factory=list)  # prefixes of commands that may be low-level; none: all
    exclude: list[str] = Field(default_factory=list)  # commands that no pair may name, as the dictionary labels them


class WorkflowConfig(StrictModel):
    """How frequent sub-sequences become composite commands (byte-pair encoding)."""

    merges: Annotated[int, Field(ge=0)] = 200  # learned, at most
    min_count: Count = 10  # of the pair in the training groups
    min_share: Share = 0.0005  # stop when the best pair is a smaller share of all neighbouring pairs
    max_length: Annotated[int, Field(ge=2)] = 8  # commands in a learned workflow
    collapse: bool = True  # equal workflows in a row become one with a merge_count, as equal commands do
    exclude: list[str] = Field(default_factory=list)  # commands that no workflow may hold
    # Fixed workflows, applied before what is learned, longest first.
    lists: list[Annotated[list[str], Field(min_length=2)]] = Field(default_factory=list)


Labels = dict[str, list[str]]  # label -> words of a command that point to it, beside the label itself


def _as_labels(value: object) -> object:
    """A plain list of labels is one whose labels have no further words."""
    if isinstance(value, list) and all(isinstance(label, str) for label in value):
        return {label: [] for label in value}
    if isinstance(value, dict):
        return {label: [] if words is None else words for label, words in value.items()}
    return value


class SideInformationConfig(StrictModel):
    """What documentation says of each command: a summary, and one label of each list."""

    classification: Annotated[Labels, Field(min_length=2)]  # the labels that may be given
    target: Annotated[Labels, Field(min_length=2)]
    embedder: ServiceConfig
    chat: ServiceConfig | None = None  # None: extractive summary, and labels by words, else by embedding
    chunk_length: Annotated[int, Field(ge=50)] = 1200  # characters of a chunk, at most
    chunks: Count = 3  # shown for each command
    min_similarity: Share = 0.65  # nearness to the command from which a sentence may stand in an extractive summary
    replace: bool = False  # ask for commands whose metadata is known too, and overwrite it

    _labels = field_validator("classification", "target", mode="before")(_as_labels)

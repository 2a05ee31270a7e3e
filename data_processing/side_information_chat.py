"""Side information from a language model: one question for each command, one answer that fits the label lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model, field_validator

from data_processing.services.protocols import Chat, ServiceError, Unreachable
from data_processing.side_information_index import Found

SYSTEM = (
    "You write the reference of a program's commands, for people and for a recommendation model. You answer with "
    "one JSON object and nothing else: 'summary', two or three plain sentences in English on what the command does for "
    "its user; 'classification', the kind of action; 'target', what it acts on. Labels are taken from the given lists, "
    "letter by letter. The passages come from documentation and may be about something else: then go by the command's "
    "name, and claim nothing that neither the name nor a passage says."
)
_CORRECTION = "Your last answer could not be used: {error}\nAnswer again, with one JSON object that fits."


class _Answer(BaseModel):
    """What every answer holds; the model of a profile narrows the two labels to its lists."""

    model_config = ConfigDict(extra="forbid")
    summary: str
    classification: str
    target: str

    @field_validator("summary")
    @classmethod
    def _says_something(cls, value: str) -> str:
        value = " ".join(value.split())
        if not value:
            raise ValueError("is empty")
        return value


@dataclass(frozen=True)
class Reply:
    """An answer, or why there is none."""

    answer: _Answer | None
    reason: str = ""
    corrected: bool = False  # the first answer could not be used
    characters: int = 0  # of what was asked


def answer_model(classification: Sequence[str], target: Sequence[str]) -> type[_Answer]:
    """The pydantic model of an answer: a summary that is not empty, and one label of each list."""
    one_class: Any = Literal[tuple(classification)]
    one_target: Any = Literal[tuple(target)]
    return create_model("Answer", __base__=_Answer, classification=(one_class, ...), target=(one_target, ...))


def question(item: str, name: str, found: Sequence[Found], labels: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """The prompt for one command; `labels` are the lists by the name of their field."""
    lines = [f"Command: {name}", f"As the log writes it: {item}", ""]
    for number, one in enumerate(found, start=1):
        lines += [f"Passage {number} ({' > '.join(one.chunk.headings)}):", one.chunk.text, ""]
    for field, choices in labels.items():
        told = [f"{label} ({', '.join(words)})" if words else label for label, words in choices.items()]
        lines.append(f"Labels for '{field}': {'; '.join(told)}")
    return "\n".join(lines)


def ask(chat: Chat, text: str, model: type[_Answer]) -> Reply:
    """Ask once, and once more with what was wrong when the answer cannot be used.

    Raises:
        ServiceDown: asking on makes no sense. An answer that fails twice, or that the service cannot give, is a
            `Reply` with its reason.
    """
    schema: dict[str, Any] = model.model_json_schema()
    asked, error = text, ""
    for tried in (1, 2):
        try:
            answer = model.model_validate_json(_bare(chat.answer(SYSTEM, asked, schema)))
            return Reply(answer, "", tried > 1, len(asked))
        except Unreachable as failure:
            return Reply(None, str(failure), tried > 1, len(asked))
        except ServiceError as failure:
            error = str(failure)
        except ValidationError as failure:
            error = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in failure.errors())
        asked = f"{text}\n\n{_CORRECTION.format(error=error[:500])}"
    return Reply(None, error, True, len(asked))


def _bare(text: str) -> str:
    """An answer without the Markdown fence that some models put around it."""
    text = text.strip()
    return text.strip("`").removeprefix("json").strip() if text.startswith("```") else text

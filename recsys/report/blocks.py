"""What a page is made of: sections of sentences, charts and tables; and how numbers are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

Number = int | float
_SYSTEMS = {
    "model": ("Model", "s-model"),
    "popularity": ("Popularity", "s-popularity"),
    "markov1": ("Markov-1", "s-markov1"),
    "markov2": ("Markov-2", "s-markov2"),
    "last_item": ("Last item", "s-last"),
}
_METRICS = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "loss": "Loss"}


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what is shown, the exact number behind it, and a small note below."""

    text: str
    value: Number | None = None
    note: str = ""
    strong: bool = False
    bar: float | None = None  # share of the widest, drawn behind the text


@dataclass(frozen=True)
class Table:
    """A table with its caption; cells with a value stand right."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    folded: bool = False  # behind its caption, until asked for
    style: str = ""  # "facts": names and values, which stand left


@dataclass(frozen=True)
class Figure:
    """A chart with its legend and caption."""

    caption: str
    chart: Markup
    legend: Markup


@dataclass(frozen=True)
class Card:
    """One headline figure."""

    title: str
    value: Number
    text: str
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """One part of the page. `missing` says why it is empty and what would fill it."""

    key: str
    title: str
    lead: str = ""
    cards: Sequence[Card] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    details: Sequence[tuple[str, str]] = field(default_factory=tuple)  # (summary, preformatted text)
    missing: str = ""


def system_name(key: str) -> str:
    """A system's name for people."""
    return _SYSTEMS.get(key, (key.replace("_", " ").capitalize(), ""))[0]


def system_style(key: str) -> str:
    """The CSS class of a system's colour."""
    return _SYSTEMS.get(key, ("", "s-other"))[1]


def metric_name(key: str) -> str:
    """`recall@10` as Recall@10."""
    name, at, k = key.partition("@")
    return _METRICS.get(name, name.replace("_", " ").capitalize()) + at + k


def count(number: Number) -> str:
    """A whole number with thousands marked: 12,345."""
    return f"{number:,.0f}"


def plural(number: int, noun: str) -> str:
    """`1 session`, `2 sessions`."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def figure(number: Number) -> str:
    """A score between 0 and 1, three digits."""
    return f"{number:.3f}"


def signed(number: Number) -> str:
    """A difference of scores, three digits, with its sign."""
    return f"{number:+.3f}".replace("-", "−")


def percent(share: float) -> str:
    """A share as a percentage, one digit; a share that is not 0 never looks like 0."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would say.

    >>> [duration(s) for s in (4.21, 95, 7320)]
    ['4.2 s', '1 min 35 s', '2 h 2 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def between(interval: Sequence[Number] | None) -> str:
    """An interval as `0.801–0.812`; nothing without one."""
    return f"{interval[0]:.3f}–{interval[1]:.3f}" if interval else ""


def counted(number: int) -> Cell:
    """A cell with a whole number."""
    return Cell(count(number), number)


def shared(share: float) -> Cell:
    """A cell with a percentage."""
    return Cell(percent(share), share)


def settings(values: Mapping[str, Any], prefix: str = "") -> list[list[Cell]]:
    """Rows of name and value; nested mappings as `outer: inner`."""
    rows: list[list[Cell]] = []
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, dict):
            rows += settings(value, f"{name}: ")
        else:
            rows.append([Cell(name), Cell(_plain(value))])
    return rows


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)

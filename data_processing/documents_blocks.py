"""What the readers of Markdown, rst and HTML give back: headings and paragraphs of plain text, in order."""

import html
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

_TAG = re.compile(r"</?[A-Za-z!][^<>]*>")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Block:
    """A heading of `level` 1 and more, or a paragraph, list item or table row (level 0)."""

    level: int
    text: str


@dataclass
class Parsed:
    """Blocks of one document, and how many of what was left out (code, image, navigation, front matter)."""

    blocks: list[Block] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, text: str, level: int = 0) -> None:
        """Append a block unless it holds no letter or digit."""
        text = squeeze(text)
        if any(letter.isalnum() for letter in text):
            self.blocks.append(Block(level, text))

    def add_text(self, text: str, link_characters: int) -> None:
        """Append a paragraph unless nearly all of it is links, which makes it navigation."""
        if link_characters and link_characters >= 0.8 * sum(map(str.isalnum, text)):
            self.dropped["navigation"] += 1
        else:
            self.add(text)


def squeeze(text: str) -> str:
    """Blanks and line ends in a row become one blank."""
    return _SPACE.sub(" ", text).strip()


def without_tags(text: str) -> str:
    """HTML tags out, entities as characters."""
    return html.unescape(_TAG.sub(lambda tag: " " if tag[0][:3].lower() == "<br" else "", text))


def letters(text: str) -> int:
    """Letters and digits of `text`, the measure of how much of a line is links."""
    return sum(map(str.isalnum, text))


def table_row(cells: Sequence[str]) -> str:
    """A table's row as one line: its cells that are not empty."""
    return " | ".join(cell for cell in map(squeeze, cells) if cell)

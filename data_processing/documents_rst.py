"""reStructuredText to headings and paragraphs of plain text.

Left out: code and literal blocks, pictures, tables of contents, comments, targets, and lines of links alone.
Notes, tips, warnings and containers stay as text.
"""

import csv
import re
from textwrap import dedent

from data_processing.documents_blocks import Parsed, letters, table_row

_ADORNMENT = re.compile(r"^([!-/:-@\[-`{-~])\1{2,}\s*$")
_DIRECTIVE = re.compile(r"^\s*\.\.\s+(?:\|[^|]+\|\s+)?([\w:.-]+)::\s*(.*)$")
_ITEM = re.compile(r"^\s*(?:[-*+•]|\(?(?:\d{1,3}|[a-zA-Z]|#)[.)])\s+")
_FIELD = re.compile(r"^\s*:[\w -]+:(?:\s|$)")
_BORDER = re.compile(r"^\s*(?:\+[-=+]+\+|=+(?:\s+=+)+)\s*$")
_ROLE_TITLE = re.compile(r":[\w:+-]+:`([^`<]+?)\s*<[^`>]*>`")
_ROLE_LINK = re.compile(r":(?:doc|ref|any|download|numref):`[~!]?([^`]+)`")
_ROLE = re.compile(r":[\w:+-]+:`[~!]?([^`]+)`")
_NAMED_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?")
_PHRASE_LINK = re.compile(r"`([^`]+)`__?|(?<!\w)(\w+)_(?!\w)")
_SUBSTITUTION = re.compile(r"\|[^\s|][^|]*\|_{0,2}")
_CODE = {
    "code", "code-block", "sourcecode", "literalinclude", "highlight", "math", "parsed-literal", "prompt",
    "doctest",
}  # fmt: skip
_PICTURES = {"image", "figure", "video", "youtube", "raw", "graphviz", "mermaid"}
_TABLES = frozenset({"csv-table"})
_KEPT = {
    "note", "warning", "tip", "important", "hint", "caution", "danger", "attention", "error", "admonition",
    "seealso", "container", "only", "topic", "sidebar", "rubric", "versionadded", "versionchanged",
    "deprecated", "epigraph", "list-table", "table", "dropdown", "tab-set", "tab-item", "grid",
    "grid-item-card", "card", "class", "centered", "compound", "details", "tabs", "tab", "glossary",
}  # fmt: skip


def parse_rst(text: str) -> Parsed:
    """Read one rst document."""
    reader = _Reader()
    reader.read(text.expandtabs(8).split("\n"), top=True)
    return reader.parsed


class _Reader:
    def __init__(self) -> None:
        self.parsed = Parsed()
        self.styles: list[tuple[str, bool]] = []  # adornments in order of appearance: their levels

    def read(self, lines: list[str], top: bool = False) -> None:
        """Headings, directives and paragraphs of `lines`; headings only at the top."""
        at = 0
        while at < len(lines):
            line = lines[at]
            if not line.strip():
                at += 1
            elif top and (length := self.heading(lines, at)):
                at += length
            elif re.match(r"^\s*\.\.(\s|$)", line):
                at = self.explicit(lines, at)
            elif _FIELD.match(line) or _BORDER.match(line) or _ADORNMENT.match(line):
                at += 1
            else:
                at = self.paragraph(lines, at)

    def heading(self, lines: list[str], at: int) -> int:
        """How many lines a heading takes here; 0: there is none."""
        over = _ADORNMENT.match(lines[at])
        start = at + 1 if over else at
        if start + 1 >= len(lines):
            return 0
        title, under = lines[start].strip(), _ADORNMENT.match(lines[start + 1])
        if not title or under is None or (not over and lines[start].startswith(" ")):
            return 0
        if len(lines[start + 1].strip()) < 0.6 * len(title) or (over and over[1] != under[1]):
            return 0
        style = (under[1], bool(over))
        if style not in self.styles:
            self.styles.append(style)
        self.parsed.add(inline(title)[0], self.styles.index(style) + 1)
        return start + 2 - at

    def explicit(self, lines: list[str], at: int) -> int:
        """A directive, comment or target: the line after its body."""
        body, end = _indented(lines, at)
        directive = _DIRECTIVE.match(lines[at])
        name = directive[1].lower() if directive else ""
        if directive is None:
            return end
        if name in _CODE:
            self.parsed.dropped["code"] += 1
        elif name in _PICTURES:
            self.parsed.dropped["image"] += 1
        elif name == "toctree":
            self.parsed.dropped["navigation"] += 1
        elif name in _TABLES:
            for row in csv.reader(line for line in body if line.strip() and not _FIELD.match(line)):
                self.parsed.add_text(table_row([inline(cell)[0] for cell in row]), 0)
        elif name in _KEPT:
            if name not in ("container", "only", "class", "list-table", "table"):
                body = [directive[2], *body]
            self.read(body)
        else:
            self.parsed.dropped[f"directive {name}"] += 1
        return end

    def paragraph(self, lines: list[str], at: int) -> int:
        """One paragraph, list item or table row; a literal block that it announces is skipped."""
        item = _ITEM.match(lines[at])
        taken = [lines[at][item.end() :] if item else lines[at].strip()]
        at += 1
        while at < len(lines) and lines[at].strip() and not _starts_new(lines, at, taken[0]):
            taken.append(lines[at].strip())
            at += 1
        text = " ".join(taken)
        if text.endswith("::"):
            _, at = _indented(lines, at - 1)
            self.parsed.dropped["code"] += 1
            text = text[:-2] + ("" if text.endswith(" ::") else ":")
        if text.startswith("|") or _bordered(lines, at - len(taken)):
            cells = re.split(r"\s*\|\s*|\s{2,}", text.strip("| "))
            plain, links = table_row([inline(cell)[0] for cell in cells]), sum(inline(cell)[1] for cell in cells)
        else:
            plain, links = inline(text)
        self.parsed.add_text("- " + plain if item else plain, links)
        return at


def _starts_new(lines: list[str], at: int, first: str) -> bool:
    """Whether another block begins at a line that follows a paragraph without a blank line."""
    line = lines[at]
    table = line.lstrip().startswith("|") or first.startswith("|") or _bordered(lines, at - 1)
    return bool(table or _ITEM.match(line) or _BORDER.match(line) or re.match(r"^\s*\.\.\s", line))


def _bordered(lines: list[str], at: int) -> bool:
    """Whether a line lies in a simple table: between two borders, with nothing empty before it."""
    while at >= 0 and lines[at].strip():
        if _BORDER.match(lines[at]):
            return not lines[at].lstrip().startswith("+")
        at -= 1
    return False


def _indented(lines: list[str], at: int) -> tuple[list[str], int]:
    """The lines below `at` that are indented deeper, without their indent and options, and the line after them."""
    depth = len(lines[at]) - len(lines[at].lstrip())
    end = at + 1
    while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > depth):
        end += 1
    return dedent("\n".join(lines[at + 1 : end])).split("\n"), end


def inline(text: str) -> tuple[str, int]:
    """Text without marks, and how many of its letters stand in links."""
    links = 0

    def unlink(match: re.Match[str]) -> str:
        nonlocal links
        shown = match[1] or match[2] if match.re is _PHRASE_LINK else match[1]
        links += letters(shown)
        return shown

    codes: list[str] = []

    def keep(match: re.Match[str]) -> str:
        codes.append(match[1])
        return f"\x00{len(codes) - 1}\x00"

    text = re.sub(r"``(.+?)``", keep, text)
    for pattern in (_ROLE_TITLE, _ROLE_LINK):
        text = pattern.sub(unlink, text)
    text = _ROLE.sub(lambda match: match[1].replace("-->", ">").replace("&", ""), text)
    for pattern in (_NAMED_LINK, _PHRASE_LINK):
        text = pattern.sub(unlink, text)
    text = _SUBSTITUTION.sub("", text)
    text = re.sub(r"(\*{1,2})(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    text = re.sub(r"(?<!\w)`([^`]+)`(?!\w)", r"\1", text)
    text = re.sub(r"\\(.)", r"\1", text)
    return re.sub(r"\x00(\d+)\x00", lambda match: codes[int(match[1])], text), links

"""Markdown to headings and paragraphs of plain text.

Left out: front matter, code blocks, images, comments, and lines of links alone. Inline code stays as text.
"""

import re

from data_processing.documents_blocks import Parsed, letters, table_row, without_tags

_FENCE = re.compile(r"^\s{0,3}(?:>\s?)*(`{3,}|~{3,})")
_HEADING = re.compile(r"^\s{0,3}(#{1,6})(?:\s+|(?=[^\s#]))(.*?)\s*#*\s*$")
_WIKI_HEADING = re.compile(r"^\s*(={2,6})\s*([^=].*?)\s*\1\s*$")
_SUMMARY = re.compile(r"<summary[^>]*>(.*?)</summary>", re.IGNORECASE)
_BOLD_LINE = re.compile(r"^\s{0,3}(\*\*|__)(?=\S)((?:(?!\1).)+)\1:?\s*$")
_UNDERLINE = re.compile(r"^\s{0,3}(=+|-+)\s*$")
_RULE = re.compile(r"^\s{0,3}([-*_])(\s*\1){2,}\s*$")
_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+(?:\[[ xX]\]\s+)?")
_SEPARATOR = re.compile(r"^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")
_QUOTE = re.compile(r"^\s{0,3}(?:>\s?)+(?:\[!\w+\]\s*)?")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_WIKI = re.compile(r"\{\{[^{}]*\}\}|__[A-Z]{3,}__")
_REFERENCE = re.compile(r"^\s{0,3}\[[^\]]+\]:\s*\S+")
_IMAGE = re.compile(r"!\[[^\]]*\](?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\]]*\])|<img\b[^>]*>", re.IGNORECASE)
_LINK = re.compile(r"\[([^\[\]]*)\](?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\]]*\])")
_ADDRESS = re.compile(r"<?\b(?:https?|ftp)://[^\s<>)]+>?")
_CODE = re.compile(r"(`+)(.+?)\1")
_EMPHASIS = (
    re.compile(r"(\*{1,3})(?=\S)(.+?)(?<=\S)\1"),
    re.compile(r"(?<!\w)(_{1,3})(?=\S)(.+?)(?<=\S)\1(?!\w)"),
    re.compile(r"(~~)(.+?)\1"),
)
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+\-.!|<>~])")


def parse_markdown(text: str) -> Parsed:
    """Read one Markdown document."""
    reader = _Reader()
    text, title = _front_matter(text, reader.parsed)
    if title:
        reader.parsed.add(title, 1)
    text = _COMMENT.sub("", text)
    for line in text.split("\n"):
        reader.line(line)
    reader.flush()
    return reader.parsed


def _front_matter(text: str, parsed: Parsed) -> tuple[str, str]:
    """The text after a YAML or TOML header, and the title that the header gives."""
    match = re.match(r"\s*(---|\+\+\+)[ \t]*\n(.*?)\n\1[ \t]*(?:\n|$)", text, re.DOTALL)
    fields = re.search(r"^\s*\w[\w-]*\s*[:=]", match[2], re.MULTILINE) if match else None
    if match is None or fields is None:
        return text, ""
    parsed.dropped["front matter"] += 1
    title = re.search(r"^title\s*[:=]\s*(.+)$", match[2], re.MULTILINE)
    return text[match.end() :], title[1].strip().strip("\"'") if title else ""


class _Reader:
    """Line by line; `pending` are the lines of the paragraph or list item that is open."""

    def __init__(self) -> None:
        self.parsed = Parsed()
        self.pending: list[str] = []
        self.fence = ""  # the mark that ends the code block we are in
        self.code = self.in_list = self.blank = False
        self.level = 0  # of the last heading that is written as one

    def line(self, raw: str) -> None:
        fence = _FENCE.match(raw)
        if self.fence:
            if fence and fence[1].startswith(self.fence) and not raw.strip().strip("> `~"):
                self.fence = ""
            return
        if fence:
            self.flush()
            self.parsed.dropped["code"] += 1
            self.fence = fence[1]
            return
        line = _QUOTE.sub("", raw)
        if not line.strip():
            self.flush()
            self.blank = True
            return
        self.content(line.rstrip())
        self.blank = False
        if line.endswith(("  ", "\\")):  # a hard line break
            self.flush()

    def content(self, line: str) -> None:
        indented = line.startswith(("    ", "\t"))
        if indented and not self.in_list and not self.pending and (self.blank or self.code):
            self.parsed.dropped["code"] += not self.code
            self.code = True
            return
        self.code = False
        heading, summary = _HEADING.match(line) or _WIKI_HEADING.match(line), _SUMMARY.search(line)
        underline, bold = _UNDERLINE.match(line), _BOLD_LINE.match(line)
        if heading:
            self.level = len(heading[1])
            self.heading(heading[2], self.level)
        elif summary:
            self.heading(summary[1], self.level + 1)
        elif bold and not self.pending:
            self.heading(bold[2], self.level + 1)
        elif underline and self.pending and not self.in_list and "|" not in self.pending[-1]:
            title, self.pending = " ".join(self.pending), []
            self.level = 1 if underline[1][0] == "=" else 2
            self.heading(title, self.level)
        elif _REFERENCE.match(line) or _RULE.match(line) or ("-" in line and _SEPARATOR.match(line)):
            self.flush()
        elif line.lstrip().startswith("|"):
            self.flush()
            self.pending = [line]
            self.flush()
        else:
            self.prose(line, indented)

    def heading(self, text: str, level: int) -> None:
        self.flush()
        self.in_list = False
        self.parsed.add(inline(text)[0], level)

    def prose(self, line: str, indented: bool) -> None:
        item = _ITEM.match(line)
        if item:
            self.flush()
            self.in_list = True
        elif not indented and not self.pending and not line.startswith(" "):
            self.in_list = False
        self.pending.append(line[item.end() :] if item else line.strip())

    def flush(self) -> None:
        text, self.pending = " ".join(self.pending), []
        if not text:
            return
        self.parsed.dropped["image"] += len(_IMAGE.findall(text))
        if text.lstrip().startswith("|") or (text.count(" | ") > 1 and not self.in_list):
            cells = [inline(cell) for cell in re.split(r"(?<!\\)\|", text.strip().strip("|"))]
            self.parsed.add_text(table_row([cell for cell, _ in cells]), sum(links for _, links in cells))
        else:
            plain, links = inline(text)
            self.parsed.add_text(("- " if self.in_list else "") + plain, links)


def inline(text: str) -> tuple[str, int]:
    """Text without marks, and how many of its letters stand in links."""
    text = _WIKI.sub("", _IMAGE.sub("", text))
    codes: list[str] = []

    def keep(match: re.Match[str]) -> str:
        codes.append(match[2].strip())
        return f"\x00{len(codes) - 1}\x00"

    text = _CODE.sub(keep, text)
    addresses = sum(letters(found) for found in _ADDRESS.findall(_LINK.sub("", text)))
    links = 0

    def unlink(match: re.Match[str]) -> str:
        nonlocal links
        links += letters(match[1])
        return match[1]

    text = _LINK.sub(unlink, text)
    text = without_tags(_ADDRESS.sub(lambda match: match[0].strip("<>"), text))
    for emphasis in _EMPHASIS:
        text = emphasis.sub(r"\2", text)
    text = _ESCAPE.sub(r"\1", text)
    return re.sub(r"\x00(\d+)\x00", lambda match: codes[int(match[1])], text), links + addresses

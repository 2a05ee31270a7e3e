"""HTML to headings and paragraphs of plain text.

Left out: scripts, styles, forms, code blocks, pictures, and what is navigation by its element, role or class.
Where a page has a ``main`` or ``article``, only that is read.
"""

import re
from html.parser import HTMLParser

from data_processing.documents_blocks import Parsed, letters, squeeze, table_row

_SKIPPED = {"script", "style", "noscript", "svg", "form", "button", "template", "iframe", "select", "textarea"}
_NAVIGATION = {"nav", "footer", "aside"}
_NAVIGATION_CLASS = re.compile(
    r"(?:^|[\s_-])(?:nav|navbar|navigation|menu|breadcrumbs?|sidebar|toc|footer|pagination|headerlink|cookie)(?:$|[\s_-])"
)
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_BREAKS = {
    "p", "div", "li", "ul", "ol", "dl", "dt", "dd", "table", "tr", "section", "article", "main", "header",
    "body", "blockquote", "figure", "figcaption", "details", "summary", "hr", "thead", "tbody", "caption",
    "head",
}  # fmt: skip
_CLOSED_BY_SELF = {"li", "p", "dt", "dd", "tr", "td", "th", "option"}  # their end tag may be left out


def parse_html(text: str) -> Parsed:
    """Read one HTML page."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    reader.flush()
    found = reader.inside if reader.inside.blocks else reader.outside
    found.dropped.update(reader.dropped.dropped)
    if reader.title and not any(block.level == 1 for block in found.blocks):
        page = Parsed(dropped=found.dropped)
        page.add(reader.title, 1)
        page.blocks += found.blocks
        return page
    return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.inside, self.outside, self.dropped = Parsed(), Parsed(), Parsed()  # of main or article; all else; counts
        self.title = ""
        self.stack: list[str] = []  # open elements
        self.hidden = 0  # height of the stack at which what we skip began; 0: nothing is skipped
        self.text: list[str] = []
        self.links = 0
        self.cells: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            self.dropped.dropped["image"] += tag == "img" and not self.hidden
            if tag in ("br", "wbr"):
                self.text.append(" ")
            return
        if tag in _CLOSED_BY_SELF and self.stack and self.stack[-1] == tag:
            self.handle_endtag(tag)
        if not self.hidden:
            self.begin(tag)
        self.stack.append(tag)
        values = {name: value or "" for name, value in attrs}
        if not self.hidden and (why := _why_skipped(tag, values)):
            self.dropped.dropped[why] += why != "other"
            self.hidden = len(self.stack)

    def begin(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.cells = [] if self.cells is None else self.cells
            self.text = []
        elif tag in _BREAKS or re.fullmatch(r"h[1-6]|title|pre", tag):
            self.flush()
            if tag == "tr":
                self.cells = []

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.stack:
            return
        while self.stack:
            top = self.stack[-1]
            if not self.hidden:
                self.end(top)
            self.stack.pop()
            if len(self.stack) < self.hidden:
                self.hidden = 0
            if top == tag:
                return

    def end(self, tag: str) -> None:
        if tag in ("td", "th") and self.cells is not None:
            self.cells.append("".join(self.text))
            self.text = []
        elif tag == "tr" and self.cells is not None:
            row, self.cells = table_row(self.cells), None
            self.text = []
            self.place().add_text(row, self.links)
            self.links = 0
        elif tag == "title":
            self.title, self.text = squeeze("".join(self.text)), []
        elif re.fullmatch(r"h[1-6]", tag):
            title, self.text, self.links = "".join(self.text).replace("¶", ""), [], 0
            self.place().add(title, int(tag[1]))
        elif tag in _BREAKS:
            self.flush()

    def handle_data(self, data: str) -> None:
        if self.hidden:
            return
        self.text.append(data)
        if "a" in self.stack:
            self.links += letters(data)

    def place(self) -> Parsed:
        return self.inside if "main" in self.stack or "article" in self.stack else self.outside

    def flush(self) -> None:
        if self.cells is not None:
            self.text.append(" ")
            return
        text, links = squeeze("".join(self.text)), self.links
        self.text, self.links = [], 0
        if text:
            self.place().add_text("- " + text if "li" in self.stack else text, links)


def _why_skipped(tag: str, values: dict[str, str]) -> str:
    """Under which count an element leaves; empty: it stays."""
    if tag == "pre":
        return "code"
    if tag in _NAVIGATION or values.get("role") in ("navigation", "banner", "contentinfo", "search"):
        return "navigation"
    named = f"{values.get('class', '')} {values.get('id', '')}".lower()
    if tag not in ("body", "html", "main", "article") and _NAVIGATION_CLASS.search(named):
        return "navigation"
    return "other" if tag in _SKIPPED or "hidden" in values else ""

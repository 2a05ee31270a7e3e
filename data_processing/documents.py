"""Documentation (Markdown, rst, HTML) as chunks of plain text, by heading and by length.

A chunk is the largest section that fits: a whole document, else each of its sections, else pieces of one section that
end at paragraphs, at sentences, and only where a sentence is too long at words.
"""

import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_processing.documents_blocks import Block, Parsed
from data_processing.documents_html import parse_html
from data_processing.documents_markdown import parse_markdown
from data_processing.documents_rst import parse_rst
from recsys.cleaning.streams import Budget, natural
from recsys.errors import InputError
from recsys.runtime import progress

PARSERS: dict[str, Callable[[str], Parsed]] = {
    ".md": parse_markdown, ".markdown": parse_markdown, ".rst": parse_rst,
    ".html": parse_html, ".htm": parse_html, ".xhtml": parse_html,
}  # fmt: skip
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
DEFAULT_MAX_BYTES = 4 * 10**9
_LARGEST_FILE = 64 * 10**6  # bytes; a document is read whole
_FEWEST_WORDS = 4  # in one line or cell; a chunk without such a one says nothing
_REPEATED_FILES = 10  # a line in this many files, and in 1 % of all, is boilerplate
_REPEATED_LENGTH = 200  # characters, at most, of such a line
_WORD = re.compile(r"\w*[^\W\d_]\w*")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\W\d]*[^\W\d_a-z])|(?<=[。！？])\s*")


@dataclass(frozen=True)
class Chunk:
    """A piece of documentation: its file (inside an archive ``archive:path``), the headings above it, its text."""

    file: str
    headings: tuple[str, ...]
    text: str

    @property
    def source(self) -> str:
        """``file#heading > heading``, for people."""
        return f"{self.file}#{' > '.join(self.headings)}"


@dataclass
class Documents:
    """Chunks in the order of files, and what reading them counted."""

    chunks: list[Chunk] = field(default_factory=list)
    files: int = 0
    characters: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # files, by reason
    dropped: Counter[str] = field(default_factory=Counter)  # parts of documents and chunks, by reason
    encoding: Counter[str] = field(default_factory=Counter)

    def report(self) -> dict[str, Any]:
        """The counts, for report.json."""
        kept = {name: getattr(self, name) for name in ("files", "characters")}
        counts = {name: dict(sorted((+getattr(self, name)).items())) for name in ("skipped", "dropped", "encoding")}
        return {**kept, "chunks": len(self.chunks), **counts}


@dataclass
class _Section:
    """A heading with the lines right below it and the sections that belong to it."""

    heading: str
    level: int
    lines: list[str] = field(default_factory=list)
    children: list["_Section"] = field(default_factory=list)


def read_documents(path: Path, chunk_length: int = 1200, max_bytes: int = DEFAULT_MAX_BYTES) -> Documents:
    """Chunk all documents of a folder (archives in it too), a tar archive (plain, gz, xz, bz2) or a single file.

    Args:
        path: the folder, archive or file.
        chunk_length: characters of a chunk's text, at most.
        max_bytes: cap on the bytes that are read, decompressed.

    Raises:
        InputError: no such path, no readable document in it, a damaged archive, or more than `max_bytes`.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    documents = Documents()
    read = [(name, blocks) for name, blocks in _parsed(path, Budget(max_bytes), documents) if blocks]
    if not read:
        found = "; ".join(f"{reason}: {count}" for reason, count in sorted(documents.skipped.items()))
        raise InputError(f"{path}: no readable document ({', '.join(PARSERS)}); files skipped: {found or 'none'}")
    boilerplate = _boilerplate(blocks for _, blocks in read)
    pieces: dict[tuple[tuple[str, ...], str], Chunk] = {}
    for name, blocks in read:
        kept = [block for block in blocks if block.level or block.text not in boilerplate]
        documents.dropped["boilerplate"] += len(blocks) - len(kept)
        for chunk in _chunks(name, _tree(name, kept), chunk_length):
            if not _says_something(chunk.text):
                documents.dropped["chunk without a sentence"] += 1
                continue
            # The last of equal texts stays: versions of a manual sort in their order, the newest last.
            key = (chunk.headings[-1:], chunk.text)
            documents.dropped["repeated chunk"] += pieces.pop(key, None) is not None
            pieces[key] = chunk
    documents.chunks = list(pieces.values())
    if not documents.chunks:
        raise InputError(f"{path}: {documents.files} documents without a sentence to keep; give a folder with text")
    return documents


def _says_something(text: str) -> bool:
    cells = (cell for line in text.split("\n") if not line.endswith(":") for cell in line.split(" | "))
    return any(len(_WORD.findall(cell)) >= _FEWEST_WORDS or wide(cell) >= 2 * _FEWEST_WORDS for cell in cells)


def wide(text: str) -> int:
    """How many of its characters are Chinese, Japanese or Korean, which are written without blanks."""
    return sum(letter > "\u2e80" for letter in text)


def _parsed(path: Path, budget: Budget, documents: Documents) -> Iterator[tuple[str, list[Block]]]:
    for name, data in progress(_files(path, budget, documents), "read documents", unit="file"):
        text = _decode(data, documents)
        if text is None:
            documents.skipped["binary"] += 1
            continue
        parsed = PARSERS[Path(name).suffix.lower()](text.replace("\r\n", "\n").replace("\r", "\n"))
        documents.files += 1
        documents.characters += len(text)
        documents.dropped.update(parsed.dropped)
        documents.skipped["without text"] += not parsed.blocks
        yield name, parsed.blocks


def _files(path: Path, budget: Budget, documents: Documents) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each document, in natural order of names, archives in their own order."""
    if not path.is_dir():
        if path.name.lower().endswith(ARCHIVES):
            yield from _members(path, "", budget, documents)
        elif path.suffix.lower() in PARSERS:
            yield from _file(path, path.name, budget, documents)
        else:
            raise InputError(f"{path}: not a document; give a folder, a {', '.join(PARSERS)} file or a tar archive")
        return
    for file in sorted((p for p in path.rglob("*") if p.is_file()), key=lambda p: natural(str(p.relative_to(path)))):
        name = file.relative_to(path).as_posix()
        if file.name.lower().endswith(ARCHIVES):
            yield from _members(file, f"{name}:", budget, documents)
        elif _wanted(name, file.stat().st_size, documents):
            yield from _file(file, name, budget, documents)


def _file(path: Path, name: str, budget: Budget, documents: Documents) -> Iterator[tuple[str, bytes]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    budget.spend(len(data), str(path))
    yield name, data


def _members(path: Path, prefix: str, budget: Budget, documents: Documents) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, mode="r|*") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                # What is skipped is inflated too.
                budget.spend(member.size, str(path))
                name = prefix + member.name.removeprefix("./")
                stream = archive.extractfile(member) if _wanted(name, member.size, documents) else None
                if stream is not None:
                    yield name, stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{path}: the archive is cut off or damaged ({error}); copy or download it again") from error


def _wanted(name: str, size: int, documents: Documents) -> bool:
    if Path(name).suffix.lower() not in PARSERS:
        documents.skipped["not a document"] += 1
    elif size > _LARGEST_FILE:
        documents.skipped[f"over {_LARGEST_FILE // 10**6} MB"] += 1
    else:
        return True
    return False


def _decode(data: bytes, documents: Documents) -> str | None:
    """Text of a file: by its byte order mark, else UTF-8, else (counted) Windows-1252. None: it is binary."""
    for mark, name in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig")):
        if data.startswith(mark):
            documents.encoding["files with a byte order mark"] += 1
            text = data.decode(name, errors="replace")
            documents.encoding["unreadable characters"] += text.count("\ufffd")
            return text
    if b"\x00" in data:
        return None
    text = data.decode("utf-8", errors="replace")
    bad = text.count("\ufffd") - data.count("\ufffd".encode())
    if not bad:
        return text
    documents.encoding["files not in UTF-8"] += 1
    # Few bad bytes among good ones are damage of a UTF-8 file, else it was never one.
    if bad > sum(letter > "\x7f" for letter in text) - bad:
        text = data.decode("cp1252", errors="replace")
    documents.encoding["unreadable characters"] += text.count("\ufffd")
    return text


def _boilerplate(documents: Iterable[list[Block]]) -> set[str]:
    """Short lines that stand in many files, such as the version from which a function is available."""
    found: Counter[str] = Counter()
    files = 0
    for blocks in documents:
        files += 1
        found.update({b.text for b in blocks if not b.level and len(b.text) <= _REPEATED_LENGTH})
    return {text for text, count in found.items() if count >= max(_REPEATED_FILES, 0.01 * files)}


def _tree(name: str, blocks: list[Block]) -> _Section:
    root = _Section(Path(name).stem, 0)
    path = [root]
    for block in blocks:
        if not block.level:
            path[-1].lines.append(block.text)
            continue
        while path[-1].level >= block.level:
            path.pop()
        section = _Section(block.text, block.level)
        path[-1].children.append(section)
        path.append(section)
    return root


def _chunks(file: str, root: _Section, limit: int) -> Iterator[Chunk]:
    """Chunks of a document; it goes by its only heading, or by its file's name where it has several or none."""
    if not root.lines and len(root.children) == 1:
        yield from _section_chunks(file, root.children[0], (), limit)
    elif len(_whole(root)) <= limit:
        yield from _section_chunks(file, root, (), limit)
    else:
        for text in pack(root.lines, limit):
            yield Chunk(file, (root.heading,), text)
        for child in root.children:
            yield from _section_chunks(file, child, (), limit)


def _section_chunks(file: str, section: _Section, above: tuple[str, ...], limit: int) -> Iterator[Chunk]:
    headings = (*above, section.heading)
    whole = _whole(section)
    if len(whole) <= limit:
        if _has_text(section):
            yield Chunk(file, headings, whole)
        return
    for text in pack(section.lines, limit):
        yield Chunk(file, headings, text)
    for child in section.children:
        yield from _section_chunks(file, child, headings, limit)


def _has_text(section: _Section) -> bool:
    return bool(section.lines) or any(map(_has_text, section.children))


def _whole(section: _Section) -> str:
    """A section's text with the headings inside it; sections without any text leave theirs out."""
    parts = list(section.lines)
    for child in filter(_has_text, section.children):
        parts += [child.heading.rstrip(":") + ":", _whole(child)]
    return "\n".join(parts)


def pack(lines: Iterable[str], limit: int) -> list[str]:
    """Join lines to texts of at most `limit` characters; longer lines are split at sentences, then at words."""
    texts: list[str] = []
    for line in lines:
        for number, piece in enumerate(_pieces(line, limit)):
            between = "\n" if number == 0 else " "
            if texts and len(texts[-1]) + len(between) + len(piece) <= limit:
                texts[-1] += between + piece
            else:
                texts.append(piece)
    return texts


def _pieces(line: str, limit: int) -> Iterator[str]:
    if len(line) <= limit:
        yield line
        return
    for sentence in sentences(line):
        while len(sentence) > limit:
            cut = sentence.rfind(" ", 1, limit + 1)
            cut = cut if cut > 0 else limit
            yield sentence[:cut]
            sentence = sentence[cut:].lstrip(" ")
        if sentence:
            yield sentence


def sentences(text: str) -> list[str]:
    """The sentences of one paragraph."""
    return [piece.strip() for piece in _SENTENCE.split(text) if piece.strip()]

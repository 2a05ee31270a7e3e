import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_processing.documents import pack, read_documents, sentences
from recsys.errors import InputError

WALL = "# Create Wall\n\nDraws a straight wall between two points of the plan.\n"


def _tar(path: Path, files: dict[str, bytes], mode: str = "w:xz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_small_document_is_one_chunk_and_a_long_one_falls_into_sections(tmp_path: Path) -> None:
    filler = [f"It says a little more about its subject, part {number}. " for number in range(14)]
    (tmp_path / "small.md").write_text(
        "# Slab\n\nDraws a slab in the plan.\n\n## Options\n\nThe thickness can be set.\n"
    )
    (tmp_path / "long.md").write_text(
        f"# Roof\n\n{''.join(filler[:2])}\n\n## Edge\n\n{''.join(filler[2:5])}Edge.\n\n"
        f"## Pitch\n\n{''.join(filler[5:])}\n"
    )
    chunks = read_documents(tmp_path, chunk_length=220).chunks
    assert [(c.file, c.headings) for c in chunks] == [
        ("long.md", ("Roof",)),
        ("long.md", ("Roof", "Edge")),
        *[("long.md", ("Roof", "Pitch"))] * 3,
        ("small.md", ("Slab",)),
    ]
    assert chunks[-1].text == "Draws a slab in the plan.\nOptions:\nThe thickness can be set."
    assert chunks[-1].source == "small.md#Slab"
    assert all(c.text.endswith(".") and len(c.text) <= 220 for c in chunks)


@given(
    st.lists(st.text(alphabet="ab .。あ", min_size=1, max_size=80).map(str.strip).filter(bool), max_size=6),
    st.integers(3, 40),
)
def test_packing_keeps_every_letter_and_the_limit(lines: list[str], limit: int) -> None:
    texts = pack(lines, limit)
    assert all(0 < len(text) <= limit for text in texts)
    assert "".join("".join(texts).split()) == "".join("".join(lines).split())


def test_sentences_end_at_stops_of_both_scripts() -> None:
    assert sentences("Version 2.5 is new. It draws walls! 壁を作成します。次の壁。") == [
        "Version 2.5 is new.", "It draws walls!", "壁を作成します。", "次の壁。",
    ]  # fmt: skip


def test_archive_folder_and_file_give_the_same_chunk(tmp_path: Path) -> None:
    folder = tmp_path / "folder" / "doc"
    folder.mkdir(parents=True)
    (folder / "wall.md").write_text(WALL)
    archive = _tar(tmp_path / "docs.tar.xz", {"./doc/wall.md": WALL.encode()})
    found = [read_documents(path).chunks for path in (tmp_path / "folder", archive, folder / "wall.md", tmp_path)]
    assert [[c.file for c in chunks] for chunks in found] == [
        ["doc/wall.md"], ["doc/wall.md"], ["wall.md"], ["folder/doc/wall.md"],
    ]  # fmt: skip
    assert {c.text for chunks in found for c in chunks} == {"Draws a straight wall between two points of the plan."}


def test_encodings_binaries_and_other_files_are_counted(tmp_path: Path) -> None:
    text = "# Tür\n\nZeichnet eine Tür in die gewählte Wand {}.\n"
    (tmp_path / "a.md").write_bytes(text.format("ein").encode("utf-16"))
    (tmp_path / "b.md").write_bytes(text.format("zwei").encode("cp1252"))
    (tmp_path / "c.md").write_bytes(text.format("drei").encode() + b"\xff\n")
    (tmp_path / "d.md").write_bytes(b"\x00\x01\x02PNG")
    (tmp_path / "e.md").write_bytes(b"")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    documents = read_documents(tmp_path)
    assert [c.text.rstrip("�").strip() for c in documents.chunks] == [
        f"Zeichnet eine Tür in die gewählte Wand {number}." for number in ("ein", "zwei", "drei")
    ]
    report = documents.report()
    assert report["encoding"] == {
        "files not in UTF-8": 2,
        "files with a byte order mark": 1,
        "unreadable characters": 1,
    }
    assert report["skipped"] == {"binary": 1, "not a document": 1, "without text": 1}


def test_boilerplate_repeats_and_wordless_chunks_leave(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.md").write_text(
            f"# C{number}\n\nAvailability: from version 2018\n\nMoves object {number} by a step.\n"
        )
    (tmp_path / "old.md").write_text(WALL)
    (tmp_path / "older.md").write_text(WALL)
    (tmp_path / "stub.md").write_text("# Later\n\n## Metadata\n\ntbd\n")
    documents = read_documents(tmp_path)
    assert [c.text for c in documents.chunks[:12]] == [f"Moves object {n} by a step." for n in range(12)]
    assert [c.file for c in documents.chunks[12:]] == ["older.md"]  # the last of equal ones
    assert documents.dropped["boilerplate"] == 12
    assert documents.dropped["repeated chunk"] == 1
    assert documents.dropped["chunk without a sentence"] == 1


def test_nothing_to_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"no readable document .*not a document: 1"):
        read_documents(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_documents(tmp_path / "none")
    with pytest.raises(InputError, match="not a document"):
        read_documents(tmp_path / "a.png")


def test_archive_is_capped_and_damage_is_named(tmp_path: Path) -> None:
    bomb = _tar(tmp_path / "bomb.tar.xz", {"zeros.bin": bytes(10**6), "wall.md": WALL.encode()})
    with pytest.raises(InputError, match="decompresses to more than"):
        read_documents(bomb, max_bytes=10**5)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(_tar(tmp_path / "whole.tar.gz", {"wall.md": WALL.encode() * 9000}, "w:gz").read_bytes()[:200])
    with pytest.raises(InputError, match="cut off or damaged"):
        read_documents(cut)

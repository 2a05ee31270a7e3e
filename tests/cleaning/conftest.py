"""A small Vectorworks log in every wrapping."""

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

HEADER = "ts,session_anonymized,cat,message"


def csv_text(messages: list[str], session: str = "s1", cat: str = "Tool") -> str:
    """One row a second, messages quoted."""
    quoted = ['"' + m.replace('"', '""') + '"' for m in messages]
    times = [f"2025-01-01 10:{i // 60:02}:{i % 60:02}.5" for i in range(len(messages))]
    return "\n".join([HEADER, *(f"{t},{session},{cat},{m}" for t, m in zip(times, quoted, strict=True))]) + "\n"


def tar_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


WRAPPINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain.csv": lambda data: data,
    "a.csv.gz": gzip.compress,
    "a.csv.xz": lzma.compress,
    "a.csv.zst": lambda data: zstandard.ZstdCompressor().compress(data),
    "a.tar": lambda data: tar_bytes({"in/a.csv": data}),
    "a.tar.gz": lambda data: gzip.compress(tar_bytes({"in/a.csv": data})),
    "a.tar.xz": lambda data: lzma.compress(tar_bytes({"./a.csv": data})),
    "a.tar.zst": lambda data: zstandard.ZstdCompressor().compress(tar_bytes({"a.csv": data})),
    "b.tar": lambda data: tar_bytes({"a.csv.gz": gzip.compress(data), "README.md": b"not a log"}),
    "two.csv.gz": lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:]),
}


@pytest.fixture(params=list(WRAPPINGS))
def wrapped(request, tmp_path) -> Callable[[str], Path]:
    """Write a text in one of the wrappings."""

    def write(text: str) -> Path:
        path = tmp_path / "input" / request.param
        path.parent.mkdir()
        path.write_bytes(WRAPPINGS[request.param](text.encode()))
        return path

    return write

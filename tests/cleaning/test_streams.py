"""What cannot be read says so in one line: cut off, damaged, too large, too deep, unknown."""

import gzip
import lzma
import zlib

import pytest
import zstandard

from recsys.cleaning.profile import load_profile
from recsys.cleaning.sources import LogReader
from recsys.cleaning.streams import natural
from recsys.errors import InputError
from tests.cleaning.conftest import WRAPPINGS, csv_text, tar_bytes

VECTORWORKS = load_profile("vectorworks")
TEXT = csv_text([f"Tool: {i * 7919 % 1000} ({i})" for i in range(2000)]).encode()


def failure(path, **options):
    with pytest.raises(InputError) as error:
        list(LogReader(path, VECTORWORKS, **options).frames())
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))
    return str(error.value)


@pytest.mark.parametrize("name", [n for n in WRAPPINGS if not n.startswith(("plain", "two", "b."))])
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_cut_off_archive_is_refused(tmp_path, name, share):
    data = WRAPPINGS[name](TEXT)
    if name == "a.tar":
        share = 0.5  # what is missing at its end otherwise is only padding
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share)])
    assert "cut off" in failure(path)


@pytest.mark.parametrize(
    "compress", [gzip.compress, lzma.compress, zstandard.ZstdCompressor(write_checksum=True).compress]
)
def test_a_damaged_file_is_refused(tmp_path, compress):
    data = bytearray(compress(TEXT))
    data[len(data) // 2] ^= 0xFF
    data[len(data) // 2 + 1] ^= 0xFF
    path = tmp_path / "a.csv.z"
    path.write_bytes(data)
    text = failure(path)
    assert "damaged" in text or "cut off" in text or "row" in text


def test_the_cap_on_decompressed_size_stops_a_bomb(tmp_path):
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(TEXT + b" " * 10_000_000))
    assert "decompresses to more than 0.001 GB" in failure(path, max_bytes=1_000_000)


def test_archives_in_archives_end_somewhere(tmp_path):
    data = TEXT
    for _ in range(8):
        data = zlib.compress(data, wbits=31)
    path = tmp_path / "a.gz"
    path.write_bytes(data)
    assert "deep" in failure(path)


def test_zip_empty_and_missing(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK\x03\x04rest")
    assert "zip archives are not read" in failure(path)
    path.write_bytes(b"")
    assert "the file is empty" in failure(path)
    assert "no such file" in failure(tmp_path / "nowhere.csv")


def test_nothing_to_read_in_folder_or_archive(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "picture.png").write_bytes(b"x")
    assert "no log file in this folder" in failure(tmp_path / "folder")
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes({"picture.png": b"x"}))
    assert "no log file in this archive" in failure(path)


def test_natural_order():
    assert sorted(["p10", "p9", "q1", "p1"], key=natural) == ["p1", "p9", "p10", "q1"]

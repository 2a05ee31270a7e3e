"""Vocabularies given as files: order, and one line that names the file and row of a gap or a double."""

import polars as pl
import pytest

from recsys.errors import InputError
from recsys.etl.operators.vocabulary_file import read_vocabulary

VALUES = ["zeta", "Ü, x", "a", " blank "]


def test_every_format_keeps_the_order_of_the_file(tmp_path):
    table = pl.DataFrame({"colour": VALUES, "other": [4, 3, 2, 1]})
    table.write_csv(tmp_path / "v.csv")
    table.write_parquet(tmp_path / "v.parquet")
    (tmp_path / "v.txt").write_bytes("\ufeffzeta\r\nÜ, x\na\n blank ".encode())
    for name in ("v.csv", "v.parquet", "v.txt"):
        assert read_vocabulary(tmp_path / name, "colour").to_list() == VALUES
    assert read_vocabulary(tmp_path / "v.csv", "x", "colour").to_list() == VALUES
    assert read_vocabulary(tmp_path / "v.parquet", "x", "other").to_list() == ["4", "3", "2", "1"]
    # The only column need not be named.
    table.select("other").write_parquet(tmp_path / "one.parquet")
    assert read_vocabulary(tmp_path / "one.parquet", "colour").to_list() == ["4", "3", "2", "1"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("v.txt", "a\n\nb\n", r"v.txt: line 2: no value; ids must have no gap"),
        ("v.txt", "a\nb\n\n", r"v.txt: line 3: no value"),
        ("v.txt", "a\r\nb\r\na\r\n", r"v.txt: line 3: 'a' stands in row 1 too"),
        ("v.txt", "", "v.txt: no value in it"),
        ("v.txt", b"\xff\xfe", "v.txt: not UTF-8 text"),
        ("v.csv", "colour,n\na,1\n,2\n", r"v.csv: column 'colour', row 2: no value"),
        ("v.csv", "colour\na\nb\nb\n", r"v.csv: column 'colour', row 3: 'b' stands in row 2 too"),
        ("v.csv", "color,n\na,1\n", r"v.csv: column 'colour' is missing \(did you mean 'color'\?\)"),
        ("v.csv", "colour\n", "v.csv: no value in it"),
        ("v.csv", "", "v.csv: not a readable vocabulary"),
        ("v.parquet", b"PAR1", "v.parquet: not a readable vocabulary"),
        ("none.txt", None, r"none.txt: no such file; etl.categorical.colour.vocabulary names it"),
    ],
)
def test_what_is_no_vocabulary(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(InputError, match=message) as error:
        read_vocabulary(tmp_path / name, "colour")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_list_is_no_value(tmp_path):
    pl.DataFrame({"colour": [["a"]]}).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(InputError, match=r"column 'colour' is List\(String\); one plain value a row"):
        read_vocabulary(tmp_path / "v.parquet", "colour")

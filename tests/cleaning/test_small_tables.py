"""Tables that people write come back as they are; what is wrong in them is one line that names file, row and fix."""

import csv
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.cleaning.small_tables import LONGEST_FIELD, read_rows, write_rows
from recsys.errors import InputError

CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["a\rb", 'say "x"', " , ", "\r", "\r\n", "a\nb", "\ufeffx", "'=1", '"', "\x00", "\u2028", ";"]
)


@pytest.fixture
def write(tmp_path):
    def one(data):
        path = tmp_path / "t.csv"
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return one


@given(st.integers(1, 3).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=5)))
def test_what_was_written_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    columns = ["a", "b", "c"][: len(rows[0]) if rows else 2]
    write_rows(path, columns, rows)
    expected = [(number, dict(zip(columns, row, strict=True))) for number, row in enumerate(rows, 1)]
    assert read_rows(path, ()) == expected


def test_none_is_an_empty_cell_and_numbers_are_text(tmp_path):
    path = tmp_path / "t.csv"
    write_rows(path, ("a", "b", "c"), [("x", None, 3), (None, 1.5, "")])
    assert path.read_bytes() == b"a,b,c\nx,,3\n,1.5,\n"
    with pytest.raises(InputError, match="t.csv: row 2: column 'c' is empty"):
        read_rows(path, ("c",))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_any_line_end_and_a_byte_order_mark(write, start, end):
    path = write(start + end.join(["a,b", 'x,"1', '2"', "", "y,"]))
    assert read_rows(path, ("a",)) == [(1, {"a": "x", "b": f"1{end}2"}), (2, {"a": "y", "b": ""})]


def test_a_row_that_is_too_short_has_empty_cells(write):
    assert read_rows(write("a,b,c\nx,1\n"), ("a",)) == [(1, {"a": "x", "b": "1", "c": ""})]
    with pytest.raises(InputError, match="row 1: column 'c' is empty"):
        read_rows(write("a,b,c\nx,1\n"), ("a", "c"))


def test_a_table_without_rows_is_no_error(write):
    assert read_rows(write("a,b\n"), ("a", "b")) == []


WRONG = [
    ("", "empty; needs the columns a, b"),
    ("\n\n", "empty; needs the columns a, b"),
    ("a,c\n1,2\n", "column 'b' is missing; columns: a, c"),
    ("a,xyz\n", "column 'b' is missing; columns: a, xyz"),
    ("a;b\n1;2\n", "its columns are separated by semicolons; separate the columns by commas"),
    ("\ufeffa\tb\n1\t2\n", "its columns are separated by tabs; separate the columns by commas"),
    ("a,b\n1,2\n3,4,5\n", "row 2: 3 values for 2 columns; quote values that hold a comma"),
    ("a,b\n1,2\n\n3,4,5,6\n", "row 2: 4 values for 2 columns; quote values that hold a comma"),
    ('a,b\n"1\n1",2\n3,\n', "row 2: column 'b' is empty; fill it or delete the row"),
    ("a,b,a\n1,2,3\n", "the header names 'a' twice; remove one of the columns"),
    ('a,b\n"1,2\n', "cannot be read as CSV: unexpected end of data"),
    ('a,b\n"1"x,2\n', "cannot be read as CSV: ',' expected after '\"'"),
    (
        f"a,b\n{'x' * (LONGEST_FIELD + 1)},2\n",
        f"cannot be read as CSV: field larger than field limit ({LONGEST_FIELD})",
    ),
    (b"a,b\n1,2\n\xe4,4\n", "row 2: not UTF-8; save as UTF-8 (Excel: 'CSV UTF-8')"),
    (b"\xef\xbb\xbfa,b\n1,\xe4\n", "row 1: not UTF-8; save as UTF-8 (Excel: 'CSV UTF-8')"),
    (b'a,b\n"1\n1\n1",2\n\n3,x\xff\n', "row 2: not UTF-8; save as UTF-8 (Excel: 'CSV UTF-8')"),
    (b"a,b\r1,2\r3,\xff\r", "row 2: not UTF-8; save as UTF-8 (Excel: 'CSV UTF-8')"),
    ("a,b\n1,2\n".encode("utf-16"), "the header: not UTF-8; save as UTF-8 (Excel: 'CSV UTF-8')"),
]


@pytest.mark.parametrize(("data", "message"), WRONG)
def test_what_is_wrong_is_one_line(write, data, message):
    path = write(data)
    with pytest.raises(InputError) as error:
        read_rows(path, ("a", "b"))
    assert str(error.value) == f"{path}: {message}"


def test_a_name_with_a_letter_missing_is_suggested(write):
    with pytest.raises(InputError, match=re.escape("column 'message' is missing (did you mean 'mesage'?)")):
        read_rows(write("mesage,label\n"), ("message", "label"))


def test_one_of_several_columns(write):
    path = write("a,x\n1,\n")
    assert read_rows(path, ("a",), any_of=("x", "y")) == [(1, {"a": "1", "x": ""})]
    with pytest.raises(InputError) as error:
        read_rows(path, ("a",), any_of=("y", "z"))
    assert str(error.value) == f"{path}: has none of the columns y, z; columns: a, x"
    with pytest.raises(InputError, match="separated by semicolons"):
        read_rows(write("a;y\n1;2\n"), (), any_of=("y", "z"))


def test_what_is_no_file(tmp_path):
    with pytest.raises(InputError, match="none.csv: no such file$"):
        read_rows(tmp_path / "none.csv", ("a",))
    with pytest.raises(InputError, match="is a folder; name a file"):
        read_rows(tmp_path, ("a",))
    with pytest.raises(InputError, match="is a folder; name a file"):
        write_rows(tmp_path, ("a",), [])


def test_the_limit_of_the_csv_module_is_put_back(write):
    before = csv.field_size_limit(77)
    try:
        assert len(read_rows(write(f"a\n{'x' * 100}\n"), ("a",))) == 1
        with pytest.raises(InputError):
            read_rows(write('a\n"1\n'), ("a",))
        assert csv.field_size_limit() == 77
    finally:
        csv.field_size_limit(before)


def test_a_write_that_fails_leaves_the_file(tmp_path):
    path = tmp_path / "t.csv"
    write_rows(path, ("a",), [("old",)])

    def rows():
        yield ("new",)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_rows(path, ("a",), rows())
    assert path.read_text() == "a\nold\n" and list(tmp_path.iterdir()) == [path]

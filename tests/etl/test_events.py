"""Reading events: forms of time, buckets, kinds of file, and what is said of files that cannot be read."""

import gzip
from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.etl import events as module
from recsys.etl.events import normalise, open_events, to_microseconds

WANTED = ["session_id", "timestamp", "item_id"]
HEADER = "session_id,item_id,timestamp\n"
CUT_OFF = gzip.compress((HEADER + "s,a,1\n" * 9999).encode(), mtime=0)[:60]


def read(path, work):
    work.mkdir(exist_ok=True)
    return pl.concat(open_events(path).spread(work, WANTED).frames()).select(WANTED)


@settings(max_examples=80, deadline=None)
@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)), st.integers(-12, 12))
def test_every_form_of_a_time_is_the_same_time(moment, hours):
    epoch = datetime(1970, 1, 1)
    expected = (moment - epoch) // timedelta(microseconds=1)
    zoned = moment.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=hours)))
    texts = [moment.isoformat(), moment.isoformat(" "), zoned.isoformat(), moment.isoformat() + "Z", str(expected)]
    assert to_microseconds(pl.Series(texts)).to_list() == [expected] * 5
    assert to_microseconds(pl.Series([moment])).to_list() == [expected]
    assert to_microseconds(pl.Series([moment.replace(tzinfo=UTC)])).to_list() == [expected]
    assert to_microseconds(pl.Series([expected])).to_list() == [expected]


def test_seconds_days_and_what_is_no_time():
    assert to_microseconds(pl.Series([1.5, None, float("nan"), 1.4e15])).to_list() == [1_500_000, None, None, None]
    assert to_microseconds(pl.Series(["1.5", "-2.25"])).to_list() == [1_500_000, -2_250_000]
    assert to_microseconds(pl.Series([date(1970, 1, 2)])).to_list() == [86_400_000_000]
    assert to_microseconds(pl.Series(["yesterday", "", "2020-13-01 00:00:00", "12:30"])).null_count() == 4
    assert to_microseconds(pl.Series([True])).null_count() == 1


def frame(n=50, sessions=7):
    return pl.DataFrame(
        {
            "session_id": [f"s,{k % sessions}" for k in range(n)],
            "item_id": ['a,"b"\n😀', "", None, "x", "y"] * (n // 5),
            "timestamp": [10**6 * (n - k // 2) for k in range(n)],
        }
    )


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz"])
@pytest.mark.parametrize("bucket_rows", [500_000, 10])
def test_a_table_comes_back_in_parts_of_whole_sessions(tmp_path, monkeypatch, suffix, bucket_rows):
    monkeypatch.setattr(module, "BUCKET_ROWS", bucket_rows)
    monkeypatch.setattr(module, "CSV_BYTES_PER_ROW", 20)
    monkeypatch.setattr(module, "BATCH_ROWS", 8)
    path = tmp_path / f"events{suffix}"
    table = frame()
    if suffix == ".parquet":
        table.write_parquet(path)
    else:
        data = csv_of(table).encode()
        path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    work = tmp_path / "work"
    work.mkdir()
    parts = list(open_events(path).spread(work, WANTED).frames())
    assert (len(parts) > 1) == (bucket_rows == 10)
    seen = [set(part["session_id"]) for part in parts]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 7
    # Rows of a session keep their order, ties of time among them; text is intact.
    key = pl.col("session_id")
    for name in set().union(*seen):
        mine = pl.concat(parts).filter(key == name).select("item_id", "timestamp")
        assert mine.equals(table.filter(key == name).select("item_id", "timestamp"))
    whole = read(table, tmp_path / "whole")
    assert whole.sort(pl.all()).equals(table.select(WANTED).sort(pl.all()))


def csv_of(table):
    """Text in quotes, so that the empty string differs from null, which is nothing at all."""
    lines = [",".join(table.columns)]
    for row in table.iter_rows():
        cells = ["" if v is None else '"' + str(v).replace('"', '""') + '"' for v in row]
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def test_empty_cells_of_csv(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text(HEADER + 's,,1\ns,"",2\n"s","a\nb",3\n')
    assert read(path, tmp_path / "w")["item_id"].to_list() == [None, "", "a\nb"]


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("e.csv", "", "e.csv: empty file"),
        ("e.csv", HEADER, "e.csv: a header and no rows"),
        (
            "e.csv",
            "session_id,item,timestamp\ns,a,1\n",
            r"e.csv: column 'item_id' is missing.*columns: session_id, item",
        ),
        (
            "e.csv",
            HEADER + "s,a,1\ns,b,soon\n",
            r"e.csv: column 'timestamp', row 2: cannot read 'soon'; expected micro",
        ),
        ("e.csv", HEADER + "s,a,1\ns,b,\n", r"e.csv: column 'timestamp', row 2: no value"),
        ("e.csv", HEADER + "s,a,1\n,b,2\n", r"e.csv: column 'session_id', row 2: no value"),
        ("e.csv", HEADER.encode() + "s,é,1\n".encode("latin-1"), "e.csv: not UTF-8 text"),
        ("e.csv", HEADER + "s,a,1\ns,b\n", "e.csv: not a readable CSV file.*Expected 3 columns, got 2"),
        ("e.csv", "session_id,item_id,item_id,timestamp\n", "column 'item_id' stands twice"),
        (
            "e.csv.gz",
            gzip.compress((HEADER + "s,a,1\n" * 9999).encode(), mtime=0)[:60],
            "e.csv.gz: not a readable CSV file",
        ),
        ("e.parquet", b"PAR1", "e.parquet: not a readable Parquet file"),
        ("e.xlsx", "x", r"e.xlsx: unknown kind of file; events are read from .parquet, .csv, .csv.gz"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, data, message):
    with pytest.raises(InputError, match=message) as error:
        read(write(tmp_path / name, data), tmp_path / "w")
    assert "\n" not in str(error.value)


def test_a_truncated_parquet_and_a_missing_file(tmp_path):
    path = tmp_path / "e.parquet"
    frame().write_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"e.parquet: not a readable Parquet file \(cut off\?\)"):
        read(path, tmp_path / "w")
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.csv", tmp_path / "w")
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "notes.txt", "x")
    with pytest.raises(InputError, match=r"neither events/part-\*.parquet nor .* it holds notes.txt"):
        read(tmp_path / "folder", tmp_path / "w")


def test_row_numbers_go_on_over_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 8)
    path = tmp_path / "e.parquet"
    times = [str(k) for k in range(30)]
    times[21] = "later"
    pl.DataFrame({"session_id": ["s"] * 30, "item_id": ["i"] * 30, "timestamp": times}).write_parquet(path)
    with pytest.raises(InputError, match="row 22: cannot read 'later'"):
        read(path, tmp_path / "w")


def test_a_folder_of_tables_is_one_table(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    frame()[:25].write_parquet(folder / "a.parquet")
    frame()[25:].write_parquet(folder / "b.parquet")
    assert read(folder, tmp_path / "w").sort(pl.all()).equals(frame().select(WANTED).sort(pl.all()))
    frame().rename({"item_id": "item"}).write_parquet(folder / "c.parquet")
    with pytest.raises(InputError, match=r"c.parquet: columns .* differ from a.parquet's"):
        read(folder, tmp_path / "w")


def test_numbers_and_nested_columns():
    base = {"session_id": ["s"], "item_id": [3], "timestamp": [1]}
    found = normalise(pl.DataFrame(base | {"x": ["2.5"]}), "t", ["x"])
    assert found.row(0) == ("s", "3", 1, 2.5)
    with pytest.raises(InputError, match=r"t: column 'x', row 5: cannot read 'much'; expected a number"):
        normalise(pl.DataFrame(base | {"x": ["much"]}), "t", ["x"], first_row=5)
    with pytest.raises(InputError, match=r"column 'x' is List\(.*one plain value a row"):
        normalise(pl.DataFrame(base | {"x": [[1]]}), "t")

"""Columns that only case tells apart, and columns whose type changes from file to file."""

import polars as pl
import pytest

from recsys.errors import InputError
from recsys.etl import Workflow
from recsys.etl.columns import check_names, check_types
from recsys.etl.events import open_events

BASE = {"session_id": ["s"], "item_id": ["i"], "timestamp": [1]}


def read(path, work, numbers=()):
    return pl.concat(open_events(path).spread(work, [*BASE, "x"], numbers).frames())


def files(folder, first, second):
    folder.mkdir(exist_ok=True)
    for name, series in (("a", first), ("b", second)):
        columns = BASE | {"x": series}
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    return [folder / "a.parquet", folder / "b.parquet"]


def test_names_that_differ_in_case_only(tmp_path):
    check_names(["a", "b", "A b"], "t")
    with pytest.raises(InputError, match=r"^t: columns 'Menu' and 'MENU' differ in case only; rename or drop one$"):
        check_names(["x", "Menu", "MENU"], "t")
    frame = pl.DataFrame(BASE | {"Item_ID": ["j"]})
    frame.write_csv(tmp_path / "e.csv")
    for source in (frame, tmp_path / "e.csv"):
        with pytest.raises(InputError, match="columns 'item_id' and 'Item_ID' differ in case only"):
            open_events(source)
    with pytest.raises(InputError, match="differ in case only"):
        Workflow().fit(frame)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pl.Series([3]), pl.Series(["3"])),
        (pl.Series([3]), pl.Series([3.0])),
        (pl.Series([True]), pl.Series([1])),
        (pl.Series(["3"], dtype=pl.Categorical), pl.Series([3])),
        (pl.Series([3]).cast(pl.Datetime("us")), pl.Series([3]).cast(pl.Datetime("us", "UTC"))),
    ],
)
def test_types_that_change(tmp_path, first, second):
    message = r"b.parquet: column 'x' is .*, but .* in a.parquet; write one type in all files"
    with pytest.raises(InputError, match=message):
        check_types(files(tmp_path / "t", first, second))
    with pytest.raises(InputError, match=message):
        read(tmp_path / "t", tmp_path)
    # The same in the parts of an events folder.
    (tmp_path / "cleaned" / "events").mkdir(parents=True)
    for number, path in enumerate(sorted((tmp_path / "t").iterdir())):
        path.rename(tmp_path / "cleaned" / "events" / f"part-{number:05d}.parquet")
    with pytest.raises(InputError, match="part-00001.parquet: column 'x' is"):
        read(tmp_path / "cleaned", tmp_path)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pl.Series([3], dtype=pl.Int32), pl.Series([3], dtype=pl.UInt8)),
        (pl.Series(["3"], dtype=pl.Categorical), pl.Series(["3"])),
        (pl.Series([None], dtype=pl.Null), pl.Series(["3"])),
        (pl.Series([2.5], dtype=pl.Float32), pl.Series([2.5])),
        (pl.Series([3]).cast(pl.Datetime("us")), pl.Series([3]).cast(pl.Datetime("ms"))),
    ],
)
def test_types_that_mean_the_same(tmp_path, first, second):
    check_types(files(tmp_path / "t", first, second))
    assert read(tmp_path / "t", tmp_path).height == 2


def test_numbers_may_be_whole_in_one_file(tmp_path):
    paths = files(tmp_path / "t", pl.Series([3]), pl.Series([3.5]))
    check_types(paths, ["x"])
    found = read(tmp_path / "t", tmp_path, ["x"])
    assert sorted(found["x"]) == [3.0, 3.5]
    paths[1].write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"b.parquet: not a readable Parquet file"):
        check_types(paths)

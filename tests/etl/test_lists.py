"""Columns of lists: read, counted, encoded, sliced and extended, each against plain Python."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import EtlConfig, RunConfig
from recsys.errors import ConfigError, InputError, SchemaError
from recsys.etl import Etl, Extension, Workflow, preprocess
from recsys.etl.lists import as_lists
from recsys.schema import Scope

VALUES = ["", "drama", "a,b", "Ü", "x|y", "12"]
LISTS = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from(VALUES)), max_size=4))
EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), LISTS), min_size=1, max_size=25)


def events_of(rows: list[tuple]) -> pl.DataFrame:
    """One event a second."""
    kinds = {"session_id": pl.String, "item_id": pl.String, "tags": pl.List(pl.String)}
    frame = pl.DataFrame(rows, schema=kinds, orient="row")
    return frame.with_columns(pl.Series("timestamp", [n * 1_000_000 for n in range(len(rows))], dtype=pl.Int64))


def etl(**more: object) -> EtlConfig:
    return Etl().categorical("item_id").categorical("tags", multi_valued=True, **more).config()


def ids_of(lists: list, min_count: int = 1):
    """Ids by count of single values, equal counts by value; a missing list is one missing value."""
    counts = Counter(v for values in lists for v in values or [] if v is not None)
    order = sorted((v for v in counts if counts[v] >= min_count), key=lambda v: (-counts[v], v))
    known = {value: 3 + place for place, value in enumerate(order)}
    return lambda values: [1] if values is None else [1 if v is None else known.get(v, 2) for v in values]


@settings(max_examples=60, deadline=None)
@given(EVENTS, EVENTS)
def test_lists_equal_a_plain_reference(train: list, new: list) -> None:
    workflow = Workflow(etl(min_count=2)).fit(events_of(train))
    encode = ids_of([row[2] for row in train], min_count=2)
    found = workflow.transform(events_of(new))
    expected = {name: [encode(row[2]) for row in new if row[0] == name] for name in sorted({row[0] for row in new})}
    assert dict(zip(found["session_id"], found["tags"].to_list(), strict=True)) == expected
    vocabulary = workflow.vocabulary("tags")
    nulls = sum(1 if row[2] is None else row[2].count(None) for row in train)
    assert vocabulary.null_count == nulls
    assert workflow.fitted.id_counts("tags")[3:] == vocabulary.counts.to_list()


def test_hash_buckets_hold_the_tail() -> None:
    events = events_of([("a", "x", ["drama", "drama"]), ("a", "x", ["Ü", "12", None])])
    workflow = Workflow(etl(min_count=2, hash_buckets=2)).fit(events)
    first, second = workflow.transform(events)["tags"].to_list()[0]
    assert first == [3, 3] and second[2] == 1 and set(second[:2]) <= {4, 5}
    assert workflow.fitted.id_counts("tags") == [0, 1, 0, 2, 1, 1]  # two of the tail, shared out


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from("ab")), max_size=4)), max_size=9))
def test_text_is_divided(lists: list) -> None:
    text = [None if values is None else "||".join(v or "" for v in values) for values in lists]
    found = as_lists(pl.Series("tags", text, dtype=pl.String), "t", "||").to_list()
    assert found == [[] if values == [None] else values for values in lists]  # "" is an empty list


def test_other_lists_are_read_as_text() -> None:
    assert as_lists(pl.Series("n", [[1, 2], None, []]), "t", None).to_list() == [["1", "2"], None, []]
    fixed = pl.Series("n", [[1, 2]], dtype=pl.Array(pl.Int64, 2))
    assert as_lists(fixed, "t", "|").to_list() == [["1", "2"]]
    assert as_lists(pl.Series("n", [None, None]), "t", None).to_list() == [None, None]


@pytest.mark.parametrize(
    ("values", "delimiter", "message"),
    [
        (["a|b"], None, r"^t: column 'tags' is String, .* multi_valued; say what divides the text \(delimiter\)"),
        ([1.5], "|", r"^t: column 'tags' is Float64, .* multi_valued; a list a row is needed"),
        ([[["a"]]], None, r"^t: column 'tags' is List\(List\(String\)\); lists of plain values are needed$"),
    ],
)
def test_what_is_no_list_is_refused(values: list, delimiter: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_lists(pl.Series("tags", values), "t", delimiter)


def test_a_list_where_one_value_is_declared_is_refused(tmp_path: Path) -> None:
    events = events_of([("a", "x", ["drama"])])
    events.write_parquet(tmp_path / "events.parquet")
    config = RunConfig(etl=Etl().categorical("item_id").categorical("tags").config())
    with pytest.raises(InputError, match=r"events.parquet: column 'tags' is List\(String\); .*multi_valued: true$"):
        preprocess(tmp_path / "events.parquet", config, tmp_path / "out")
    commands = pl.DataFrame({"item_id": ["x"], "genres": [["a"]]})
    config = RunConfig(etl=Etl().categorical("item_id").categorical("genres").config())
    with pytest.raises(InputError, match=r"\(commands\): column 'genres' is List\(String\); .*multi_valued: true$"):
        preprocess(events, config, tmp_path / "out", commands=commands)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"item_id": {"multi_valued": True}}, "item_id.multi_valued: an event has one item"),
        ({"item_id": {}, "tags": {"delimiter": "|"}}, "delimiter without multi_valued"),
        ({"item_id": {}, "tags": {"delimiter": "", "multi_valued": True}}, "an empty text divides nothing"),
    ],
)
def test_declarations_that_cannot_be_are_refused(section: dict, message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        Workflow(EtlConfig.model_validate({"categorical": section}))


def many(sessions: int = 30) -> pl.DataFrame:
    kinds = [["a", "b"], [], None, ["c", None], ["d"]]
    rows = [(f"s{s % sessions:02d}", f"i{s * 7 % 5}", kinds[s * s % 5]) for s in range(8 * sessions)]
    return events_of(rows)


def test_files_of_every_form_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.etl.events.BUCKET_ROWS", 50)
    monkeypatch.setattr("recsys.etl.events.BATCH_ROWS", 40)
    events = many()
    config = RunConfig(etl=etl(delimiter="|"))
    events.write_parquet(tmp_path / "events.parquet")
    text = pl.col("tags").list.eval(pl.element().fill_null("")).list.join("|")
    # A list of one missing value and an empty list look alike as text, so there is none of the former.
    events.with_columns(text).write_csv(tmp_path / "events.csv", quote_style="non_numeric")
    plain = (tmp_path / "events.csv").read_text().splitlines()
    lines = [
        plain[0],
        *(
            line if tags is not None else line.replace('""', "")
            for line, tags in zip(plain[1:], events["tags"].to_list(), strict=True)
        ),
    ]
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    frames = []
    for source in (events, tmp_path / "events.parquet", tmp_path / "events.csv"):
        made = preprocess(source, config, tmp_path / "out", overwrite=True)
        frames.append(pl.read_parquet(tmp_path / "out" / "train" / "*.parquet").sort("session_id"))
        assert made.schema["tags"].multi_valued and made.schema["tags"].scope is Scope.EVENT
    assert frames[0]["tags"].dtype == pl.List(pl.List(pl.Int32)) and {0, 1, 2} <= set(
        frames[0]["tags"].explode().list.len()
    )
    assert frames[1].equals(frames[0]) and frames[2].equals(frames[0])


def test_lists_of_items(tmp_path: Path) -> None:
    events = events_of([("a", "x", None), ("a", "y", None), ("a", "x", None), ("b", "z", None), ("b", "w", None)])
    names = ["w", "x", "y", "z"]
    commands = pl.DataFrame({"item_id": names, "genres": [None, ["b", "a"], ["b"], []]})
    config = Etl().categorical("item_id").categorical("genres", multi_valued=True).config()
    workflow = Workflow(config).fit(events.drop("tags"), commands)
    # Counts: a 2 (item x), b 3 (x twice, y); ids by count.
    assert workflow.vocabulary("genres").values.to_list() == ["b", "a"]
    assert workflow.vocabulary("genres").null_count == 1  # of item w
    found = dict(zip(workflow.items["item_id"], workflow.items["genres"].to_list(), strict=True))
    assert workflow.items["genres"].to_list()[:3] == [[], [1], [2]]
    assert {name: found[name] for name in names} == {"w": [1], "x": [3, 4], "y": [3], "z": []}
    workflow.save(tmp_path / "w")
    again = Workflow.load(tmp_path / "w")
    assert again.items.equals(workflow.items) and again.plan == workflow.plan and again.schema == workflow.schema
    broken = workflow.items.with_columns(pl.Series("genres", [[], [1], [2], [3, 9], [3], [], [1]], pl.List(pl.Int32)))
    broken.write_parquet(tmp_path / "w" / "items.parquet")
    with pytest.raises(SchemaError, match=r"row 4: column 'genres': id \[3, 9\] is not in 0 .. 4"):
        Workflow.load(tmp_path / "w")


def test_an_extension_keeps_ids_of_lists() -> None:
    config = Etl().categorical("item_id").categorical("tags", multi_valued=True)
    config = config.categorical("genres", multi_valued=True).config()
    old = Workflow(config).fit(
        events_of([("a", "x", ["p"]), ("a", "x", ["p", "q"]), ("b", "y", None)]),
        pl.DataFrame({"item_id": ["x", "y"], "genres": [["g"], ["h", "g"]]}),
    )
    commands = pl.DataFrame({"item_id": ["x", "y", "z"], "genres": [["g"], ["g"], ["k", "g", "k"]]})
    new = Extension(old).fit(events_of([("c", "z", ["r", "q"]), ("c", "x", [])]), commands)
    assert new.vocabulary("tags").values.to_list() == ["p", "q", "r"]
    assert new.vocabulary("tags").counts.to_list() == [2, 2, 1]
    assert new.vocabulary("genres").values.to_list() == ["g", "h", "k"]
    # g: x 2 + y 1 of old, then x 1 + z 1 of new; k twice in z's list.
    assert new.vocabulary("genres").counts.to_list() == [5, 1, 2]
    assert new.items["genres"].to_list()[3:] == [[3], [4, 3], [5, 3, 5]]
    assert new.warnings == ["column 'genres': 1 old items (such as 'y') keep what they had before"]


def test_one_type_of_lists_in_all_files(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    pl.DataFrame({"session_id": ["a"], "item_id": ["x"], "timestamp": [1], "tags": [["u"]]}).write_parquet(
        tmp_path / "events" / "part-0.parquet"
    )
    pl.DataFrame({"session_id": ["b"], "item_id": ["x"], "timestamp": [1], "tags": [[1]]}).write_parquet(
        tmp_path / "events" / "part-1.parquet"
    )
    with pytest.raises(InputError, match="part-1.parquet: column 'tags' is .*list.*, but .*list.* in part-0.parquet"):
        preprocess(tmp_path / "events", RunConfig(etl=etl()), tmp_path / "out")

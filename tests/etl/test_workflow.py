"""The workflow against a plain-Python reference on random events; save and load; errors."""

import itertools
import json
import math
import statistics
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import EtlConfig, RunConfig
from recsys.errors import ConfigError, InputError, SchemaError
from recsys.etl.workflow import Workflow
from recsys.schema import Kind, Scope

NAMES = ["", "Edit.Copy", "a,b", "😀", "Ü", 'x"y']
EVENT = st.tuples(
    st.sampled_from(["s1", "s2", "s,3", "s😀"]),
    st.one_of(st.none(), st.sampled_from(NAMES)),
    st.integers(0, 20).map(lambda n: n * 250_000),
    st.one_of(st.none(), st.sampled_from(["Menu", "Tool"])),
    st.integers(1, 5),
)
EVENTS = st.lists(EVENT, min_size=1, max_size=40)
COMMANDS = pl.DataFrame(
    {
        "item_id": [*NAMES[:4], "never"],
        "kept": [True, True, False, True, True],
        "classification": ["edit", "edit", "rare", None, "other"],
        "description": ["nothing", "copies", None, "smiles", "is not seen"],
    }
)


def events_of(rows):
    schema = {
        "session_id": pl.String,
        "item_id": pl.String,
        "timestamp": pl.Int64,
        "cat": pl.String,
        "merge_count": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def ids_of(values, drop=()):
    counts = Counter(v for v in values if v is not None and v not in drop)
    order = sorted(counts, key=lambda v: (-counts[v], v))
    known = {value: 3 + place for place, value in enumerate(order)}
    return (lambda v: 1 if v is None else known.get(v, 2)), order


def sessions_of(rows):
    """Sessions in order of name; events by time, equal times as given."""
    found = {}
    for row in rows:
        found.setdefault(row[0], []).append(row)
    return {name: sorted(found[name], key=lambda r: r[2]) for name in sorted(found)}


def gaps(session):
    return [0.0] + [(b[2] - a[2]) / 1e6 for a, b in itertools.pairwise(session)]


def scale_of(values):
    logs = [math.log1p(v) for v in values]
    mean, std = statistics.fmean(logs), statistics.pstdev(logs)
    return lambda v: 0.0 if std < 1e-9 else (math.log1p(v) - mean) / std


@settings(max_examples=60, deadline=None)
@given(EVENTS, EVENTS)
def test_sequences_equal_a_plain_reference(train, new):
    workflow = Workflow().fit(events_of(train), COMMANDS)
    item, order = ids_of([r[1] for r in train], drop=["a,b"])
    cat, _ = ids_of([r[3] for r in train])
    gap = scale_of([g for s in sessions_of(train).values() for g in gaps(s)])
    merged = scale_of([r[4] for r in train])
    found = workflow.transform(events_of(new))
    expected = sessions_of(new)
    assert found["session_id"].to_list() == list(expected)
    for row, session in zip(found.iter_rows(named=True), expected.values(), strict=True):
        assert row["timestamp"] == [r[2] for r in session]
        assert row["item_id"] == [item(r[1]) for r in session]
        assert row["cat"] == [cat(r[3]) for r in session]
        assert row["timestamp_interval"] == pytest.approx([gap(g) for g in gaps(session)], abs=1e-5)
        assert row["merge_count"] == pytest.approx([merged(r[4]) for r in session], abs=1e-5)
    # The item table: attributes of known items only, weighted by the events of train.
    kinds = dict(zip(COMMANDS["item_id"], COMMANDS["classification"], strict=True))
    kind, _ = ids_of([kinds.get(r[1]) for r in train if r[1] in order])
    items = workflow.items
    assert items["item_id"].to_list() == [None, None, None, *order]
    assert items["classification"].to_list() == [0, 1, 2, *(kind(kinds.get(v)) for v in order)]
    assert items["count"].sum() == len(train)
    assert items["count"][1] == sum(r[1] is None for r in train)
    assert items["count"][2] == sum(r[1] == "a,b" for r in train)
    # Known values keep their place in a second look, and it is the same bytes.
    assert workflow.transform(events_of(train)).equals(workflow.fit_transform(events_of(train), COMMANDS))


@settings(max_examples=25, deadline=None)
@given(EVENTS, EVENTS)
def test_a_loaded_workflow_gives_the_same(tmp_path_factory, train, new):
    folder = tmp_path_factory.mktemp("workflow")
    workflow = Workflow().fit(events_of(train), COMMANDS)
    workflow.save(folder)
    loaded = Workflow.load(folder)
    assert loaded.transform(events_of(new)).equals(workflow.transform(events_of(new)))
    assert loaded.schema == workflow.schema
    assert loaded.items.equals(workflow.items)
    assert loaded.describe().equals(workflow.describe())
    assert loaded.warnings == workflow.warnings


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.integers(1, 4))
def test_a_fit_in_parts_is_the_fit_of_all(rows, parts):
    at_once = Workflow().fit(events_of(rows))
    events = events_of(rows)
    workflow = Workflow().begin(events.columns)
    names = sorted(set(events["session_id"]))
    for part in range(parts):
        some = events.filter(pl.col("session_id").is_in(names[part::parts]))
        if some.height:
            workflow.add(workflow.prepare(some))
    assert workflow.finish().schema == at_once.schema


def events(n=30, **columns):
    base = {
        "session_id": ["s"] * n,
        "item_id": [f"i{k % 4}" for k in range(n)],
        "timestamp": range(0, n * 10**6, 10**6),
    }
    return pl.DataFrame(base | columns)


def test_schema_says_kind_scope_size_and_statistics():
    frame = events(cat=["x", None] * 15)
    schema = Workflow().fit(frame, pl.DataFrame({"item_id": ["i0"], "target": ["t"], "description": ["d"]})).schema
    assert schema.item().cardinality == 7 and schema.item().num_values() == 4
    assert (schema["cat"].scope, schema["cat"].cardinality) == (Scope.EVENT, 4)
    assert (schema["target"].scope, schema["target"].cardinality) == (Scope.ITEM, 4)
    assert schema["description"].kind is Kind.TEXT
    logs = [0.0] + [math.log(2)] * 29
    found = schema["timestamp_interval"].statistics
    assert set(found) == {"log1p", "zscore", "mean", "std"}
    assert found["mean"] == pytest.approx(statistics.fmean(logs), rel=1e-9)
    assert found["std"] == pytest.approx(statistics.pstdev(logs), rel=1e-9)
    assert "merge_count" not in schema and "classification" not in schema


def test_users_are_named_where_there_are_any_and_not_needed():
    workflow = Workflow().fit(events(user_id=["u"] * 30))
    assert workflow.transform(events(user_id=["u"] * 30))["user_id"].to_list() == ["u"]
    assert "user_id" not in workflow.transform(events()).columns
    with pytest.raises(InputError, match="session 's' has more than one user_id"):
        workflow.transform(events(user_id=["u"] * 29 + ["v"]))


def test_training_cuts_slices_and_filters_and_counts_what_left():
    lengths = {"a": 3, "b": 23, "c": 100}
    rows = [(s, "x", n * 10**6, None, 1) for s, length in lengths.items() for n in range(length)]
    config = EtlConfig(chunk={"min_items": 10, "max_items": 20}, newest=12, min_length=4)
    workflow = Workflow(config).fit(events_of(rows))
    prepared = workflow.prepare(events_of(rows))
    made = workflow.sequences(prepared, training=True)
    assert made.rows_in == 126
    assert made.rows_out == made.frame["timestamp"].list.len().sum()
    assert made.rows_in - sum(made.dropped_rows.values()) == made.rows_out
    assert (made.dropped_rows["min_length"], made.dropped_sequences["min_length"]) == (3, 1)
    # Chunks lie one after another and each ends as its newest events do.
    uncut = Workflow(EtlConfig(chunk=config.chunk)).fit(events_of(rows)).transform(events_of(rows), training=True)
    for name, length in lengths.items():
        mine = uncut.filter(pl.col("session_id") == name)
        assert mine["chunk"].to_list() == list(range(mine.height))
        assert mine["timestamp"].explode().to_list() == [n * 10**6 for n in range(length)]
    ends = dict(zip(zip(uncut["session_id"], uncut["chunk"], strict=True), uncut["timestamp"], strict=True))
    for name, chunk, times in made.frame.select("session_id", "chunk", "timestamp").iter_rows():
        assert times == ends[(name, chunk)].to_list()[-12:]
    # The interval is older than the cut: only the session's true first event has none.
    shortest = min(workflow.transform(events_of(rows))["timestamp_interval"].explode())
    first = uncut.with_columns(pl.col("timestamp_interval").list.first())
    assert first.filter(pl.col("timestamp_interval") == shortest)["chunk"].to_list() == [0, 0, 0]
    # Without `training` everything stays.
    assert workflow.transform(events_of(rows))["timestamp"].list.len().to_list() == [3, 23, 100]


def test_run_config_gives_section_and_seed():
    workflow = Workflow(RunConfig(seed=5, etl={"min_length": 7}))
    assert (workflow.seed, workflow.config.min_length) == (5, 7)


def test_constant_and_empty_columns_warn():
    workflow = Workflow().fit(events(cat=pl.Series([None] * 30, dtype=pl.String), merge_count=[2] * 30))
    assert any("merge_count" in w and "one value" in w for w in workflow.warnings)
    assert any("'cat'" in w for w in workflow.warnings)
    assert workflow.transform(events(cat=["new"] * 30, merge_count=[9] * 30))["merge_count"][0].to_list() == [0.0] * 30
    assert workflow.describe().height == 4


@pytest.mark.parametrize(
    ("etl", "message"),
    [
        ({"categorical": {"cat": {}}}, "item_id is missing"),
        ({"categorical": {"item_id": {}, "user_id": {}}}, "'user_id' identifies rows"),
        ({"categorical": {"item_id": {}, "../x": {}}}, "cannot name a file"),
        ({"continuous": {"cat": {}}}, "both categorical and continuous"),
        ({"continuous": {"x": {"transforms": ["zscore", "log1p"]}}}, "log1p before zscore"),
    ],
)
def test_impossible_configurations(etl, message):
    with pytest.raises(ConfigError, match=message):
        Workflow(EtlConfig.model_validate(etl))


def test_missing_columns_are_listed():
    config = EtlConfig(optional=["user_id", "classification", "target"])
    with pytest.raises(InputError, match=r"columns 'cat', 'merge_count' are missing; columns: session_id, item_id"):
        Workflow(config).fit(events())
    with pytest.raises(InputError, match=r"'item_id' is missing .*did you mean 'itemid'"):
        Workflow().fit(events().rename({"item_id": "itemid"}))
    with pytest.raises(ConfigError, match="not fitted"):
        Workflow().transform(events())


def test_wrong_commands_and_numbers():
    with pytest.raises(InputError, match="'i1' stands twice"):
        Workflow().fit(events(), pl.DataFrame({"item_id": ["i1", "i1"]}))
    with pytest.raises(InputError, match="'kept' is String"):
        Workflow().fit(events(), pl.DataFrame({"item_id": ["i1"], "kept": ["yes"]}))
    with pytest.raises(InputError, match=r"'merge_count', session 's': -1.0 has no log1p"):
        Workflow().fit(events(merge_count=[-1] * 30))
    with pytest.raises(InputError, match="no training events"):
        Workflow().fit(events().clear())


def saved(tmp_path):
    Workflow().fit(events(cat=["x"] * 30), pl.DataFrame({"item_id": ["i0"], "target": ["t"]})).save(tmp_path)
    return tmp_path


def rewrite(path, change):
    change(pl.read_parquet(path)).write_parquet(path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unique.item_id.parquet", lambda t: pl.concat([t, t[1:2]]), r"row 5: 'i1' stands twice"),
        ("unique.item_id.parquet", lambda t: t.with_columns(item_id=pl.lit(None, pl.String)), "row 1: no value"),
        ("unique.item_id.parquet", lambda t: t.reverse(), "other values than workflow.json"),
        ("unique.cat.parquet", lambda t: t.drop("cat_size"), "'cat_size' is missing"),
        ("items.parquet", lambda t: t[:-1], "6 rows for 7 ids"),
        ("items.parquet", lambda t: pl.concat([t[:3], t[4:]]), "row 4: id 4, expected 3"),
        ("items.parquet", lambda t: t.with_columns(item_id=pl.lit("q")), "row 1: item 'q'"),
        ("items.parquet", lambda t: t.with_columns(target=pl.lit(9)), r"row 1: column 'target': id 9 is not in 0 .. 3"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, file, change, message):
    folder = saved(tmp_path)
    Workflow.load(folder)
    rewrite(folder / file, change)
    with pytest.raises(SchemaError, match=message) as error:
        Workflow.load(folder)
    assert file in str(error.value)


def test_a_workflow_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SchemaError, match=r"workflow.json: no such file"):
        Workflow.load(tmp_path)
    folder = saved(tmp_path)
    (folder / "items.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SchemaError, match=r"items.parquet: not a readable Parquet file"):
        Workflow.load(folder)
    path = folder / "workflow.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"version": 99}))
    with pytest.raises(SchemaError, match="version 99"):
        Workflow.load(folder)
    path.write_text("{}")
    with pytest.raises(SchemaError, match="not a saved workflow"):
        Workflow.load(folder)

"""Workflows applied to events: by hand, against a plain reference, and a session alone against all of them."""

import json
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.cleaning.workflows import Workflow, Workflows
from recsys.errors import ConfigError, InputError


def fixed(text, **more):
    return Workflow(name=f"Workflow: {' + '.join(text)}", constituents=list(text), **more)


def learned(left, right, **more):
    return fixed(left + right, left=list(left), right=list(right), **more)


def frame(sessions):
    """Sessions as texts of one-letter commands; times and merge counts tell the rows apart."""
    rows = [(name, letter) for name, text in sessions.items() for letter in text]
    return pl.DataFrame(
        {
            "session_id": [name for name, _ in rows],
            "item_id": [letter for _, letter in rows],
            "timestamp": [1000 + 10 * number for number in range(len(rows))],
            "cat": [f"cat {number}" for number in range(len(rows))],
            "merge_count": [1 + number % 3 for number in range(len(rows))],
        },
        schema_overrides={
            "session_id": pl.String,
            "item_id": pl.String,
            "timestamp": pl.Int64,
            "merge_count": pl.Int64,
        },
    )


def short(events):
    return events["item_id"].str.replace_all("Workflow: ", "").str.replace_all(" + ", "", literal=True).to_list()


def test_columns_of_a_workflow():
    events = frame({"s": "xabcy"})
    found = Workflows(merges=[learned("a", "b"), learned("ab", "c")]).apply(events)
    assert found.to_dict(as_series=False) == {
        "session_id": ["s"] * 3,
        "item_id": ["x", "Workflow: a + b + c", "y"],
        "timestamp": [1000, 1010, 1040],
        "cat": ["cat 0", "cat 1", "cat 4"],
        "merge_count": [1, 2 + 3 + 1, 2],
        "last_timestamp": [1000, 1030, 1040],
        "constituents": [None, ["a", "b", "c"], None],
    }
    assert found.schema["last_timestamp"] == pl.Int64 and found.schema["constituents"] == pl.List(pl.String)


def test_sessions_are_borders():
    found = Workflows(merges=[learned("a", "b")]).apply(frame({"s": "xa", "t": "ba", "u": "b", "v": "ab"}))
    assert short(found) == ["x", "a", "b", "a", "b", "ab"]


def test_equal_workflows_in_a_row_collapse():
    merges = [learned("a", "b"), learned("ab", "c")]
    events = frame({"s": "ababababc"})
    found = Workflows(merges=merges).apply(events)
    assert short(found) == ["abc"]
    assert found["constituents"].to_list() == [list("ababababc")], "what really happened stays to be read"
    assert found["merge_count"].to_list() == [events["merge_count"].sum()]
    apart = Workflows(merges=merges, collapse=False).apply(events)
    assert short(apart) == ["ab", "ab", "ab", "abc"]


def test_merges_apply_in_the_order_of_the_file():
    assert short(Workflows(merges=[learned("a", "b"), learned("b", "c")]).apply(frame({"s": "abcbc"}))) == [
        "ab",
        "c",
        "bc",
    ]
    assert short(Workflows(merges=[learned("b", "c"), learned("a", "b")]).apply(frame({"s": "abcbc"}))) == ["a", "bc"]


def test_overlapping_matches_go_from_the_left():
    assert short(Workflows(merges=[learned("a", "a")], collapse=False).apply(frame({"s": "aaaaa"}))) == [
        "aa",
        "aa",
        "a",
    ]
    assert short(Workflows(merges=[fixed("aba")]).apply(frame({"s": "abababa"}))) == ["aba", "b", "aba"]


def test_a_step_leaves_its_commands_where_it_is_not_merged_on():
    merges = [learned("a", "b", step=True), learned("ab", "c")]
    events = frame({"s": "abcabxababd"})
    found = Workflows(merges=merges)
    assert short(found.apply(events)) == ["abc", *"abxababd"]
    assert found.apply(events)["merge_count"].to_list() == [6, *events["merge_count"].to_list()[3:]]
    assert [merge.name for merge in found.vocabulary()] == ["Workflow: a + b + c"]


def test_expand():
    found = Workflows(merges=[learned("a", "b"), learned("ab", "c")])
    assert found.expand("Workflow: a + b + c") == ["a", "b", "c"]
    assert found.expand("x") == ["x"]


@pytest.mark.parametrize("merges", [[], [learned("a", "b")]])
def test_empty_events_and_no_workflows(merges):
    columns = [*frame({}).columns, "last_timestamp", "constituents"]
    assert Workflows(merges=merges).apply(frame({})).columns == columns
    found = Workflows(merges=merges).apply(frame({"s": "xyz"}))
    assert found.columns == columns and short(found) == ["x", "y", "z"]
    assert found["constituents"].null_count() == 3 and found.schema["constituents"] == pl.List(pl.String)
    assert found["last_timestamp"].to_list() == found["timestamp"].to_list()


def test_another_session_column_and_no_merge_count():
    events = frame({"s": "ab", "t": "ab"}).rename({"session_id": "number"}).drop("merge_count")
    found = Workflows(merges=[learned("a", "b")]).apply(events, session="number")
    assert short(found) == ["ab", "ab"] and "merge_count" not in found.columns


def test_applying_twice_is_refused():
    found = Workflows(merges=[learned("a", "b")])
    with pytest.raises(InputError, match="already"):
        found.apply(found.apply(frame({"s": "ab"})))


def reference(text, workflows):
    """One session by plain lists: the tokens as (name or letter, letters)."""
    tokens = [((letter,), [letter]) for letter in text]
    for merge in workflows.merges:
        parts = [merge.left, merge.right] if merge.left else [[letter] for letter in merge.constituents]
        pattern, whole = [tuple(part) for part in parts], tuple(merge.constituents)
        out, place = [], 0
        while place < len(tokens):
            here = tokens[place : place + len(pattern)]
            if [key for key, _ in here] == pattern:
                letters = [letter for _, inside in here for letter in inside]
                if workflows.collapse and out and out[-1][0] == whole:
                    out[-1][1].extend(letters)
                else:
                    out.append((whole, letters))
                place += len(pattern)
            else:
                out.append(tokens[place])
                place += 1
        tokens = out
    steps = {tuple(m.constituents) for m in workflows.merges if m.step}
    result = []
    for key, letters in tokens:
        result += [(letter, [letter]) for letter in letters] if key in steps else [("".join(key), letters)]
    return result


@st.composite
def workflows(draw):
    """A fixed list or two, then merges of what stands."""
    known = [("a",), ("b",), ("c",)]
    merges = []
    for text in sorted(draw(st.sets(st.text("abc", min_size=2, max_size=3), max_size=2))):
        merges.append(fixed(text))
        known.append(tuple(text))
    for _ in range(draw(st.integers(0, 5))):
        left, right = draw(st.sampled_from(known)), draw(st.sampled_from(known))
        if left + right not in known:
            merges.append(learned("".join(left), "".join(right), step=draw(st.booleans())))
            known.append(left + right)
    return Workflows(merges=merges, collapse=draw(st.booleans()))


SESSIONS = st.lists(st.text("abcx", min_size=1, max_size=25), min_size=1, max_size=5)


@given(workflows(), SESSIONS)
def test_against_plain_lists_and_each_session_alone(found, texts):
    sessions = {f"s{number}": text for number, text in enumerate(texts)}
    events = frame(sessions)
    tokens = found.apply(events)
    expected = [(name, *token) for name, text in sessions.items() for token in reference(text, found)]
    inside = [row or [item] for row, item in tokens.select("constituents", "item_id").iter_rows()]
    assert list(zip(tokens["session_id"], short(tokens), inside, strict=True)) == expected
    alone = [found.apply(events.filter(pl.col("session_id") == name)) for name in sessions]
    assert pl.concat(alone).equals(tokens), "a session does not depend on the others"


@given(workflows(), SESSIONS)
def test_nothing_is_lost(found, texts):
    events = frame({f"s{number}": text for number, text in enumerate(texts)})
    tokens = found.apply(events)
    back = tokens.select(pl.col("constituents").fill_null(pl.concat_list("item_id"))).explode("constituents")
    assert back["constituents"].to_list() == events["item_id"].to_list()
    assert tokens["merge_count"].sum() == events["merge_count"].sum()
    times = list(zip(tokens["timestamp"], tokens["last_timestamp"], strict=True))
    assert all(last + 10 == first for (_, last), (first, _) in pairwise(times)), "first follows last without a gap"


def write(folder, merges, **more):
    path = folder / "workflows.json"
    path.write_text(json.dumps({"version": 1, "merges": merges} | more))
    return path


def test_saving_and_loading(tmp_path):
    found = Workflows(pairs=100, merges=[fixed("xy", count=3), learned("a", "b", count=7, share=0.07, step=True)])
    found.save(tmp_path)
    assert Workflows.load(tmp_path) == found == Workflows.load(tmp_path / "workflows.json")
    first = (tmp_path / "workflows.json").read_bytes()
    Workflows.load(tmp_path).save(tmp_path)
    assert (tmp_path / "workflows.json").read_bytes() == first


def test_a_person_may_edit_a_name(tmp_path):
    path = write(
        tmp_path,
        [
            {"name": "Start", "constituents": ["a", "b"], "left": ["a"], "right": ["b"]},
            {"name": "Start und Ende", "constituents": ["a", "b", "c"], "left": ["a", "b"], "right": ["c"]},
        ],
    )
    found = Workflows.load(path)
    assert found.apply(frame({"s": "abcab"}))["item_id"].to_list() == ["Start und Ende", "Start"]
    assert found.expand("Start und Ende") == ["a", "b", "c"]


PAIR = {"name": "W", "constituents": ["a", "b"], "left": ["a"], "right": ["b"]}
LONG = {"name": "V", "constituents": ["a", "b", "c"], "left": ["a", "b"], "right": ["c"]}


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ([PAIR, LONG | {"name": "W"}], r"merges\.1 'W': another workflow has this name"),
        ([PAIR, LONG | {"name": "c"}], r"merges\.1 'c': a command has this name"),
        ([PAIR, PAIR | {"name": "V"}], r"merges\.1 'V': another workflow has these constituents"),
        ([LONG], r"merges\.0 'V': left: no earlier workflow has the constituents a \+ b"),
        ([LONG, PAIR], r"merges\.0 'V': left: no earlier"),
        ([PAIR | {"right": ["c"]}], r"merges\.0 'W': left and right together are not its constituents"),
        ([PAIR | {"right": None}], r"merges\.0 'W': left and right are both given"),
        ([PAIR | {"constituents": ["a"]}], r"merges\.0\.constituents"),
        ([PAIR | {"name": ""}], r"merges\.0\.name"),
        ([PAIR | {"nam": "W"}], r"unknown key 'merges\.0\.nam' \(did you mean 'name'\?\)"),
    ],
)
def test_errors_name_file_and_entry(tmp_path, merges, message):
    path = write(tmp_path, merges)
    with pytest.raises(ConfigError, match=message) as error:
        Workflows.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_errors_of_the_file(tmp_path):
    with pytest.raises(InputError, match=r"workflows\.json: no such file"):
        Workflows.load(tmp_path)
    with pytest.raises(ConfigError, match="version"):
        Workflows.load(write(tmp_path, [], version=2))
    (tmp_path / "workflows.json").write_text("{")
    with pytest.raises(InputError, match=r"workflows\.json: cannot be read"):
        Workflows.load(tmp_path)


def test_commands_are_checked():
    found = Workflows(merges=[learned("a", "b")])
    found.require_commands({"a", "b"}, {"a", "b", "c"}, "here")
    with pytest.raises(ConfigError, match=r"here: merges\.0 'Workflow: a \+ b': a command has this name"):
        found.require_commands({"a", "b"}, {"a", "b", "Workflow: a + b"}, "here")
    with pytest.raises(ConfigError, match=r"here: merges\.0 .*: 'b' is rare"):
        found.require_commands({"a"}, {"a", "b"}, "here")
    misspelt = Workflows(merges=[Workflow(name="W", constituents=["a", "Edit.Pastee"])])
    with pytest.raises(
        ConfigError, match=r"here: merges\.0 'W': no command 'Edit\.Pastee'.*did you mean 'Edit\.Paste'"
    ):
        misspelt.require_commands({"a", "Edit.Paste"}, {"a", "Edit.Paste"}, "here")

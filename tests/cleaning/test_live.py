"""A live log against batch cleaning of the same lines: random logs of every kind, cut anywhere."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_processing.simulate import NoiseConfig, simulate
from recsys.cleaning.dictionary import Dictionary
from recsys.cleaning.live import Change, LiveCleaner
from recsys.cleaning.pipeline import clean_logs
from recsys.cleaning.profile import load_profile
from recsys.cleaning.redundancy import Redundancy, RedundantPair
from recsys.cleaning.rules import NO_RULES, Rules
from recsys.cleaning.workflows import Workflow, Workflows
from recsys.errors import InputError

VECTORWORKS = load_profile("vectorworks")
BY_GAP = VECTORWORKS.model_copy(
    update={
        "columns": VECTORWORKS.columns.model_copy(update={"session": [], "user": ["session", "session_anonymized"]}),
        "gap_minutes": 1.0,
    }
)
STUDIO = load_profile("visual_studio")
STUDIO_STACK = STUDIO.model_copy(update={"undo": STUDIO.undo.model_copy(update={"mode": "stack"})})
START = datetime(2025, 1, 1, 10, tzinfo=UTC)

MESSAGES = [
    ("Tool", "Tool: 'Wall' (-203)"),
    ("Tool", "Tool: 'Selection Tool' (-240)"),  # noise that begins events
    ("Tool", "Tool: 'Pan' (-241)"),
    ("Menu", "Menu: 'File' - 'Save' (12) (1)"),
    ("Menu", "Menu: 'Modify' - 'Group' (13) (1)"),
    ("UNDO", "End Event: 'Create Wall' (328)"),
    ("UNDO", "End Event: (MAX-20) 'Drag' (75)"),
    ("UNDO", "Undo Event: 'Create Wall' (328)"),
    ("UNDO", "Undo Event: 'Drag' (75)"),
    ("UNDO", "Redo Event: 'Drag' (75)"),
    ("UNDO", "Undo and Remove Action: 'Create Wall' (328)"),
    ("UNDO", "End Event: 'Zoom' (242)"),
    ("CTS", "Begin Event"),
]
TOOL, SELECTION, SAVING, DRAGGED, UNDONE, REDONE = (MESSAGES[at] for at in (0, 1, 3, 6, 8, 9))
BEGINNINGS = [
    [TOOL, SELECTION],
    [DRAGGED, UNDONE],
    [SELECTION, SAVING, DRAGGED, UNDONE],
    *([message] for message in (TOOL, SELECTION, DRAGGED, UNDONE, REDONE)),
]
COMMANDS = ["Edit.Paste", "Edit.Cut", "Edit.Undo", "Edit.Undo", "Edit.Redo", "View.Output", "View.File", "File.Open"]


@st.composite
def live_lines(draw):
    """JSON lines of three sessions: seconds that repeat, go back and jump; clocks that go on, jump and start anew."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from("abc"),
                st.sampled_from(MESSAGES),
                st.sampled_from([0, 0, 1, 1, 3, 70, -1, -2, -3600]),
                st.sampled_from([0.0, 0.2, 0.7, 1.1, 65.0, -0.4, -500.0]),
                st.booleans(),
            ),
            min_size=1,
            max_size=40,
        )
    )
    second, clock, lines = dict.fromkeys("abc", 0), dict.fromkeys("abc", 1000.0), []
    for session, (category, message), later, ticks, named in steps:
        second[session] += later
        clock[session] = max(0.0, clock[session] + ticks)
        time = (START + timedelta(seconds=second[session])).strftime("%m/%d/%Y %H:%M:%S")
        row = {"ts": f"{time} {clock[session]:.6f} +0000", "session": session, "cat": category, "message": message}
        lines.append(json.dumps(row | ({"sn": f"user of {session}"} if named else {})))
    return lines


@st.composite
def begun_lines(draw):
    """JSON lines of one session in which tools begin events that are undone; a few come late."""
    groups = draw(st.lists(st.sampled_from(BEGINNINGS), min_size=8, max_size=15))
    messages = [message for group in groups for message in group]
    late = draw(st.sets(st.integers(0, len(messages)), max_size=2))
    return [
        line(message, at - 2.5 * (at in late), category=category) for at, (category, message) in enumerate(messages)
    ]


@st.composite
def batch_lines(draw):
    """The header and rows of a Vectorworks table, times out of order."""
    steps = draw(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.sampled_from(MESSAGES), st.integers(0, 6)), min_size=1, max_size=40
        )
    )
    lines = ["ts,session_anonymized,cat,message"]
    for at, (session, (category, message), tenths) in enumerate(steps):
        time = START + timedelta(seconds=at // 2, milliseconds=400 * tenths)
        lines.append(f'{time.strftime("%Y-%m-%d %H:%M:%S.%f")},{session},{category},"{message}"')
    return lines


@st.composite
def studio_lines(draw):
    """The header and rows of a Visual Studio log: pauses split sessions, some rows come late."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["7", "10-1"]), st.sampled_from(COMMANDS), st.sampled_from([0, 1, 29, 31, -5, -40])
            ),
            min_size=1,
            max_size=40,
        )
    )
    minute, lines = 0, ["timestamp,developer_id,message"]
    for user, command, later in steps:
        minute += later
        lines.append(f"{(START + timedelta(minutes=minute)).strftime('%Y-%m-%d %H:%M:%S')},{user},{command}")
    return lines


def batch(folder, lines, profile, rules=NO_RULES):
    """What batch cleaning makes of the lines in a file; None: no event is left."""
    path = folder / ("log.jsonl" if lines[0].startswith("{") else "log.csv")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        return clean_logs(path, profile, rules)
    except InputError:
        return None


def replayed(rows: Counter, changes: list[Change]) -> None:
    """Carry changes over into the rows that are there; a row must be there to go."""
    for change in changes:
        row = (change.session_id, change.item_id, change.timestamp)
        rows[row] += -1 if change.what == "retracted" else 1
        assert rows[row] >= 0, change
    for row in [row for row, count in rows.items() if not count]:
        del rows[row]


CASES = st.one_of(
    st.tuples(live_lines(), st.sampled_from([VECTORWORKS, BY_GAP])),
    st.tuples(batch_lines(), st.just(VECTORWORKS)),
    st.tuples(studio_lines(), st.sampled_from([STUDIO, STUDIO_STACK])),
)


WALL, DRAWN, DRAG, SAVE = (
    "Tool: Wall (-203)",
    "End Event: Create Wall (328)",
    "End Event: Drag (75)",
    "Menu: File - Save (12)",
)
LABELS = {"Menu: Modify - Group (13)": SAVE, SAVE: SAVE, "Edit.Cut": "Edit.Paste", "Edit.Paste": "Edit.Paste"}
LEARNED = Rules(
    dropped_commands=["View.File"],
    redundancy=Redundancy(
        rows=2,
        seconds=3600,
        pairs=[RedundantPair(high=WALL, low=DRAWN), RedundantPair(high="View.Output", low="Edit.Paste", drop="low")],
    ),
    dictionary=Dictionary(
        pl.DataFrame({"message": list(LABELS), "command_id": None, "label": list(LABELS.values())}).cast(pl.String)
    ),
    workflows=Workflows(
        merges=[
            Workflow(name="save and drag", constituents=[SAVE, DRAG]),
            Workflow(name="draw and drag", constituents=[DRAWN, DRAG]),
            Workflow(name="twice", constituents=["Edit.Paste", "View.Output"]),
        ]
    ),
)


@settings(max_examples=60, deadline=None)
@given(CASES, st.data())
def test_after_any_lines_it_is_the_batch_result(tmp_path_factory, case, data):
    agrees_after_any_lines(tmp_path_factory.mktemp("live"), *case, data)


@settings(max_examples=30, deadline=None)
@given(begun_lines(), st.data())
def test_so_it_is_where_tools_begin_undone_events(tmp_path_factory, lines, data):
    agrees_after_any_lines(tmp_path_factory.mktemp("live"), lines, VECTORWORKS, data)


def agrees_after_any_lines(folder, lines, profile, data):
    collapse = data.draw(st.booleans(), label="collapse")
    undo = {"starter_seconds": data.draw(st.sampled_from([None, 1.5]), label="starter_seconds")}
    profile = profile.model_copy(update={"collapse": collapse, "undo": profile.undo.model_copy(update=undo)})
    rules = data.draw(st.sampled_from([NO_RULES, LEARNED, Rules(dropped_commands=[WALL, "Edit.Cut"])]), label="rules")
    cleaner, rows, fed = LiveCleaner(profile, rules), Counter(), 0
    while fed < len(lines):
        count = data.draw(st.integers(1, 25), label="lines")
        replayed(rows, cleaner.feed(lines[fed : fed + count]))
        fed = min(fed + count, len(lines))
        expected = batch(folder, lines[:fed], profile, rules)
        found = cleaner.events()
        if expected is None:
            assert found.is_empty()
        else:
            assert found.equals(expected) and found.schema == expected.schema
            session = expected["session_id"][-1]
            assert cleaner.events(session).equals(expected.filter(pl.col("session_id") == session))
        plain = LiveCleaner(profile.model_copy(update={"collapse": False}))
        plain.feed(lines[:fed])
        assert Counter(plain.events().select("session_id", "item_id", "timestamp").rows()) == rows
    assert cleaner.reader.rejected_count == 0


@pytest.mark.parametrize("phase", [False, True])
def test_generated_live_logs(tmp_path, phase):
    noise = NoiseConfig(undo_rate=0.3, cts_share=0.2, clock_phase=phase)
    simulate(tmp_path / "out", users=3, sessions_per_user=3, seed=5, log_format="live", noise=noise)
    path = tmp_path / "out" / "logs" / "part-00000.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    cleaner, rows = LiveCleaner(VECTORWORKS), Counter()
    for at in range(0, len(lines), 97):
        replayed(rows, cleaner.feed(lines[at : at + 97]))
        if at % (97 * 8) == 0:
            assert cleaner.events().equals(batch(tmp_path, lines[: at + 97], VECTORWORKS))
    assert cleaner.events().equals(clean_logs(path, VECTORWORKS))
    truth = pl.read_parquet(tmp_path / "out" / "truth" / "clean.parquet").sort("session_id", "position")
    found = cleaner.events().with_row_index("at").sort("session_id", "at")
    assert found["item_id"].to_list() == truth["item_id"].to_list()
    assert sum(rows.values()) == truth["merge_count"].sum()


def test_the_real_live_log_line_by_line(shared_data, tmp_path):
    import lzma

    with lzma.open(shared_data("vw_log") / "vw_user_log.jsonl.xz", "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    cleaner = LiveCleaner(VECTORWORKS)
    for at in range(0, len(lines), 11):
        cleaner.feed(lines[at : at + 11])
        if at % 110 == 0:
            expected = batch(tmp_path, lines[: at + 11], VECTORWORKS)
            assert cleaner.events().is_empty() if expected is None else cleaner.events().equals(expected)
    assert cleaner.events().equals(clean_logs(shared_data("vw_log"), VECTORWORKS))
    assert cleaner.reader.rejected_count == 0


def line(message, at, session="s", category="UNDO"):
    time = (START + timedelta(seconds=at)).strftime("%Y-%m-%d %H:%M:%S.%f")
    return json.dumps({"ts": time, "session": session, "cat": category, "message": message})


def told(changes):
    return [(c.what, c.item_id, c.why) for c in changes]


def test_an_undo_is_a_retraction_and_a_redo_a_restoration():
    cleaner = LiveCleaner(VECTORWORKS)
    first = cleaner.feed([line("Tool: 'Wall' (-203)", 0, category="Tool"), line("End Event: 'Create Wall' (328)", 1)])
    assert told(first) == [("added", "Tool: Wall (-203)", ""), ("added", "End Event: Create Wall (328)", "")]
    assert first[1] == Change("added", "s", "End Event: Create Wall (328)", round(START.timestamp() + 1) * 10**6)
    assert told(cleaner.feed([line("Undo Event: 'Create Wall' (328)", 2)])) == [
        ("retracted", "End Event: Create Wall (328)", "undone event"),
        ("retracted", "Tool: Wall (-203)", "began an undone event"),
    ]
    assert cleaner.events().is_empty()
    assert cleaner.events().schema == {
        "session_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "cat": pl.String, "merge_count": pl.Int64
    }  # fmt: skip
    assert told(cleaner.feed([line("Redo Event: 'Create Wall' (328)", 3)])) == [
        ("restored", "End Event: Create Wall (328)", ""),
        ("restored", "Tool: Wall (-203)", ""),
    ]
    assert told(cleaner.feed([line("Redo Event: 'Create Wall' (328)", 4)])) == []


def test_a_selection_tool_leaves_the_tool_before_it_alone():
    cleaner = LiveCleaner(VECTORWORKS)
    cleaner.feed([line("Tool: 'Wall' (-203)", 0, category="Tool")])
    assert cleaner.feed([line("Tool: 'Selection Tool' (-240)", 2, category="Tool")]) == []
    cleaner.feed([line("End Event: 'Drag' (75)", 3)])
    assert told(cleaner.feed([line("Undo Event: 'Drag' (75)", 4)])) == [
        ("retracted", "End Event: Drag (75)", "undone event")
    ]
    assert cleaner.events()["item_id"].to_list() == ["Tool: Wall (-203)"]
    # chosen before the wall tool, as a late row says: then it began nothing
    assert told(cleaner.feed([line("Tool: 'Wall' (-203)", 2.5, category="Tool")])) == []
    assert cleaner.events()["merge_count"].to_list() == [1]


def test_a_late_row_changes_what_an_undo_meant():
    cleaner = LiveCleaner(VECTORWORKS)
    cleaner.feed([line("End Event: 'Drag' (75)", 1), line("Undo Event: 'Drag' (75)", 5)])
    assert cleaner.events().is_empty()
    assert told(cleaner.feed([line("End Event: 'Drag' (75)", 3)])) == [("restored", "End Event: Drag (75)", "")]
    assert cleaner.events()["timestamp"].to_list() == [round(START.timestamp() + 1) * 10**6]


def test_a_late_row_can_join_two_sessions():
    cleaner = LiveCleaner(STUDIO)
    at = "2014-01-01 10:{:02}:00,7,Edit.{}".format
    cleaner.feed(["timestamp,developer_id,message", at(0, "Cut"), at(40, "Copy")])
    assert cleaner.events()["session_id"].to_list() == ["7-1", "7-2"]
    changes = [(c.what, c.session_id, c.item_id, c.why) for c in cleaner.feed([at(20, "Paste")])]
    assert changes == [
        ("added", "7-1", "Edit.Paste", ""),
        ("retracted", "7-2", "Edit.Copy", "a late row changed it"),
        ("added", "7-1", "Edit.Copy", ""),
    ]
    assert cleaner.events("7-1")["item_id"].to_list() == ["Edit.Cut", "Edit.Paste", "Edit.Copy"]
    assert cleaner.events("7-2").is_empty() and cleaner.events("unknown").is_empty()


def test_a_line_that_cannot_be_read_is_told_and_the_others_stay():
    good = [line("Tool: 'Wall' (-203)", at, category="Tool") for at in range(4)]
    cleaner = LiveCleaner(VECTORWORKS, source="user.log")
    bad = ["{not json", "[1]", good[0].replace("2025-", "noon "), good[0][:-2], "{}"]
    cleaner.feed([good[0], *bad[:3], good[1]])
    cleaner.feed([bad[3]])
    cleaner.feed([good[2], "", bad[4], good[3]])
    assert cleaner.events()["merge_count"].to_list() == [4]
    assert cleaner.reader.rejected_count == len(bad)
    told = [str(error) for error in cleaner.reader.rejected]
    assert [t[:16] for t in told] == [f"user.log: line {n}" for n in (2, 3, 4, 6, 9)]
    assert "not JSON" in told[0] and "one JSON object a line" in told[1] and "time 'noon 01-01" in told[2]


def test_forgetting_starts_anew():
    cleaner = LiveCleaner(VECTORWORKS)
    cleaner.feed([line("End Event: 'Drag' (75)", 1, s) for s in "ab"])
    assert set(cleaner.last_times()) == {"a", "b"}
    cleaner.forget("a")
    cleaner.forget("never seen")
    assert cleaner.feed([line("Undo Event: 'Drag' (75)", 2, "a")]) == []
    assert cleaner.events()["session_id"].to_list() == ["b"]


def test_frames_feed_too_and_lacking_columns_are_named():
    frame = pl.DataFrame({"session_id": ["s"], "cat": ["Tool"], "message": ["Tool: A (1)"], "timestamp": [5]})
    cleaner = LiveCleaner(VECTORWORKS)
    cleaner.feed(frame)
    cleaner.feed(frame.with_columns(user_id=pl.lit("u"), timestamp=pl.lit(6, pl.Int64)))
    assert cleaner.events().rows() == [("s", "Tool: A (1)", 5, "u", "Tool", 2)]
    with pytest.raises(InputError, match="'message' is missing"):
        cleaner.feed(frame.drop("message"))
    with pytest.raises(InputError, match="'message' is missing"):
        LiveCleaner(VECTORWORKS).feed(["ts,session,cat,text"])
    assert LiveCleaner(VECTORWORKS).events().is_empty()


def test_a_step_costs_the_same_however_long_the_session(monkeypatch):
    """Rows stepped per line fed, counted: one for a row in order, the session for a late one, once a call."""
    steps = []
    step = LiveCleaner._step
    monkeypatch.setattr(LiveCleaner, "_step", lambda self, *given: steps.append(1) or step(self, *given))
    cleaner = LiveCleaner(VECTORWORKS)
    lines = [line(MESSAGES[3 + at % 3][1], at) for at in range(100)]
    cleaner.feed(lines)
    assert len(steps) == 100
    cleaner.feed([line("End Event: 'Drag' (75)", 3), line("End Event: 'Drag' (75)", 2)])
    assert len(steps) == 100 + 102

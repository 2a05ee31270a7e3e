"""The undo stack against a naive replay of a list, against hand-worked chains and row by row against batch."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.cleaning import undo
from recsys.cleaning.parser import Kind, parse_messages
from recsys.cleaning.profile import load_profile
from recsys.cleaning.undo import UndoStack, removed_by_undo, undo_reasons

KINDS = st.sampled_from([Kind.STARTER, Kind.EVENT, Kind.EVENT, Kind.UNDO, Kind.REDO, Kind.REMOVE])
E_, U, R, X, T = Kind.EVENT, Kind.UNDO, Kind.REDO, Kind.REMOVE, Kind.STARTER
ROWS = st.lists(st.tuples(KINDS, st.sampled_from("abc")), max_size=40)


def replay(rows):
    """Rows that stay, found the slow way: one history list, searched from its end for each undo."""
    history = []  # [row, starter, name, state]
    starter = None
    stays = {}
    for row, (kind, name) in enumerate(rows):
        stays[row] = kind in (Kind.STARTER, Kind.EVENT)
        if kind == Kind.STARTER:
            starter = row
        elif kind == Kind.EVENT:
            for entry in history:
                if entry[3] == "undone":
                    entry[3] = "gone"
            history.append([row, starter, name, "done"])
            starter = None
        else:
            wanted = "undone" if kind == Kind.REDO else "done"
            named = [e for e in history if e[2] == name and e[3] == wanted]
            if named:
                # The newest event to undo is the last done; the newest to redo is the first undone.
                entry = named[0] if kind == Kind.REDO else named[-1]
                entry[3] = {Kind.REDO: "done", Kind.UNDO: "undone", Kind.REMOVE: "gone"}[kind]
                for other in (entry[0], entry[1]):
                    if other is not None:
                        stays[other] = kind == Kind.REDO
    return [row for row in stays if stays[row]]


@settings(max_examples=300, deadline=None)
@given(ROWS)
def test_stack_agrees_with_a_naive_replay(rows):
    stack = UndoStack()
    for row, (kind, name) in enumerate(rows):
        stack.feed(row, kind, name)
        assert [r for r in range(row + 1) if r not in stack.removed] == replay(rows[: row + 1])


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_what_feed_returns_adds_up(rows):
    """Retractions and restorations, replayed, are what is removed; at most three rows a step, each a true change."""
    stack, gone = UndoStack(), {}
    for row, (kind, name) in enumerate(rows):
        changes = stack.feed(row, kind, name)
        assert len(changes) <= 3
        for other, why in changes:
            assert (other in gone) is (why is None)
            gone.pop(other, None)
            if why is not None:
                gone[other] = why
        assert gone == stack.removed
        assert (row in gone) is (kind >= Kind.UNDO)


@pytest.mark.parametrize(
    ("seconds", "left"),
    [(None, []), (10.0, []), (9.9, [0]), (0.5, [0])],
)
def test_a_tool_of_long_ago_began_nothing(seconds, left):
    given_ = ([0] * 3, [T, E_, U], ["", "a", "a"], True, [0, 10_000_000, 11_000_000], seconds)
    assert [row for row in range(3) if row not in removed_by_undo(*given_)] == left


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.one_of(KINDS, st.just(Kind.HIDDEN)), st.sampled_from("abc")), max_size=40))
def test_hidden_rows_are_starters_that_nobody_sees(rows):
    """As if they were kept starters, which the naive replay knows, and then left out."""
    stays = replay([(T if kind == Kind.HIDDEN else kind, name) for kind, name in rows])
    shown = [row for row, (kind, _) in enumerate(rows) if kind != Kind.HIDDEN]
    follows = [row > 0 and rows[row - 1][0] == Kind.HIDDEN for row in shown]
    kinds, names = ([rows[row][at] for row in shown] for at in (0, 1))
    removed = removed_by_undo([0] * len(shown), kinds, names, True, follows_hidden=follows)
    assert [row for at, row in enumerate(shown) if at not in removed] == [row for row in stays if row in shown]


@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS, max_size=4))
def test_sessions_do_not_touch_each_other(sessions):
    flat = [(number, kind, name) for number, rows in enumerate(sessions) for kind, name in rows]
    removed = removed_by_undo([f[0] for f in flat], [f[1] for f in flat], [f[2] for f in flat], True)
    expected, start = [], 0
    for rows in sessions:
        expected += [start + row for row in replay(rows)]
        start += len(rows)
    assert [row for row in range(len(flat)) if row not in removed] == expected


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        ([(T, ""), (E_, "a"), (U, "a")], []),
        ([(T, ""), (E_, "a"), (U, "a"), (R, "a")], [0, 1]),
        ([(T, ""), (E_, "a"), (U, "a"), (R, "a"), (U, "a")], []),  # the original kept this event
        ([(E_, "a"), (U, "a"), (E_, "b"), (R, "a")], [2]),  # a new event clears the redo stack
        ([(E_, "a"), (X, "a"), (R, "a")], []),  # removed for good
        ([(T, ""), (E_, "a"), (E_, "b"), (U, "b")], [0, 1]),  # the tool began a, not b
        ([(T, ""), (T, ""), (E_, "a"), (U, "a")], [0]),  # the last tool began it
        ([(T, ""), (U, "z"), (R, "z")], [0]),
        ([(E_, "a"), (E_, "a"), (U, "a")], [0]),  # the newest of the name
        ([(E_, "a"), (U, "a"), (T, ""), (R, "a")], [0, 2]),  # a tool alone does not clear the redo stack
    ],
)
def test_chains(rows, left):
    removed = removed_by_undo([0] * len(rows), [k for k, _ in rows], [n for _, n in rows], True)
    assert [row for row in range(len(rows)) if row not in removed] == left


def test_reasons_are_told_apart():
    rows = [(T, ""), (E_, "a"), (U, "a"), (U, "a"), (R, "a"), (R, "a"), (X, "a"), (R, "a")]
    removed = removed_by_undo([0] * 8, [k for k, _ in rows], [n for _, n in rows], True)
    assert removed == {
        0: undo.STARTER,
        1: undo.UNDONE,
        2: undo.UNDO_ROW,
        3: undo.UNMATCHED_UNDO,
        4: undo.REDO_ROW,
        5: undo.UNMATCHED_REDO,
        6: undo.UNDO_ROW,
        7: undo.UNMATCHED_REDO,
    }


def test_starters_can_be_left_alone():
    assert set(removed_by_undo([0] * 3, [T, E_, U], ["", "a", "a"], False)) == {1, 2}


def _frame(items, kinds):
    return pl.DataFrame({"item_id": items, "kind": pl.Series(kinds, dtype=pl.UInt8), "s": [1] * len(items)})


@pytest.mark.parametrize(
    ("mode", "left"),
    [
        ("stack", ["Tool: Pen (1)"]),
        ("keep", None),
        ("none", ["Tool: Pen (1)", "Tool: Wall (-2)", "End Event: Wall (3)"]),
    ],
)
def test_modes(mode, left):
    items = ["Tool: Pen (1)", "Tool: Wall (-2)", "End Event: Wall (3)", "Undo Event: Wall (3)"]
    frame = _frame(items, [T, T, E_, U])
    profile = load_profile("vectorworks")
    profile.undo.mode = mode
    reasons = undo_reasons(frame, "s", profile)
    assert frame.filter(reasons.is_null())["item_id"].to_list() == (left or items)


@pytest.mark.parametrize(
    ("items", "left"),
    [
        # the save is what the person did; the wall that was drawn with the tool is undone
        (["Tool: Wall (-203)", "Menu: File - Save (12)", "End Event: Wall (3)", "Undo Event: Wall (3)"], [1]),
        (["Menu: File - Save (12)", "End Event: Drag (75)", "Undo Event: Drag (75)"], [0]),
        (["Menu: Datei - Drucken (9)", "End Event: Drag (75)", "Undo Event: Drag (75)"], [0]),
        (["Menu: Modify - Group (9)", "End Event: Group (75)", "Undo Event: Group (75)"], []),
    ],
)
def test_rows_that_begin_nothing_are_not_taken_along(items, left):
    profile = load_profile("vectorworks")
    kinds = dict(parse_messages(pl.Series(items), profile).select("item_id", "kind").rows())
    reasons = undo_reasons(_frame(items, [kinds[item] for item in items]), "s", profile)
    assert [row for row, why in enumerate(reasons) if why is None] == left


def test_unnamed_undo_takes_the_newest_undoable_command():
    profile = load_profile("visual_studio")
    profile.undo.mode = "stack"
    items = ["Edit.Paste", "Edit.Delete", "View.Output", "Edit.Undo", "Edit.Undo", "Edit.Redo"]
    frame = _frame(items, [E_, E_, Kind.PLAIN, U, U, R])
    reasons = undo_reasons(frame, "s", profile)
    assert frame.filter(reasons.is_null())["item_id"].to_list() == ["Edit.Paste", "View.Output"]

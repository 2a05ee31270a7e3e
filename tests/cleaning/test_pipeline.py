"""One path for batch and for rows in memory; rules are kept and applied."""

import polars as pl
import pytest

from recsys.cleaning.funnel import Funnel
from recsys.cleaning.pipeline import clean_logs, select_rows
from recsys.cleaning.profile import load_profile
from recsys.cleaning.rules import Rules, drop_commands
from recsys.errors import ConfigError, InputError

VECTORWORKS = load_profile("vectorworks")


def raw(*rows):
    columns = ("session_id", "cat", "message", "timestamp")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns[:3], pl.String) | {"timestamp": pl.Int64}, orient="row")


LOG = raw(
    ("s", "Tool", "Tool: 'Wall' (-203)", 1),
    ("s", "UNDO", "Event: (MAX-20) 'Create Wall' (328)", 2),
    ("s", "UNDO", "End Event: 'Create Wall' (328)", 3),
    ("t", "CTS", "Begin Event", 3),
    ("s", "UNDO", "Undo Event: 'Create Wall' (328)", 5),
    ("s", "Menu", "Menu: 'Zoom' - 'Fit' (242) (1)", 6),
    ("s", "Menu", "Menu: 'Zoom' - 'Fit' (242) (2)", 7),
    (None, "Menu", "Menu: x (1)", 8),
    ("s", "Menu", None, 8),
    ("t", "Tool", "Tool: 'Pen, \"thin\"' (5)", 4),
)


def test_a_log_in_memory():
    events = clean_logs([LOG[:4], LOG[4:]], VECTORWORKS)
    found = {r["session_id"]: [] for r in events.to_dicts()}
    for r in events.to_dicts():
        found[r["session_id"]].append((r["item_id"], r["timestamp"], r["cat"], r["merge_count"]))
    assert found == {
        "s": [("Menu: Zoom - Fit (242)", 6, "Menu", 2)],
        "t": [('Tool: Pen, "thin" (5)', 4, "Tool", 1)],
    }


def test_every_row_is_accounted_for():
    funnel = Funnel()
    kept = select_rows(LOG, VECTORWORKS, funnel)
    stages = {s["stage"]: s["removed"] for s in funnel.to_list()}
    assert stages == {
        "read": {"no message": 1, "no session_id": 1},
        "category": {"category CTS": 1},
        "noise": {"prefix Event:": 1},
    }
    assert kept.height == 6


def test_noise_that_begins_events_is_noise_all_the_same():
    rows = [
        ("s", "Tool", "Tool: 'Line' (-201)", 1),
        ("s", "Tool", "Tool: 'Selection Tool' (-240)", 2),
        ("s", "Menu", "Menu: 'File' - 'Save' (12) (1)", 3),
        ("s", "UNDO", "End Event: 'Drag' (75)", 4),
        ("s", "UNDO", "Undo Event: 'Drag' (75)", 5),
        ("only views", "Tool", "Tool: 'Selection Tool' (-240)", 5),
        ("t", "Tool", "Tool: 'Line' (-201)", 1),
        ("t", "UNDO", "End Event: 'Drag' (75)", 4),
        ("t", "UNDO", "Undo Event: 'Drag' (75)", 5),
        ("t", "Menu", "Menu: x (1)", 6),
    ]
    funnel = Funnel()
    events = clean_logs([raw(*rows)], VECTORWORKS, funnel=funnel).sort("session_id", "timestamp")
    assert events.select("session_id", "item_id").rows() == [
        ("s", "Tool: Line (-201)"),
        ("s", "Menu: File - Save (12)"),
        ("t", "Menu: x (1)"),
    ]
    stages = funnel.to_list()
    assert stages[2] == {"stage": "noise", "rows_in": 10, "rows_out": 8, "removed": {"id (-240)": 2}}
    assert stages[3]["rows_in"] == 8 and stages[3]["sessions"] == 2
    undone = {"undone event": 2, "undo row": 2, "began an undone event": 1}
    assert stages[4] == {"stage": "undo", "rows_in": 8, "rows_out": 3, "removed": undone}


def test_errors_carry_the_name_of_the_log():
    with pytest.raises(InputError, match="^users.log: no event is left"):
        clean_logs([LOG[3:4]], VECTORWORKS, source="users.log")
    with pytest.raises(InputError, match="^users.log: no frames"):
        clean_logs([], VECTORWORKS, source="users.log")


def test_rules_apply_and_neighbours_collapse():
    rows = [("s", "Tool", f"Tool: {name} (1)", at) for at, name in enumerate(["A", "rare", "A", "B"])]
    events = clean_logs([raw(*rows)], VECTORWORKS, Rules(dropped_commands=["Tool: rare (1)"]))
    assert events.select("item_id", "merge_count", "timestamp").rows() == [("Tool: A (1)", 2, 0), ("Tool: B (1)", 1, 3)]
    assert clean_logs([raw(*rows)], VECTORWORKS)["item_id"].len() == 4


def test_without_collapsing_neighbours_stay():
    events = pl.DataFrame({"session_id": ["s"] * 3, "item_id": ["A", "r", "A"], "merge_count": [1, 1, 1]})
    assert drop_commands(events, ["r"], False, Funnel())["item_id"].to_list() == ["A", "A"]


def test_a_log_without_a_kept_event_names_the_stage():
    with pytest.raises(InputError, match="no event is left after stage 'category'"):
        clean_logs([raw(("s", "CTS", "Begin Event", 1))], VECTORWORKS)
    with pytest.raises(InputError, match="no event is left after stage 'undo'"):
        clean_logs([LOG[:5]], VECTORWORKS)


def test_rules_survive_saving(tmp_path):
    rules = Rules(dropped_commands=["a, b", "c\nd", "🧱"])
    rules.save(tmp_path)
    assert Rules.load(tmp_path) == rules
    (tmp_path / "rules.json").write_text('{"dropped": []}')
    with pytest.raises(ConfigError, match="did you mean 'dropped_commands'"):
        Rules.load(tmp_path)
    (tmp_path / "rules.json").write_text("{")
    with pytest.raises(InputError, match="rules.json"):
        Rules.load(tmp_path)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_chunk_without_a_usable_row(at):
    pieces = [LOG[:1], LOG[5:6]]
    pieces.insert(at, raw((None, "Menu", "Menu: x (1)", 1), ("s", "Menu", None, 2)))
    chunks = pl.concat(pieces, rechunk=False)
    assert chunks.n_chunks() == 3
    assert select_rows(chunks, VECTORWORKS, Funnel()).height == 2

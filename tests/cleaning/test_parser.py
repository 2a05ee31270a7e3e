"""Messages and times, each against what a person reads in the row."""

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.cleaning import parser
from recsys.cleaning.parser import OUTSIDE, Kind, MessageParser, parse_messages, parse_times
from recsys.cleaning.profile import TimeFormat, load_profile
from recsys.errors import InputError

SAID = [
    "Tool: Wall (-203)",
    "Undo Event: 'Drag' (75)",
    "Menu: File - Save (12) (3)",
    "ls -l /tmp",
    "Edit.Undo",
    "",
    " ",
]


def parse(*messages, profile="vectorworks"):
    return parse_messages(pl.Series("message", messages), load_profile(profile)).to_dicts()


@pytest.mark.parametrize(
    ("message", "item", "kind"),
    [
        ("Tool: Wall (-203)", "Tool: Wall (-203)", Kind.STARTER),
        ("Tool: 'Wall' (-203)", "Tool: Wall (-203)", Kind.STARTER),
        ("End Event: (MAX-20) 'Drag' (75)", "End Event: Drag (75)", Kind.EVENT),
        ("(MAX-20) End Event: Drag (75)", "End Event: Drag (75)", Kind.EVENT),
        ("End Event:  Drag   (75) ", "End Event: Drag (75)", Kind.EVENT),
        ("Menu: File - Save (12) (3)", "Menu: File - Save (12)", Kind.PLAIN),  # begins nothing
        ("Menu: 'File' - 'Save' (12) (3)", "Menu: File - Save (12)", Kind.PLAIN),
        ("Menu: 'File - Save' (12) (3)", "Menu: File - Save (12)", Kind.PLAIN),
        ("Menu: 'Modify' - 'Group' (13) (3)", "Menu: Modify - Group (13)", Kind.STARTER),
        ("Menu: Zoom - Fit (242) (1)", "Menu: Zoom - Fit (242)", Kind.STARTER),  # ids never drop a menu
        ("Undo Event: 'Drag' (75)", "Undo Event: Drag (75)", Kind.UNDO),
        ("Redo Event: Drag (75)", "Redo Event: Drag (75)", Kind.REDO),
        ("Undo and Remove Action: 'Drag' (75)", "Undo and Remove Action: Drag (75)", Kind.REMOVE),
        ('Tool: Wall, "thick" (v2) (-203)', 'Tool: Wall, "thick" (v2) (-203)', Kind.STARTER),
        ("Tool: Mur d'escalier 🧱 (7)", "Tool: Mur d'escalier 🧱 (7)", Kind.STARTER),
        ("Tool: 'Mur d'escalier' (7)", "Tool: Mur d'escalier (7)", Kind.STARTER),
        ("Tool: two\nlines (7)", "Tool: two\nlines (7)", Kind.STARTER),
        ("Tool: No Number", "Tool: No Number", Kind.STARTER),
    ],
)
def test_kept_messages(message, item, kind):
    assert parse(message) == [{"message": message, "item_id": item, "kind": kind, "reason": None}]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Event: (MAX-20) 'Drag' (75)", "prefix Event:"),
        ("DestroyEvent: (MAX-20) Deleting undo event 'Zoom' (242) .", "prefix DestroyEvent:"),
        ("Event name changed from Zoom to Change View.", "prefix Event name changed from"),
        ("Menu: 'Undo Drag' (56) (1)", "prefix Menu: Undo"),
        ("Menu: Redo Drag (57) (1)", "prefix Menu: Redo"),
        ("End Event: 'Zoom' (242)", "id (242)"),
        ("Tool: 'Selection Tool' (-240)", "id (-240)"),
        ("Undo and Remove Action: 'Zoom' (242)", "id (242)"),
        ("something else", OUTSIDE),
    ],
)
def test_noise(message, reason):
    assert parse(message)[0]["reason"] == reason


def test_noise_that_begins_events_is_marked_where_the_stack_asks_for_it():
    messages = ["Tool: 'Selection Tool' (-240)", "Tool: 'Pan' (-241)", "Menu: A - B (-240) (1)", "End Event: A (-240)"]
    kinds = [row["kind"] for row in parse(*messages)]
    assert kinds == [Kind.HIDDEN, Kind.STARTER, Kind.STARTER, Kind.EVENT]
    profile = load_profile("vectorworks")
    for change in ({"starters": False}, {"mode": "none"}, {"mode": "keep"}, {"hidden_starters": []}):
        other = profile.model_copy(update={"undo": profile.undo.model_copy(update=change)})
        assert parse_messages(pl.Series("message", messages), other)["kind"][0] == Kind.STARTER
    kept = profile.model_copy(update={"noise": profile.noise.model_copy(update={"ids": []})})
    assert parse_messages(pl.Series("message", messages), kept)["kind"][0] == Kind.STARTER, "no noise, so no hiding"


def test_similar_numbers_are_not_noise():
    rows = parse("End Event: A (2421)", "End Event: B (1242)", "End Event: 242 (9)")
    assert [row["reason"] for row in rows] == [None] * 3


def test_plain_grammar_leaves_messages_as_they_are():
    rows = parse(" Edit.Paste  x", "View.File", "Edit.Undo", "Edit.Copy", profile="visual_studio")
    assert [row["item_id"] for row in rows] == [" Edit.Paste  x", "View.File", "Edit.Undo", "Edit.Copy"]
    assert [row["reason"] for row in rows] == [None, "message View.File", None, None]
    assert [row["kind"] for row in rows][2:] == [Kind.UNDO, Kind.PLAIN]


FORMATS = load_profile("vectorworks").times


def micro(*args):
    return int(datetime(*args, tzinfo=UTC).timestamp() * 1_000_000)


def test_both_log_formats_of_time_may_be_mixed():
    values = ["2025-02-05 14:05:59.743954", "02/05/2025 14:05:59 1317.743954 +0100", "2025-02-05 14:05:59"]
    times, clock = parse_times(pl.Series("ts", values), FORMATS, "log.csv")
    assert times.to_list() == [
        micro(2025, 2, 5, 14, 5, 59, 743954),
        micro(2025, 2, 5, 13, 5, 59),
        micro(2025, 2, 5, 14, 5, 59),
    ]
    assert clock.to_list() == [None, 1_317_743_954, None]


def test_zone_of_times_without_one():
    form = TimeFormat(format="%Y-%m-%d %H:%M", zone="Europe/Berlin", example="2025-07-01 12:00")
    times, _ = parse_times(pl.Series("ts", ["2025-07-01 12:00", "2025-01-01 12:00"]), [form], "log.csv")
    assert times.to_list() == [micro(2025, 7, 1, 10), micro(2025, 1, 1, 11)]


@pytest.mark.parametrize(("unit", "value"), [("epoch_s", 1_700_000_000.25), ("epoch_ms", 1_700_000_000_250)])
def test_epoch(unit, value):
    times, _ = parse_times(pl.Series("ts", [value]), [TimeFormat(format=unit, example="1")], "log")
    assert times.to_list() == [1_700_000_000_250_000]


def test_native_datetimes():
    times, clock = parse_times(pl.Series("ts", [datetime(2025, 1, 1, 12)]), FORMATS, "log")
    assert times.to_list() == [micro(2025, 1, 1, 12)]
    assert clock is None


@pytest.mark.parametrize("value", ["yesterday", None, "2025-13-01 00:00:00"])
def test_an_unparsable_time_names_place_value_and_form(value):
    with pytest.raises(InputError) as error:
        parse_times(pl.Series("ts", ["2025-02-05 14:05:59", value]), FORMATS, "log.csv", 10)
    text = str(error.value)
    assert "log.csv: row 12:" in text and "'2025-02-05 14:05:59.743954'" in text and "\n" not in text
    assert (repr(value) if value else "no time") in text


@pytest.mark.parametrize("profile", ["vectorworks", "visual_studio", "shell_cyber"])
@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.sampled_from(SAID) | st.text(max_size=4), max_size=5), max_size=8), st.integers(0, 6))
def test_a_parser_that_remembers_says_the_same(profile, frames, most):
    rules = load_profile(profile)
    remembering = MessageParser(rules, most)
    for messages in frames:
        series = pl.Series("message", messages, dtype=pl.String)
        assert remembering(series).equals(parse_messages(series, rules))
        assert len(remembering._rows) <= max(most, len(set(messages)))


def test_what_was_parsed_is_not_parsed_again(monkeypatch):
    asked = []
    plain = parser.parse_messages
    monkeypatch.setattr(parser, "parse_messages", lambda m, p: asked.append(m.to_list()) or plain(m, p))
    remembering = MessageParser(load_profile("vectorworks"), most=3)
    for messages in (["a", "b", "a"], ["b", "a"], ["c", "a"], ["d", "a"]):
        remembering(pl.Series("message", messages))
    assert asked == [[], ["a", "b"], ["c"], ["d", "a"]], "the fourth one had no room, so all was forgotten"


def test_numbers_that_no_clock_shows_are_no_time():
    form = TimeFormat(format="%Y-%m-%d", example="x", pattern=r"^(?P<time>\S+) (?P<clock>\S+)$")
    times, clock = parse_times(pl.Series("t", ["2020-01-01 1.5", "2020-01-02 9e40"]), [form], "log", 0)
    assert times.null_count() == 0
    assert clock.to_list() == [1_500_000, None]
    with pytest.raises(InputError, match="log: row 2: time '1e40' in column 't'"):
        parse_times(pl.Series("t", ["1.5", "1e40"]), [TimeFormat(format="epoch_s", example="1600000000")], "log", 0)

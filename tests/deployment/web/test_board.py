"""Hits and state of sessions, against lists counted by hand."""

import json
import math
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployment.web.board import RECENT, Board, History, Session, iso_time, public_id, short

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def history(names, back=False, session="s", times=None):
    commands = list(zip(names, times or range(len(names)), strict=True))
    return History(session, "log.jsonl", "anna", commands, {"item_id": list(names)}, back)


def answer(*names, scores=None):
    scores = list(scores or range(len(names), 0, -1))
    return SimpleNamespace(items=list(names), scores=scores, probabilities=[0.1] * len(names))


def message(session):
    return session.message(lambda name: f"what {name} is")


def ranks(session):
    return [row["suggested"] for row in message(session)["recent"]]


def test_a_list_counts_once_for_the_first_command_after_it():
    session = Session("s")
    session.take(history("a"))
    assert ranks(session) == [None] and message(session)["stale"] and message(session)["hit_rate"] is None
    assert session.answer(session.version, answer("x", "b", "c"), 0.004)
    session.take(history("ab"))
    assert ranks(session) == [None, 2] and (session.hits, session.asked) == (1, 1)
    session.take(history("abc"))  # the old list has it, but was for the command before
    assert ranks(session) == [None, 2, None] and session.asked == 1
    session.answer(session.version, answer("x", "y"), 0.002)
    session.take(history("abcde"))  # two at once: only the first can have been chosen with the list on the screen
    assert ranks(session) == [None, 2, None, 0, None] and (session.hits, session.asked) == (1, 2)
    found = message(session)
    assert found["hit_rate"] == 0.5 and found["last_taken"] is None and found["events"] == 5
    assert found["recent"][1] == {
        "command": "b",
        "description": "what b is",
        "time": "1970-01-01T00:00:00.000+00:00",
        "suggested": 2,
    }
    assert found["suggestions"][1] == {"command": "y", "score": 1, "probability": 0.1, "description": "what y is"}


def test_an_answer_to_an_older_question_is_not_shown_and_counts_for_nothing():
    session = Session("s")
    session.take(history("a"))
    first = session.version
    session.take(history("ab"))
    assert not session.answer(first, answer("c"), 0.1)
    session.take(history("abc"))
    assert ranks(session) == [None] * 3 and session.asked == 0 and not session.shown
    assert message(session)["latency_ms"]["last"] == 100.0


def test_what_is_taken_back_stays_counted_and_is_not_counted_again():
    session = Session("s")
    session.take(history("a"))
    session.answer(session.version, answer("b"), 0.1)
    session.take(history("ab"))
    session.answer(session.version, answer("q"), 0.1)
    session.take(history("a", back=True))  # undo
    assert ranks(session) == [None] and (session.hits, session.asked) == (1, 1)
    assert message(session)["stale"]
    session.take(history(["a", "q"], times=[0, 7]))  # before the new answer: that list was for what is gone
    assert ranks(session) == [None, None] and session.asked == 1
    session.take(history("ab", back=True))  # redo
    assert ranks(session) == [None, 1] and session.asked == 1


def test_a_repeat_is_no_new_command_and_a_late_row_or_a_workflow_none_either():
    session = Session("s")
    session.take(history("ab"))
    session.answer(session.version, answer("c"), 0.1)
    session.take(history("ab"))  # merge_count grew
    session.take(history("abc"))
    assert ranks(session) == [None, None, 1]
    session.answer(session.version, answer("cd", "e"), 0.1)
    session.take(history(["a", "b", "cd"]))  # c, d became a workflow, which has c's time
    assert ranks(session) == [None] * 3 and session.asked == 1
    session.take(history(["a", "b", "cd", "e"]))  # the list was for d, which has come
    assert session.asked == 1
    session.answer(session.version, answer("f"), 0.1)
    session.take(history(["a", "late", "b", "cd", "e", "f"], times=[0, 1, 1, 2, 3, 4]))
    assert session.asked == 1


def test_commands_of_one_second_are_told_apart():
    session = Session("s")
    session.take(history("a", times=[5]))
    session.answer(session.version, answer("b"), 0.1)
    session.take(history("ab", times=[5, 5]))
    assert ranks(session) == [None, 1]


def test_a_command_that_cleaning_drops_when_the_next_comes_leaves_the_next_to_count():
    session = Session("s")
    session.take(history("ap"))
    session.answer(session.version, answer("y"), 0.1)
    session.take(history(["a", "y"], times=[0, 3]))  # p is redundant before y
    assert ranks(session) == [None, 1]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.sampled_from(["abc", "ba", ""])), max_size=30))
def test_hits_are_those_of_a_plain_count(steps):
    session, names, shown, hits, asked = Session("s"), "", None, 0, 0
    for name, answers, suggested in steps:
        names += name
        if shown:
            asked, hits = asked + 1, hits + (name in shown)
        session.take(history(names))
        shown = suggested if answers else None
        if answers:
            session.answer(session.version, answer(*suggested), 0.01)
    assert (session.hits, session.asked) == (hits, asked)
    judged = [r for r in ranks(session) if r is not None]
    assert len(names) > RECENT or (len(judged), sum(r > 0 for r in judged)) == (asked, hits)


def test_latency_is_over_all_answers():
    session = Session("s")
    session.take(history("a"))
    for milliseconds in range(1, 101):
        session.answer(session.version, answer("x"), milliseconds / 1000)
    assert message(session)["latency_ms"] == {"last": 100.0, "median": 50.0, "p95": 95.0}


def test_a_session_that_loses_all_its_commands_shows_and_asks_nothing():
    session = Session("s")
    session.take(history("a"))
    session.answer(session.version, answer("b"), 0.1)
    session.take(history("", back=True))
    found = message(session)
    assert found["suggestions"] == [] and found["recent"] == [] and not found["stale"] and session.question() is None
    session.take(history("b", times=[9]))
    assert ranks(session) == [None] and session.asked == 0


def test_only_sessions_with_events_appear_and_the_silent_ones_go_first():
    board = Board(most=2, idle=60.0)
    changed, gone = board.take([history("", session="none"), history("a", session="one")], NOW, 0.0)
    assert [s.session_id for s in changed] == ["one"] and not gone and len(board.messages()) == 1
    _, gone = board.take([history("", session="more")], NOW, 5.0)
    assert [s.session_id for s in gone] == ["none"] and not gone[0].told  # kept by the logs until it goes here
    _, gone = board.take([history("a", session="two")], NOW, 10.0)
    assert [s.session_id for s in gone] == ["one"]
    board.take([history("a", session="one")], NOW, 15.0)
    board.take([history("ab", session="one")], NOW, 20.0)
    changed, gone = board.take([history("a", session="three")], NOW, 30.0)
    assert [s.session_id for s in gone] == ["two"] and list(board.sessions) == ["one", "three"]
    _, gone = board.take([], NOW, 81.0)
    assert [s.session_id for s in gone] == ["one"]
    three = [history("a", session=name, times=[time]) for name, time in zip("xyz", (3, 9, 5), strict=True)]
    changed, gone = board.take(three, NOW, 82.0)
    assert [s.session_id for s in changed] == ["z", "y"] and {s.session_id for s in gone} == {"three", "x"}


def test_messages_are_bounded_and_json_whatever_a_log_says():
    nasty = "\x00\x1b[31m\u202egnp.exe\ud800</script>" + "x" * 10_000
    session = Session(nasty)
    session.take(history([nasty], times=[2**62]))
    odd = SimpleNamespace(items=[nasty, "b", "c"], scores=[1.0, math.inf, 0.5], probabilities=[math.nan, 0.1, 0.2])
    session.answer(session.version, odd, 0.1)
    found = session.message(lambda _: nasty)
    text = json.dumps(found, allow_nan=False)
    assert text.isascii() and len(text) < 8000
    assert found["recent"][0]["time"] is None and found["recent"][0]["command"].startswith(nasty[:200])
    assert [(s["command"][:1], s["probability"]) for s in found["suggestions"]] == [("\x00", None), ("c", 0.2)]
    assert public_id(nasty) != public_id(nasty + "y") and len(public_id(nasty)) < 200
    assert short("a" * 500) == "a" * 500 and len(short("a" * 501)) == 500


@pytest.mark.parametrize(
    ("moment", "text"),
    [(0, "1970-01-01T00:00:00.000+00:00"), (-1_500_000, "1969-12-31T23:59:58.500+00:00"), (2**63 - 1, None)],
)
def test_times_are_utc(moment, text):
    assert iso_time(moment) == text


def test_only_the_newest_commands_are_sent_to_pages():
    session = Session("s")
    session.take(history([str(n) for n in range(50)]))
    found = message(session)
    assert [row["command"] for row in found["recent"]] == [str(n) for n in range(30, 50)] and found["events"] == 50

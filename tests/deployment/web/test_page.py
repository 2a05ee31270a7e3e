"""The page in real Chromium, in front of a server that plays exact messages."""

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.deployment.web.stage import (
    NARROW,
    WIDE,
    Stage,
    command,
    draw_until,
    rows,
    scrolls_sideways,
    session,
    suggestion,
    tabs,
    wait_for,
)

HOSTILE = "<img src=x onerror=alert(1)></script>\u202egnp.exe\u0000"
SHOWN = "<img src=x onerror=alert(1)></script>RLOgnp.exeNUL"


def box(found: Locator) -> Any:
    area = found.bounding_box()
    assert area
    return area


# What is shown.


def test_everything_of_a_session_is_shown(stage: Stage, open_page: Any) -> None:
    recent = [command("Wall"), command("Door", 0, second=4), command("Tool: Roof (-7)", 2, "A roof over walls", 65)]
    last = suggestion("Slab", None, "", -1.25)
    offered = [suggestion("Window", 0.432, "A window"), suggestion("Door", 0.0512), suggestion("Beam", 0.0004), last]
    found = session(user="anna", recent=recent, suggestions=offered, events=1234, hits=31, asked=50, hit_rate=0.62)
    stage.reset(found)
    page = open_page(timezone_id="Asia/Tokyo")
    expect(page.get_by_role("heading", name="anna")).to_be_visible()
    assert rows(page, "#suggestions .command") == ["Window", "Door", "Beam", "Slab"]
    assert rows(page, "#suggestions .value") == ["43 %", "5.1 %", "< 0.1 %", "-1.25"]
    assert rows(page, "#suggestions .description") == ["A window", "", "", ""]
    page.wait_for_function("document.getAnimations().length === 0")
    widths = page.evaluate(
        "[...document.querySelectorAll('.bar')]"
        ".map(b => parseFloat(getComputedStyle(b, '::after').width) / b.clientWidth)"
    )
    assert widths[:2] == pytest.approx([0.432, 0.0512], abs=0.005)
    assert rows(page, "#recent .command") == ["Tool: Roof (-7)", "Door", "Wall"]
    assert rows(page, "#recent .chip") == ["✓ 2", "○", ""]
    assert rows(page, "#recent time") == ["18:01:05", "18:00:04", "18:00:00"]
    assert rows(page, "#recent .description") == ["A roof over walls", "", ""]
    expect(page.get_by_label("was suggestion 2")).to_be_visible()
    expect(page.locator("#verdict-text")).to_have_text("Tool: Roof (-7) was suggestion 2")
    figures = page.locator(".figures").inner_text().split("\n")
    assert figures[:9] == [
        *("Hit rate", "62 %", "31 of 50 lists"),
        *("Answer time", "4.2 ms", "median 5.0 ms, p95 12 ms"),
        *("Commands", "1,234", "the last at 18:01:05"),
    ]
    expect(page.locator("#lately")).to_have_text("1 of 3 had been suggested")
    expect(page.locator("#endpoint-state")).to_have_text("ready · recommend at 127.0.0.1:8000")


def test_new_commands_change_the_page(stage: Stage, open_page: Any) -> None:
    stage.reset(session("a", 10, user="anna"), session("b", 5, user="bert"))
    page = open_page()
    assert tabs(page) == ["anna", "bert"]
    recent = [command(f"Step {n}", n % 3 or None) for n in range(20)]
    stage.change(session("b", 60, user="bert", recent=recent, events=40))
    expect(page.get_by_role("tab").first).to_contain_text("Step 19")
    page.get_by_role("tab", name="bert").click()
    assert rows(page, "#recent .command") == [f"Step {n}" for n in reversed(range(20))]
    item = page.locator("#recent li").nth(3).element_handle()
    recent = [*recent[2:], command("Undo", 0), command("Again", 1)]
    offered = [suggestion("Only", 0.9)]
    stage.change(session("b", 61, user="bert", recent=recent, events=42, suggestions=offered))
    expect(page.locator("#verdict-text")).to_have_text("Again was suggestion 1")
    assert rows(page, "#suggestions .command") == ["Only"]
    names = rows(page, "#recent .command")
    assert names[:3] == ["Again", "Undo", "Step 19"] and names[-1] == "Step 2" and len(names) == 20
    # Rows that stay are the same nodes, which keep what a person selected in them.
    assert item and page.evaluate("e => [...e.parentNode.children].indexOf(e)", item) == 5
    stage.say({"type": "removed", "id": "b"})
    expect(page.get_by_role("heading", name="anna")).to_be_visible()
    assert tabs(page) == ["anna"]


def test_retracted_commands_leave(stage: Stage, open_page: Any) -> None:
    stage.reset(session(recent=[command("A"), command("B"), command("C")]))
    page = open_page()
    assert rows(page, "#recent .command") == ["C", "B", "A"]
    stage.change(session(recent=[command("A"), command("X")]))
    expect(page.locator("#recent li")).to_have_count(2)
    assert rows(page, "#recent .command") == ["X", "A"]


def test_states_without_suggestions(stage: Stage, open_page: Any) -> None:
    page = open_page()
    expect(page.get_by_text("Waiting for commands")).to_be_visible()
    empty = {"hits": 0, "asked": 0, "hit_rate": None, "latency_ms": dict.fromkeys(("last", "median", "p95"))}
    first = session(recent=[command("Wall")], suggestions=[], **empty)
    stage.change(first)
    expect(page.get_by_text("No suggestions for this session yet")).to_be_visible()
    expect(page.locator("#verdict-text")).to_have_text("Wall had no list before it")
    assert [page.locator(f"#{name}").inner_text() for name in ("hit-rate", "latency-last", "latency-rest")] == [
        "–",
        "–",
        "",
    ]
    stage.change(first | {"stale": True})
    expect(page.get_by_text("The endpoint has not answered yet")).to_be_visible()
    stage.change(session(stale=True))
    expect(page.get_by_text("From before the last command")).to_be_visible()
    stage.change(session())
    expect(page.get_by_text("From before the last command")).to_be_hidden()
    stage.change(session(recent=[], suggestions=[], events=0, last_taken=None))
    expect(page.locator("#verdict")).to_be_hidden()
    expect(page.get_by_role("tab")).to_contain_text("no command yet")


def test_suggestions_are_old_when_the_endpoint_takes_long(stage: Stage, open_page: Any) -> None:
    """An answer that comes soon must not make the page flicker."""
    stage.reset(session())
    page = open_page(clock=True)
    page.clock.pause_at("2126-01-01")
    stale, verdict = page.get_by_text("From before the last command"), page.locator("#verdict-text")
    stage.change(session(recent=[command("Next", 1)], stale=True))
    draw_until(page, lambda: verdict.inner_text() == "Next was suggestion 1")
    assert stale.is_hidden()
    page.clock.run_for(500)
    assert stale.is_visible()
    stage.change(session(stale=False), session(stale=True, suggestions=[]))
    draw_until(page, page.get_by_text("Waiting for the endpoint").is_visible)


def test_the_endpoints_trouble_is_told_and_ends(stage: Stage, open_page: Any) -> None:
    stage.reset(session(), state="unreachable", message="connection refused")
    page = open_page()
    banner = page.locator("#endpoint-banner")
    expect(banner).to_contain_text("does not answer (connection refused)")
    refusing = {"name": "http://127.0.0.1:8000", "state": "refusing", "message": "no column 'x'\u202e", "model": "m"}
    stage.say({"type": "endpoint", "endpoint": refusing})
    expect(banner).to_contain_text("refuses what it is asked (no column 'x'[RLO])")
    expect(page.locator("#endpoint-state")).to_have_text("refusing · m at 127.0.0.1:8000")
    stage.say({"type": "endpoint", "endpoint": refusing | {"state": "ready", "message": ""}})
    expect(banner).to_be_hidden()


# Hostile text, much text, many of everything.


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_hostile_text_stays_text_and_in_its_place(stage: Stage, open_page: Any, viewport: Any) -> None:
    recent = [command(HOSTILE, 0, HOSTILE), command("x" * 10_000, 1, "y" * 10_000), command("\u202e\u2067abc", 1)]
    offered = [suggestion("أداة: جدار (203)", 0.5, "وصف"), suggestion(HOSTILE, 0.3, HOSTILE), suggestion("w" * 10_000)]
    words = {"user": HOSTILE, "file": "\u2067" + HOSTILE, "recent": recent, "suggestions": offered}
    stage.reset(session(HOSTILE, 10, **words), session("other"), state="refusing", message=HOSTILE, name=HOSTILE)
    page = open_page(viewport)
    assert page.locator("#panel-name").inner_text() == SHOWN
    assert page.locator("#panel-file").inner_text() == "RLI" + SHOWN
    assert rows(page, "#suggestions .command")[1] == rows(page, "#suggestions .description")[1] == SHOWN
    assert rows(page, "#recent .command")[0] == "RLORLIabc" and rows(page, "#recent .command")[2] == SHOWN
    assert rows(page, "#recent .command")[1] == "x" * 400 + "… 9,600 more characters"
    assert page.locator("main img, main script").count() == 0
    content = page.content()
    assert not re.search("[\u202a-\u202e\u2066-\u2069\0]", content)
    for item in page.locator("#suggestions li").all():  # number, name, value: from left to right
        name, value = box(item.locator(".command")), box(item.locator(".value"))
        assert box(item)["x"] < name["x"] and name["x"] + name["width"] <= value["x"] and name["height"] < 60
    for item in page.locator("#recent li").all():
        chip, what, time = (box(item.locator(part)) for part in (".chip", ".what", "time"))
        assert chip["x"] + chip["width"] <= what["x"] and what["x"] + what["width"] <= time["x"]
    assert box(page.locator("#suggestions .command").last)["height"] > 36, "a long name takes two lines"
    assert not scrolls_sideways(page)


def test_joiners_stay(stage: Stage, open_page: Any) -> None:
    """They are part of Persian words and of emoji; what stands between halves of a pair is not cut."""
    stage.reset(session(recent=[command("می\u200cخواهم 👩\u200d🔧"), command("a" * 399 + "😀" * 9)]))
    page = open_page()
    assert rows(page, "#recent .command") == ["a" * 399 + "… 18 more characters", "می\u200cخواهم 👩\u200d🔧"]


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_fifty_sessions_and_a_burst(stage: Stage, open_page: Any, viewport: Any) -> None:
    stage.reset(*(session(f"s{n}", n) for n in range(50)))
    page = open_page(viewport)
    assert tabs(page) == [f"s{n}" for n in reversed(range(50))]
    expect(page.locator("#session-count")).to_have_text("50")
    stage.change(*(session(f"s{n % 50}", 100 + n, recent=[command(f"C{n}")]) for n in range(600)))
    expect(page.get_by_role("tab").first).to_contain_text("C599")
    assert tabs(page) == [f"s{n}" for n in reversed(range(50))]
    assert rows(page, "[role=tab] .row-last") == [f"C{n}" for n in reversed(range(550, 600))]
    assert not scrolls_sideways(page)


def test_two_pages_choose_for_themselves(stage: Stage, open_page: Any) -> None:
    stage.reset(session("a", 2), session("b", 1))
    one, other = open_page(), open_page(NARROW)
    wait_for(lambda: len(stage.pages) == 2)
    one.get_by_role("tab", name="b").click()
    stage.change(session("a", 9, recent=[command("Ramp", 3)]), session("b", 8, recent=[command("Stair", 1)]))
    expect(one.locator("#verdict-text")).to_have_text("Stair was suggestion 1")
    expect(other.locator("#verdict-text")).to_have_text("Ramp was suggestion 3")


def test_what_is_not_understood_is_left_alone(stage: Stage, open_page: Any) -> None:
    stage.reset(session())
    page = open_page()
    stage.say({"type": "of a later version", "session": 1})
    stage.change(session(recent=[command("After")]))
    expect(page.locator("#recent .command")).to_have_text(["After"])
    stage.say({"type": "state", "version": 2})
    expect(page.get_by_text("The app is newer than this page")).to_be_visible()
    stage.reset(session(recent=[command("Loaded")]))
    page.get_by_role("button", name="Load again").click()
    expect(page.locator("#recent .command")).to_have_text(["Loaded"])

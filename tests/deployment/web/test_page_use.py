"""The page in real Chromium: choosing sessions, connections that are lost, colours and motion."""

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.deployment.web.stage import (
    NARROW,
    WIDE,
    Stage,
    command,
    draw_until,
    rows,
    session,
    suggestion,
    tabs,
    visiting,
)

REFUSED = ["ERR_CONNECTION_REFUSED", "Connection closed before receiving a handshake response"]


def focused(page: Page) -> str:
    """The session or the id of what has the focus."""
    return page.evaluate("document.activeElement.querySelector('.row-name')?.textContent ?? document.activeElement.id")


def press(page: Page, *keys: str) -> str:
    """Press keys; what then has the focus must show it."""
    for key in keys:
        page.keyboard.press(key)
    outline = page.evaluate("getComputedStyle(document.activeElement).outline")
    assert "solid" in outline and "2px" in outline, outline
    return focused(page)


# Choosing a session.


def test_keyboard_alone(stage: Stage, open_page: Any) -> None:
    stage.reset(*(session(name, 10 - n) for n, name in enumerate("abcd")))
    page = open_page()
    heading = page.locator("#panel-name")
    assert [press(page, "Tab", "Tab"), press(page, "Tab"), press(page, "ArrowDown")] == ["follow", "a", "b"]
    expect(heading).to_have_text("b")
    expect(page.get_by_role("button", name="Follow newest")).to_have_attribute("aria-pressed", "false")
    assert [press(page, key) for key in ("End", "ArrowDown", "ArrowUp", "Home")] == ["d", "d", "c", "a"]
    # The list stands still while the focus is in it; new sessions come last.
    stage.change(session("d", 50), session("e", 60))
    expect(page.get_by_role("tab")).to_have_count(5)
    assert tabs(page) == ["a", "b", "c", "d", "e"]
    assert press(page, "ArrowDown", "ArrowDown") == "c"
    assert press(page, "p") == "c" and tabs(page) == ["c", "e", "d", "a", "b"]
    expect(page.get_by_role("tab", name="c pinned")).to_have_attribute("aria-selected", "true")
    assert press(page, "Tab") == "panel"
    stage.change(session("b", 70))
    expect(page.get_by_role("tab").nth(1)).to_contain_text("b")
    assert press(page, "Tab") == "pin"
    press(page, "Space")
    expect(page.get_by_role("tab").first).to_contain_text("b")
    assert press(page, "Shift+Tab", "Shift+Tab") == "c"
    assert press(page, "Escape") == "b"
    expect(heading).to_have_text("b")
    stage.say({"type": "removed", "id": "b"})
    expect(heading).to_have_text("e")
    assert focused(page) == "e"


def test_the_list_stands_still_below_a_mouse(stage: Stage, open_page: Any) -> None:
    stage.reset(session("a", 2), session("b", 1))
    page = open_page()
    page.get_by_role("tab", name="b").hover()
    stage.change(session("b", 9, recent=[command("Moved")]))
    expect(page.get_by_role("tab").nth(1)).to_contain_text("Moved")
    page.locator("h1").hover()
    expect(page.get_by_role("tab").first).to_contain_text("Moved")


def test_rows_do_not_jump_while_many_people_work(stage: Stage, open_page: Any) -> None:
    stage.reset(session("a", 2), session("b", 1))
    page = open_page(clock=True)
    page.clock.pause_at("2126-01-01")
    first, second = (page.get_by_role("tab").nth(n) for n in range(2))
    stage.change(session("b", 3, recent=[command("One")]))
    draw_until(page, lambda: "One" in first.inner_text())
    stage.change(session("a", 4, recent=[command("Two")]))
    draw_until(page, lambda: "Two" in second.inner_text())
    assert tabs(page) == ["b", "a"]
    page.clock.run_for(3000)
    assert tabs(page) == ["a", "b"]


def test_a_session_that_is_followed_can_be_seen_in_the_list(stage: Stage, open_page: Any) -> None:
    stage.reset(*(session(f"s{n}", 40 - n) for n in range(40)))
    page = open_page(NARROW)
    last = page.get_by_role("tab", name="s39")
    last.click()
    page.get_by_role("button", name="Pin").click()
    assert is_inside(page, page.get_by_role("tab", name="s39 pinned"))
    page.locator("#panel").scroll_into_view_if_needed()
    page.get_by_role("button", name="Follow newest").click()
    assert is_inside(page, page.get_by_role("tab", name="s0"))


def test_following_the_newest_waits_for_a_pause(stage: Stage, open_page: Any) -> None:
    stage.reset(session("a", 2), session("b", 1))
    page = open_page(clock=True)
    heading = page.locator("#panel-name")
    stage.change(session("a", 3))
    stage.change(session("b", 4, recent=[command("Later")]))
    expect(page.get_by_role("tab").first).to_contain_text("Later")
    expect(heading).to_have_text("a")
    page.clock.fast_forward(6000)
    expect(heading).to_have_text("b")
    page.get_by_role("button", name="Follow newest").click()
    stage.change(session("a", 5, recent=[command("Last")]))
    expect(page.get_by_role("tab").first).to_contain_text("Last")
    page.clock.fast_forward(60000)
    expect(page.locator("[role=tab] .row-age").first).to_have_text("1 h")
    expect(heading).to_have_text("b")
    page.get_by_role("button", name="Follow newest").click()
    expect(heading).to_have_text("a")


def test_what_a_screen_reader_is_told(stage: Stage, open_page: Any) -> None:
    stage.reset(session("a"))
    page = open_page(clock=True)
    status = page.get_by_role("status")
    expect(status).to_have_attribute("aria-live", "polite")
    offered = [suggestion(name) for name in ("Roof", "Slab\u202e", "Door", "Beam")]
    stage.change(session("a", recent=[command("Wall", 2)], suggestions=offered))
    expect(page.locator("#verdict-text")).to_have_text("Wall was suggestion 2")
    page.clock.fast_forward(5000)
    expect(status).to_have_text("Wall was suggestion 2. Next: Roof, Slab[RLO], Door.")
    expect(page.get_by_role("tabpanel")).to_have_accessible_name("a")


# A connection that is lost.


def test_the_page_connects_again_by_itself(stage: Stage, open_page: Any, allowed: list[str]) -> None:
    allowed += REFUSED
    stage.reset(session("a", 2), session("b", 1))
    page = open_page()
    page.get_by_role("tab", name="b").click()
    page.locator("h1").click()
    color = "getComputedStyle(document.querySelector('#suggestions .name')).color"
    colored = page.evaluate(color)
    stage.stop()
    try:
        banner = page.locator("#page-banner")
        expect(banner).to_contain_text("The app does not answer. What you see is from")
        expect(banner).to_contain_text(re.compile(r"\(try [2-9]\)"))
        assert page.evaluate(color) != colored, "old suggestions look as new ones do"
        expect(page.locator("#page-state")).to_have_text("reconnecting")
        expect(page.locator("#endpoint-state")).to_have_text("unknown")
        assert page.title().startswith("(reconnecting)")
        assert len(rows(page, "#suggestions li")) == 5
    finally:
        stage.reset(session("c", 3), session("b", 1, recent=[command("Meanwhile", 1)]))
        stage.start()
    expect(page.locator("#page-state")).to_have_text("live")
    expect(banner).to_be_hidden()
    assert page.title() == "recsys live"
    expect(page.locator("#verdict-text")).to_have_text("Meanwhile was suggestion 1")
    assert tabs(page) == ["c", "b"]


def test_pauses_grow_and_a_person_can_end_them(stage: Stage, open_page: Any, allowed: list[str]) -> None:
    allowed += REFUSED
    page = open_page(clock=True)
    page.clock.pause_at("2126-01-01")
    stage.stop()
    banner, seconds = page.locator("#page-banner-text"), []
    try:
        for attempt in range(1, 8):
            expect(banner).to_contain_text(f"(try {attempt})")
            page.wait_for_function("!document.querySelector('#try-now').hidden")
            seconds.append(int(banner.inner_text().split("next try in ")[1].split(" s")[0]))
            page.get_by_role("button", name="Try now").click()
    finally:
        stage.start()
    assert seconds[:5] == sorted(seconds[:5]) and seconds[0] <= 1 and 8 <= seconds[-1] <= 12, seconds
    expect(page.get_by_text("The app does not answer", exact=True)).to_be_visible()
    page.clock.fast_forward(13000)
    expect(page.locator("#page-state")).to_have_text("live")


def test_an_app_that_accepts_and_says_nothing_is_left(stage: Stage, open_page: Any, browser: Any) -> None:
    stage.silent = True
    with visiting(browser, stage.url, clock=True) as visitor:
        expect(visitor.page.get_by_role("heading", name="Connecting")).to_be_visible()
        visitor.page.clock.fast_forward(11000)
        expect(visitor.page.locator("#page-banner")).to_contain_text("Nothing was received yet")


# Colours and motion.

CONTRAST = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => {
    const v = c[i] / 255;
    return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }, 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = channels(getComputedStyle(e).backgroundColor);
      if (c[3] === undefined || c[3] > 0) return c;
    }
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest('noscript')) continue;
    const [a, b] = [channels(getComputedStyle(e).color), ground(e)].map(luminance).sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


def test_every_text_can_be_read_in_light_and_dark(stage: Stage, open_page: Any) -> None:
    """WCAG 2.2, contrast of 4.5 to 1, in every state of the page."""
    recent = [command("A\u202e"), command("B", 0, "About B"), command("Tool: C (1)", 1)]
    stage.reset(session("a", 9, recent=recent), session("b", stale=True), state="refusing", message="not that")
    pages = [open_page(color_scheme=scheme) for scheme in ("light", "dark")]
    grounds = [page.evaluate("getComputedStyle(document.documentElement).backgroundColor") for page in pages]
    light, dark = (sum(map(int, ground[4:-1].split(","))) for ground in grounds)
    assert light > 700 and dark < 100
    for page in pages:
        page.keyboard.press("Tab")
        worst = page.evaluate(CONTRAST)
        assert len(worst) > 40 and worst[0][0] >= 4.5, worst[:5]
        page.get_by_role("tab", name="b").click()
        page.get_by_role("button", name="Pin").click()
        assert page.evaluate(CONTRAST)[0][0] >= 4.5, page.evaluate(CONTRAST)[:5]


@pytest.mark.parametrize("wish", ["reduce", "no-preference"])
def test_motion(stage: Stage, open_page: Any, wish: str) -> None:
    stage.reset(session())
    page = open_page(reduced_motion=wish)
    script = "addEventListener('animationstart', () => window.moved = true, true);"
    page.evaluate(script + "addEventListener('transitionrun', () => window.moved = true, true)")
    offered = [suggestion(name, 0.1) for name in "vwxyz"]
    stage.change(session(recent=[command("Wall"), command("Door"), command("New", 1)], suggestions=offered))
    expect(page.locator("#verdict-text")).to_have_text("New was suggestion 1")
    page.evaluate("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
    assert page.evaluate("window.moved === true") == (wish == "no-preference")


@pytest.mark.parametrize("viewport", [WIDE, {"width": 860, "height": 500}, NARROW], ids=["wide", "middle", "narrow"])
def test_everything_can_be_reached_at_every_width(stage: Stage, open_page: Any, viewport: Any) -> None:
    recent = [command(f"A command with a long name {n}", 1, "and what it does") for n in range(20)]
    stage.reset(*(session(f"s{n}", 20 - n, recent=recent) for n in range(20)))
    page = open_page(viewport)
    for found in (page.get_by_role("tab").last, page.locator("#recent li").last, page.locator("#pin")):
        found.scroll_into_view_if_needed()
        assert is_inside(page, found)
    page.get_by_role("tab").last.click()
    expect(page.locator("#panel-name")).to_have_text("s19")


def is_inside(page: Page, found: Locator) -> bool:
    area, size = found.bounding_box(), page.viewport_size
    assert area and size
    right, bottom = area["x"] + area["width"], area["y"] + area["height"]
    return area["x"] >= 0 and area["y"] >= 0 and right <= size["width"] and bottom <= size["height"]

"""Chromium, and the page in front of a server that plays exact messages."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.deployment.web.stage import WIDE, Stage, Visitor, chromium, visiting


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def _stage() -> Iterator[Stage]:
    stage = Stage()
    stage.start()
    yield stage
    stage.stop()


@pytest.fixture
def stage(_stage: Stage) -> Stage:
    """The server, which says of nothing but an endpoint that is ready."""
    _stage.reset()
    return _stage


@pytest.fixture
def allowed() -> list[str]:
    """What the browser may complain of in a test that adds to it."""
    return []


@pytest.fixture(scope="module")
def _used(browser: Browser, _stage: Stage) -> Iterator[Visitor]:
    """A page that tests use one after another: a new one takes half a second."""
    with visiting(browser, _stage.url) as visitor:
        yield visitor


@pytest.fixture
def open_page(browser: Browser, _used: Visitor, stage: Stage, allowed: list[str]) -> Iterator[Callable[..., Page]]:
    """Opens pages on the stage that show what they were told first; at the end their consoles must be silent."""
    visitors: list[Visitor] = []
    with contextlib.ExitStack() as stack:

        def opened(viewport: Any = WIDE, **settings: Any) -> Page:
            if visitors or settings:
                visitor = stack.enter_context(visiting(browser, stage.url, viewport=viewport, **settings))
            else:
                visitor = _used
                visitor.page.set_viewport_size(viewport)
                visitor.page.mouse.move(0, 0)
                visitor.page.goto(stage.url)
                visitor.complaints.clear()
            visitors.append(visitor)
            expect(visitor.page.locator("#page-state")).not_to_have_text("connecting")
            visitor.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            return visitor.page

        yield opened
    complaints = [complaint for visitor in visitors for complaint in visitor.complaints]
    assert [complaint for complaint in complaints if not any(part in complaint for part in allowed)] == []

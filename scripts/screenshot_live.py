"""Writes docs/live.png, the README's picture of the live app, from a demo that runs on its generated log.

bash scripts/demo_live.sh
python -m scripts.screenshot_live
"""

import argparse
import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from recsys.errors import InputError, RunError
from recsys.runtime import command_line

ROOT = Path(__file__).resolve().parent.parent
MADE_BY_US = "SIM-"
"""How the users of generated logs begin; nobody else's log goes into a picture."""
MOST_BYTES, COLORS = 150_000, 128
SESSIONS, COMMANDS, PATIENCE = 5, 25, 600.0
"""What the picture shall hold at least, and the seconds that it may take to come."""
SIZE = {"width": 1200, "height": 720}
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Wait until there is something to see, and take the picture."""
    given = _parser().parse_args(arguments)
    session = wait_for_session(given.url)
    picture = shrink(take(given.url, session, given.dark))
    if len(picture) > MOST_BYTES:
        raise RunError(f"{given.out}: the picture has {len(picture):,} bytes; at most {MOST_BYTES:,} are wanted")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(picture)
    print(f"{given.out}: {len(picture):,} bytes")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.screenshot_live",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default="http://127.0.0.1:8800", help="of the app (default: http://127.0.0.1:8800)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "live.png", help="file to write")
    parser.add_argument("--dark", action="store_true", help="as it looks in the dark")
    return parser


def state_of(url: str) -> dict[str, Any]:
    """Everything that the app shows.

    Raises:
        InputError: no app is there, or one that shows a log that was not generated.
    """
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/state", timeout=10) as answer:
            state: dict[str, Any] = json.load(answer)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise InputError(f"{url}: no live app answers ({error}); start one: bash scripts/demo_live.sh") from error
    if not all(session["user"].startswith(MADE_BY_US) for session in state["sessions"]):
        raise InputError(f"{url}: shows a log that was not generated; the picture must hold no person's data")
    return state


def wait_for_session(url: str) -> str:
    """The id of a session worth showing, once there are enough of them."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        sessions = state_of(url)["sessions"]
        long = [one for one in sessions if one["events"] >= COMMANDS and one["last_taken"] and not one["stale"]]
        if len(sessions) >= SESSIONS and long:
            return str(max(long, key=lambda one: one["changed"])["id"])
        time.sleep(0.5)
    raise RunError(f"{url}: no {SESSIONS} sessions, one of {COMMANDS} commands, in {PATIENCE:g} s; raise --speed")


def take(url: str, session: str, dark: bool) -> bytes:
    """A PNG of the page with one session on it."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise InputError("no chromium on the PATH; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        scheme: Any = "dark" if dark else "light"
        page = browser.new_page(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce", timezone_id="UTC")  # type: ignore[arg-type]
        page.goto(url)
        page.locator(f"[role=tab][title^={json.dumps(session)}]").click()
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        page.locator("#suggestions li").nth(4).wait_for()
        page.locator("#verdict[data-kind=taken]").wait_for(timeout=1000 * PATIENCE)
        picture = page.screenshot()
        browser.close()
    return picture


def shrink(picture: bytes) -> bytes:
    """The picture with few colours, which text and flat areas do not show."""
    from PIL import Image

    out = BytesIO()
    few = Image.open(BytesIO(picture)).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    few.save(out, "PNG", optimize=True)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())

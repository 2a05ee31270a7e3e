"""Watch logs as they are written, with what the model would do next.

    recsys serve --bundle out/bundle
    python -m deployment.web --logs ~/vectorworks/logs --bundle out/bundle --endpoint http://127.0.0.1:8000

Then open http://127.0.0.1:8800. Logs are cleaned as those were that the run was trained with. --replay plays a recorded
log instead of following live ones:

    python -m deployment.web --replay session.jsonl.xz --speed 20 --bundle out/bundle
"""

import argparse
import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.errors import ConfigError, InputError
from recsys.runtime import command_line, note

if TYPE_CHECKING:
    from recsys.cleaning.profile import Profile
    from recsys.client import Client

PORT = 8800
_NEEDED = ("starlette", "uvicorn", "websockets")


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, then serve until Ctrl-C or SIGTERM."""
    given = _parser().parse_args(arguments)
    _check(given)
    from deployment.web.app import App
    from deployment.web.board import Board
    from deployment.web.feed import Cleaning, Feed, read_descriptions
    from deployment.web.listening import serve

    if given.bundle is not None:
        _require_bundle(given.bundle)
    cleaning = Cleaning.load(given.run or given.bundle)
    describe = read_descriptions(given.bundle or given.run)
    _connect(given).close()  # an address that is none is an error now
    with _paths(given, cleaning.profile) as paths:
        feed = Feed(paths, cleaning, tell=note)
        board = Board(given.sessions, 60 * given.idle_minutes, describe)
        app = App(feed, board, lambda: _connect(given), name=given.endpoint, model=given.model, pages=given.pages)
        serve(app, given.host, given.port, given.allow_host, given.pages)


def _connect(given: argparse.Namespace) -> "Client":
    from recsys.client import Client

    token = given.token_file.read_text(encoding="utf-8").strip() if given.token_file else None
    return Client(given.endpoint, model=given.model, deadline=given.deadline, retries=1, token=token, ca=given.ca)


def _require_bundle(folder: Path) -> None:
    """Refuse a bundle that is not what was exported."""
    from recsys.serving import integrity

    try:
        integrity.check(folder)
    except integrity.BundleError as error:
        raise InputError(str(error)) from None


@contextlib.contextmanager
def _paths(given: argparse.Namespace, profile: "Profile") -> Iterator[list[Path]]:
    """What to follow: the logs, or the files that recorded logs are played into."""
    if given.replay is None:
        yield given.logs
        return
    from deployment.web.replay import Replay

    with tempfile.TemporaryDirectory(prefix="recsys.replay.") as folder, contextlib.ExitStack() as playing:
        replays = []
        for number, log in enumerate(given.replay):
            place = Path(folder, str(number))
            place.mkdir()
            replays.append(Replay(log, place, profile, given.speed, given.longest_gap, tell=note))
        yield [playing.enter_context(replay).file for replay in replays]


def _check(given: argparse.Namespace) -> None:
    """Refuse what argparse cannot see."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the app needs {', '.join(missing)}: pip install 'recsys[serve]'")
    if (given.logs is None) == (given.replay is None):
        raise ConfigError("give either --logs FILE_OR_FOLDER to follow, or --replay LOG to play")
    if given.run is None and given.bundle is None:
        raise ConfigError("give --bundle BUNDLE, which the endpoint serves: its cleaning/ says how logs are read")
    for name in ("speed", "longest_gap", "deadline", "idle_minutes", "sessions", "pages"):
        value = getattr(given, name)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"--{name.replace('_', '-')} {value}: expected a number above 0")
    if not 0 <= given.port < 1 << 16:
        raise ConfigError(f"--port {given.port}: expected 0 (any that is free) to 65535")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deployment.web", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--logs", type=Path, nargs="+", metavar="PATH", help="files, and folders in which files are or will appear")
    add("--replay", type=Path, nargs="+", metavar="LOG", help="play recorded logs (may be packed), side by side")
    add("--speed", type=float, default=1.0, help="of --replay: 20 is twenty times as fast (default: 1)")
    add("--longest-gap", type=float, default=5.0, help="of --replay: seconds that a pause lasts at most (default: 5)")
    add("--run", type=Path, help="the run that it was made of, in place of it")
    add("--bundle", type=Path, help="bundle that the endpoint serves: how logs are cleaned, what commands are")
    address = "http://127.0.0.1:8000"
    add("--endpoint", default=address, metavar="URL", help=f"http, https, grpc or grpcs (default: {address})")
    add("--model", default="recommend", help="its name there (default: recommend; Triton: ensemble or fused)")
    add("--deadline", type=float, default=2.0, help="seconds that an answer may take (default: 2)")
    add("--token-file", type=Path, help="holds the token that a proxy before the endpoint asks for")
    add("--ca", type=Path, help="certificates that the endpoint's is checked with (default: the system's)")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=int, default=PORT, help=f"0: any that is free (default: {PORT})")
    add("--allow-host", action="append", default=[], metavar="NAME", help="a further name under which pages may ask")
    add("--sessions", type=int, default=100, help="sessions that are kept, the newest (default: 100)")
    add("--idle-minutes", type=float, default=60.0, help="after which a silent session goes (default: 60)")
    add("--pages", type=int, default=32, help="browsers that may listen at the same time (default: 32)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

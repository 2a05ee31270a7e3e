"""Run NVIDIA Triton on a model repository, and keep it answering.

    python -m deployment.export_triton --bundle out/bundle --out out/model_repository
    python -m deployment.triton --repository out/model_repository

The first start fetches the server from the package index. The server listens on 127.0.0.1: HTTP on 8000, gRPC on 8001,
metrics on 8002. It counts as ready when `ensemble` and `fused` give the bundle's golden answers; they are asked again
every one and a half seconds, and a server that gives none, or a wrong one, or of which a model's process is gone, is
started anew. Ctrl-C or SIGTERM ends it.
"""

import argparse
import secrets
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deployment.triton_environment import prepare
from deployment.triton_server import Canary, Place, Server, Trouble, check_repository
from recsys.errors import ConfigError, RunError
from recsys.runtime import command_line

READY_SECONDS = 180.0
"""From the start to the first right answer; a large model takes a while to load."""
LOOK, ASK, PATIENCE, MISSES = 0.5, 1.5, 3.0, 2
"""Seconds between looks at the processes, between canaries, and for a canary's answer; canaries in a row without an
answer until the server counts as hanging: within ten seconds. An answer that is an error, or wrong, is enough at once.
"""
ATTEMPTS = 3
"""Starts in a row that may fail before it is given up."""


class Supervisor:
    """Starts a server, asks it, starts it anew when it does not answer as it should, and stops it.

    Args:
        server: to run.
        canary: that asks it.
        tell: takes lines for a person.
    """

    def __init__(self, server: Server, canary: Canary, tell: Callable[[str], None] = print) -> None:
        self.server, self.canary, self.tell = server, canary, tell
        self.ended = threading.Event()
        self._stubs: frozenset[int] = frozenset()

    def start(self) -> None:
        """Start the server and wait for right answers.

        Raises:
            RunError: it ended, or gave none in time.
        """
        began = time.monotonic()
        self.server.start()
        trouble: Trouble | None = Trouble("no answer yet", False)
        while trouble is not None and not self.ended.wait(0.1):
            if not self.server.alive():
                raise RunError(f"{self.server.repository}: the server ended before it was ready; its log says why")
            if time.monotonic() - began > READY_SECONDS:
                raise RunError(f"{self.server.repository}: no right answer in {READY_SECONDS:g} s: {trouble.reason}")
            trouble = self.canary.check(PATIENCE)
        self._stubs = self.server.stubs()
        if trouble is None:
            self.tell(f"ready after {time.monotonic() - began:.1f} s")

    def watch(self) -> None:
        """Keep the server answering until `ended` is set.

        Raises:
            RunError: it does not come up again.
        """
        asked, misses = time.monotonic(), 0
        while not self.ended.wait(LOOK):
            reason = self._gone()
            if reason is None and time.monotonic() - asked >= ASK:
                trouble = self.canary.check(PATIENCE)
                asked, misses = time.monotonic(), misses + 1 if trouble else 0
                if trouble and (trouble.certain or misses >= MISSES):
                    reason = trouble.reason
            if reason is not None and not self.ended.is_set():
                self.tell(f"not well: {reason}; starting anew")
                self._restart()
                asked, misses = time.monotonic(), 0

    def _gone(self) -> str | None:
        if not self.server.alive():
            return "the server's process is gone"
        missing = self._stubs - self.server.stubs()
        return f"{len(missing)} of {len(self._stubs)} processes of models are gone" if missing else None

    def _restart(self) -> None:
        for attempt in range(ATTEMPTS):
            self.server.stop(2.0)
            try:
                self.start()
                return
            except RunError as error:
                if attempt == ATTEMPTS - 1:
                    raise
                self.tell(str(error))


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run the server until it is told to end."""
    given = _parser().parse_args(arguments)
    repository = given.repository.absolute()
    place = Place(given.host, given.http_port, given.grpc_port, given.metrics_port)
    if given.probe:
        _probe(Canary(repository, place))
        return
    check_repository(repository)
    admin = _admin(given.admin_key_file)
    server = Server(prepare(given.environment), repository, place, given.log, admin)
    supervisor = Supervisor(server, Canary(repository, place), lambda line: print(line, flush=True))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: supervisor.ended.set())
    try:
        supervisor.start()
        if supervisor.ended.is_set():  # told to end before it was ready
            return
        if given.check:
            _check(supervisor.canary)
            return
        where = f"http://{place.host}:{place.http} (gRPC {place.grpc}, metrics {place.metrics})"
        print(f"NVIDIA Triton answers at {where}: models ensemble, fused", flush=True)
        supervisor.watch()
    finally:
        server.stop()
        print("stopped", flush=True)


def _check(canary: Canary) -> None:
    for model in ("ensemble", "fused"):
        for number in range(len(canary.requests)):
            trouble = canary.ask(model, number, 30.0)
            if trouble is not None:
                raise RunError(f"golden request {number + 1} ({model}): {trouble.reason}")
        print(f"{model}: {len(canary.requests)} golden requests have the answers of the export", flush=True)


def _probe(canary: Canary) -> None:
    trouble = canary.check(PATIENCE)
    if trouble is not None:
        raise RunError(f"{canary.address}: {trouble.reason}")
    print(f"{canary.address}: ensemble and fused give the answers of the export")


def _admin(file: Path | None) -> str:
    """The key of the admin APIs; one that nobody knows where no file is given."""
    if file is None:
        return secrets.token_urlsafe(32)
    key = file.read_text(encoding="utf-8").strip()
    if len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{file}: a key is one line of at least 16 printable ASCII characters without blanks")
    return key


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deployment.triton", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repository", type=Path, required=True, help="what `deployment.export_triton` wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--http-port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--grpc-port", type=int, default=8001, help="default: 8001")
    parser.add_argument("--metrics-port", type=int, default=8002, help="default: 8002")
    parser.add_argument("--environment", type=Path, help="folder of the server (default: in the user's cache)")
    parser.add_argument("--log", type=Path, help="file for what the server prints (default: standard error)")
    parser.add_argument(
        "--admin-key-file", type=Path, help="holds the value of the header recsys-admin that opens the admin APIs"
    )
    parser.add_argument("--check", action="store_true", help="ask every golden request, then end")
    parser.add_argument(
        "--probe", action="store_true", help="start none: ask the one that runs a golden request, as a health check"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

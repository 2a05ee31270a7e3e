"""The live web app on a quick model: trains it, exports it, starts server and app, and plays a log.

What was made stays under --out and is used again the next time. Ctrl-C stops everything.
"""

import argparse
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recsys.errors import InputError, RunError
from recsys.runtime import atomic_folder, command_line

ROOT = Path(__file__).resolve().parent.parent
PORT = 8800
READY_SECONDS = 300.0
STOP_SECONDS = 30.0
MINE = ("model", "bundle", "model_repository", "log", "logs")
"""What is made under --out."""
USERS, TOGETHER = 8, timedelta(minutes=6)
"""People of the generated log, and the time in which all of them begin."""


class Stopped(Exception):
    """A person wants it to end."""


class Processes:
    """The processes of the demo; ends those that run when it is left."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.running: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        self.ended = threading.Event()

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.ended.set())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, process, _ in reversed(self.running):
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                say(f"{name} does not stop; it is killed")
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def start(self, name: str, module: str, *flags: object) -> None:
        """Start one of the project's commands; what it prints goes to a file."""
        log = self.logs / f"{name}.log"
        command = [sys.executable, "-P", "-m", module, *map(str, flags)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        settings: Any = {"env": os.environ | {"PYTHONPATH": path}, "stdin": subprocess.DEVNULL}
        with log.open("wb") as out:
            # A session of its own, so that Ctrl-C reaches it through us, in order.
            process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, **settings)
        self.running.append((name, process, log))

    def run(self, name: str, module: str, *flags: object) -> None:
        """Run one to its end.

        Raises:
            RunError: it failed.
            Stopped: a person ended the demo.
        """
        self.start(name, module, *flags)
        process = self.running[-1][1]
        while process.poll() is None:
            self._pause(0.2)
        self.check(done=0)
        self.running.pop()

    def check(self, done: int | None = None) -> None:
        """Raise RunError if a process has ended with another status than `done`."""
        for name, process, log in self.running:
            status = process.poll()
            if status is not None and status != done:
                raise RunError(f"{name} ended with status {status}: {last_line(log)} (all of it: {log})")

    def wait(self, what: Callable[[], bool], title: str) -> None:
        """Wait until `what` holds; RunError when a process ends before, or it takes too long."""
        until = time.monotonic() + READY_SECONDS
        while not what():
            self.check()
            if time.monotonic() > until:
                raise RunError(f"{title} gave no answer in {READY_SECONDS:g} s; see {self.logs}")
            self._pause(0.2)

    def watch(self) -> None:
        """Stay until a person ends it; RunError when a process does."""
        with suppress_stop():
            while True:
                self.check()
                self._pause(0.5)

    def _pause(self, seconds: float) -> None:
        if self.ended.wait(seconds):
            raise Stopped


@contextmanager
def suppress_stop() -> Iterator[None]:
    """Take the wish to end as an end like others."""
    try:
        yield
    except Stopped:
        say("stopping")


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, then serve until Ctrl-C."""
    options = _parser().parse_args(arguments)
    _check(options)
    out: Path = options.out
    if options.fresh:
        for name in MINE:
            shutil.rmtree(out / name, ignore_errors=True)
    with Processes(out / "logs") as processes, suppress_stop():
        run = make_model(processes, out)
        bundle = make_bundle(processes, out, run)
        log = options.log or make_log(processes, out)
        endpoint, model = start_server(processes, out, bundle, options.triton)
        flags = ["--bundle", bundle, "--endpoint", endpoint, "--model", model, "--port", options.port]
        processes.start("app", "deployment.web", *flags, "--replay", log, "--speed", options.speed)
        address = wait_for_app(processes, out / "logs" / "app.log")
        say(f"playing {log} {options.speed:g} times as fast as it was")
        say(f"open {address}   (Ctrl-C stops)")
        processes.watch()
    say("stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/demo_live.sh",
        description=__doc__,
        epilog="example:\n  bash scripts/demo_live.sh --log session.jsonl.xz --speed 10",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--log", type=Path, help="recorded Vectorworks log to play (default: a generated one)")
    parser.add_argument("--speed", type=float, default=5.0, help="how many times as fast as it was (default 5)")
    parser.add_argument("--triton", action="store_true", help="serve with NVIDIA Triton in place of recsys serve")
    parser.add_argument("--port", type=int, default=PORT, help=f"of the page; 0: any that is free (default {PORT})")
    parser.add_argument("--out", type=Path, default=Path("out/live"), help="folder to write (default out/live)")
    parser.add_argument("--fresh", action="store_true", help="make model, bundle and log anew")
    return parser


def _check(options: argparse.Namespace) -> None:
    if options.log is not None and not options.log.is_file():
        raise InputError(f"--log {options.log}: no such file")
    if not (math.isfinite(options.speed) and options.speed > 0):
        raise InputError(f"--speed {options.speed}: expected a number above 0")
    options.out = options.out.absolute()
    found = {path.name for path in options.out.iterdir()} if options.out.is_dir() else set()
    other = sorted(name for name in found if name not in MINE and not name.startswith("."))
    if other:
        raise InputError(f"--out {options.out}: holds '{other[0]}', which no live demo wrote; choose another folder")


def make_model(processes: Processes, out: Path) -> Path:
    """The run; trained if it is not there."""
    run = out / "model" / "run"
    if (run / "report.html").is_file():  # the last that the demo writes
        say(f"model: {run} (--fresh makes it anew)")
        return run
    say("model: trained on generated logs, about two minutes")
    processes.run("model", "scripts.demo", "--quick", "--out", out / "model")
    for name in ("bundle", "model_repository"):
        shutil.rmtree(out / name, ignore_errors=True)
    return run


def make_bundle(processes: Processes, out: Path, run: Path) -> Path:
    """The bundle of the run."""
    bundle = out / "bundle"
    if not bundle.is_dir():
        say("bundle: exported")
        processes.run("export", "recsys.cli", "export", "--run", run, "--out", bundle)
    return bundle


def make_log(processes: Processes, out: Path) -> Path:
    """A log of people that the model was not trained on, who work at the same time."""
    folder = out / "log"
    if not folder.is_dir():
        say("log: generated")
        with atomic_folder(folder) as work:
            flags = ["--users", USERS, "--sessions", "1", "--events", 240, "--seed", 1, "--format", "live"]
            processes.run("simulate", "data_processing.simulate", "--out", work / "simulated", *flags)
            lines = [line for part in (work / "simulated" / "logs").iterdir() for line in part.open(encoding="utf-8")]
            (work / "people.jsonl").write_text("".join(together(lines)), encoding="utf-8")
            shutil.rmtree(work / "simulated")
    return folder / "people.jsonl"


def together(lines: Sequence[str]) -> list[str]:
    """The lines of a live log in order of time, its sessions moved so that they overlap.

    Only the wall clock is moved, by whole seconds: the rest of a time stands for what lies between two seconds.
    """
    moved: dict[str, timedelta] = {}
    found: list[tuple[datetime, int, str]] = []
    first: datetime | None = None
    for number, line in enumerate(lines):
        row = json.loads(line)
        day, clock, uptime, zone = row["ts"].split(" ")
        when = datetime.strptime(f"{day} {clock} {zone}", "%m/%d/%Y %H:%M:%S %z")
        first = first or when
        if row["session"] not in moved:
            moved[row["session"]] = first + TOGETHER * len(moved) / USERS - when
        when += moved[row["session"]]
        row["ts"] = f"{when:%m/%d/%Y %H:%M:%S} {uptime} {zone}"
        found.append((when, number, json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"))
    return [line for _, _, line in sorted(found)]


def start_server(processes: Processes, out: Path, bundle: Path, triton: bool) -> tuple[str, str]:
    """Start the model's server; returns its address and the model's name there."""
    ports = free_ports(3)
    endpoint = f"http://127.0.0.1:{ports[0]}"
    if triton:
        repository, model = out / "model_repository", "fused"
        if not repository.is_dir():
            processes.run("repository", "deployment.export_triton", "--bundle", bundle, "--out", repository)
        say("server: NVIDIA Triton; the first start fetches it")
        numbers = ("--http-port", ports[0], "--grpc-port", ports[1], "--metrics-port", ports[2])
        processes.start("server", "deployment.triton", "--repository", repository, *numbers)
        log = out / "logs" / "server.log"
        processes.wait(lambda: "answers at" in log.read_text(errors="replace"), "the server")
    else:
        model = "recommend"
        processes.start("server", "recsys.cli", "serve", "--bundle", bundle, "--port", ports[0])
        processes.wait(lambda: answers(f"{endpoint}/v2/health/ready"), "the server")
    say(f"server: {'NVIDIA Triton' if triton else 'recsys serve'} at {endpoint}, model {model}")
    return endpoint, model


def wait_for_app(processes: Processes, log: Path) -> str:
    """The app's address, once it answers."""

    def address() -> str:
        said = log.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^live: (http://\S+)", said, flags=re.MULTILINE)
        return found[1] if found else ""

    processes.wait(lambda: bool(address()) and answers(f"{address()}/health"), "the app")
    return address()


def answers(url: str) -> bool:
    """Whether an address of this machine answers 200."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def last_line(log: Path) -> str:
    """The last line that a process printed."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def say(line: str) -> None:
    """One line for a person."""
    print(f"[live] {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

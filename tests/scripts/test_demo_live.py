"""`scripts/demo_live`, with a run that is there already, as a person starts and stops it; and each of its steps."""

import importlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from data_processing.simulate import simulate
from recsys.cleaning.pipeline import clean_logs
from recsys.cleaning.profile import load_profile
from recsys.client import Client
from recsys.errors import InputError, RunError
from recsys.inference import load
from recsys.serving.bundle import Answer, Bundle
from recsys.serving.verify import difference, read_golden
from scripts import demo, demo_live, screenshot_live
from tests.shared_bundle import shared_bundle
from tests.test_demo import smaller_config
from tests.tiny_run import make_config, make_log_run, make_run

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "log"
    simulate(folder, users=4, sessions_per_user=2, seed=3, log_format="live", events_per_session=30)
    return folder / "logs"


def test_sessions_are_moved_as_a_whole(simulated: Path, tmp_path: Path) -> None:
    """Cleaning finds the same commands with the same pauses, only that people work at the same time."""
    lines = [line for part in sorted(simulated.iterdir()) for line in part.open(encoding="utf-8")]
    (tmp_path / "people.jsonl").write_text("".join(demo_live.together(lines)), encoding="utf-8")
    before, after = (events_of(path) for path in (simulated, tmp_path / "people.jsonl"))
    assert before.height == after.height > 100
    columns = ["session_id", "item_id", "merge_count"]
    assert before.select(columns).equals(after.select(columns))
    moved = (after["timestamp"] - before["timestamp"]).to_list()
    by_session = dict(zip(before["session_id"], moved, strict=True))
    assert moved == [by_session[session] for session in before["session_id"]] and len(set(moved)) == 8
    starts = after.group_by("session_id").agg(pl.col("timestamp").min())["timestamp"]
    assert (starts.max() - starts.min()) / 1e6 < demo_live.TOGETHER.total_seconds() + 60


def events_of(log: Path) -> pl.DataFrame:
    return clean_logs(log, load_profile("vectorworks")).sort("session_id", "timestamp", maintain_order=True)


class Demo:
    """The demo as a process."""

    def __init__(self, out: Path, *flags: object) -> None:
        command = [sys.executable, "-m", "scripts.demo_live", "--out", out, "--port", 0, *flags]
        streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(list(map(str, command)), cwd=ROOT, text=True, **streams)
        self.told: list[str] = []

    def wait_for(self, text: str) -> str:
        """The first line with a text."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.told.append(line.rstrip())
            if text in line:
                return line
        raise AssertionError(self.told)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=PATIENCE)
        self.told += rest.splitlines()
        return self.process.returncode


def port_of(line: str) -> int:
    return int(line.split("http://127.0.0.1:")[1].split()[0].rstrip(","))


def is_open(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_it_starts_plays_and_stops(tmp_path: Path) -> None:
    out = tmp_path / "live"
    profile = (ROOT / "configs" / "profiles" / "vectorworks.yaml").read_text(encoding="utf-8")
    config = make_config(backbone={"name": "sasrec", "hidden_size": 8, "num_layers": 1})
    run = make_log_run(make_run(tmp_path, config=config)[1], out / "model" / "run", profile=profile)
    (run / "report.html").touch()

    demo = Demo(out, "--speed", 200)
    try:
        server = port_of(demo.wait_for("server: recsys serve at"))
        app = port_of(demo.wait_for("open http"))
        until, sessions = time.monotonic() + PATIENCE, []
        while not any(one["suggestions"] and one["events"] > 3 for one in sessions):
            assert time.monotonic() < until, sessions
            with urllib.request.urlopen(f"http://127.0.0.1:{app}/state") as answer:
                sessions = json.load(answer)["sessions"]
        assert all(one["user"].startswith(screenshot_live.MADE_BY_US) for one in sessions)
    finally:
        assert demo.stop() == 0
    assert demo.told[-2:] == ["[live] stopping", "[live] stopped"]
    assert not is_open(server) and not is_open(app)

    # The next start uses what was made; a child that ends takes the others with it.
    times = {name: (out / name).stat().st_mtime for name in ("bundle", "log")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        demo = Demo(out, "--port", taken.getsockname()[1])
        server = port_of(demo.wait_for("server: recsys serve at"))
        rest, _ = demo.process.communicate(timeout=PATIENCE)
    assert demo.process.returncode == 2 and "app ended with status" in rest and "cannot listen on" in rest, rest
    assert not is_open(server)
    assert times == {name: (out / name).stat().st_mtime for name in ("bundle", "log")}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--log", "nowhere.jsonl"], "--log nowhere.jsonl: no such file"),
        (["--speed", "nan"], "--speed nan: expected a number above 0"),
        (["--out", "{folder}"], "holds 'mine', which no live demo wrote"),
    ],
)
def test_flags_are_checked_first(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()
    out = [] if "--out" in flags else ["--out", str(tmp_path / "new")]
    assert demo_live.main([flag.format(folder=tmp_path) for flag in flags] + out) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "new").exists()


class Here(demo_live.Processes):
    """Runs the project's commands in this process, so that a test can make what they train small."""

    def __init__(self, logs: Path) -> None:
        super().__init__(logs)
        self.names: list[str] = []

    def run(self, name: str, module: str, *flags: object) -> None:
        assert importlib.import_module(module).main([str(flag) for flag in flags]) == 0
        self.names.append(name)


@pytest.mark.slow
def test_a_model_is_trained_where_none_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the project's own command with its own flags; only that users, epochs and the model are few and small."""
    (tmp_path / "configs").mkdir()
    smaller_config(tmp_path / "configs")
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "QUICK_USERS", 8)
    monkeypatch.setattr(demo, "_quick_settings", lambda is_generated: ["--set", f"training.epochs={int(is_generated)}"])
    out = tmp_path / "live"
    for left in ("model/run", "bundle", "model_repository", "log"):
        (out / left).mkdir(parents=True)
    (out / "model" / "run" / "config.yaml").write_text("seed: 1\n")  # a demo that was stopped before its report

    processes = Here(out / "logs")
    run = demo_live.make_model(processes, out)
    assert run == out / "model" / "run" and processes.names == ["model"]
    load(run, device="cpu")
    assert sorted(path.name for path in out.iterdir()) == ["log", "model"], "bundles of an earlier model are gone"
    trained = (run / "config.yaml").read_text()
    assert "epochs: 1.0\n" in trained and "hidden_size: 32\n" in trained

    (out / "bundle").mkdir()
    assert demo_live.make_model(processes, out) == run and processes.names == ["model"], "it is used again"
    assert (out / "bundle").is_dir()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[demo_live.Processes]:
    """Real ones, which take no signals away from pytest."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        with demo_live.Processes(tmp_path / "live" / "logs") as found:
            yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def failure(*given: Any, step: Any) -> str:
    with pytest.raises(RunError) as caught:
        step(*given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_training_that_fails_is_told_in_one_line(processes: demo_live.Processes, tmp_path: Path) -> None:
    out = tmp_path / "live"
    (out / "model").mkdir()
    (out / "model" / "thesis.txt").touch()
    said = failure(processes, out, step=demo_live.make_model)
    assert said.startswith(
        f"model ended with status 2: error: --out {out / 'model'}: holds 'thesis.txt', which no demo"
    )
    assert said.endswith(f"(all of it: {out / 'logs' / 'model.log'})")


@pytest.mark.slow
def test_triton_is_there_once_it_is_said_to_be(
    processes: demo_live.Processes, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = shared_bundle(tmp_path_factory).bundle
    endpoint, model = demo_live.start_server(processes, tmp_path / "live", bundle, triton=True)
    assert (tmp_path / "live" / "model_repository" / "fused").is_dir()
    assert [name for name, *_ in processes.running] == ["server"], "the export has ended"
    requests, wanted, k = read_golden(bundle)
    with Client(endpoint, model=model, retries=0) as client:
        for request, right in zip(requests, wanted, strict=True):
            found = client.recommend(request["columns"], k, remove_seen=request["remove_seen"])
            tolerance = Bundle.open(bundle).manifest["tolerance"]
            assert difference(Answer(found.items, found.scores, found.probabilities), right, tolerance) is None
    processes.__exit__(None, None, None)
    assert not is_open(port_of(endpoint))


@pytest.mark.parametrize(("there", "name"), [(False, "repository"), (True, "server")])
def test_a_server_that_does_not_start(there: bool, name: str, processes: demo_live.Processes, tmp_path: Path) -> None:
    """A repository is exported where there is none, and one that is there is served as it is."""
    out = tmp_path / "live"
    if there:
        (out / "model_repository").mkdir()
    said = failure(processes, out, tmp_path / "no-bundle", True, step=demo_live.start_server)
    assert said.startswith(f"{name} ended with status 2: error: ")
    assert str(out / "model_repository" if there else tmp_path / "no-bundle") in said


def test_no_persons_log_goes_into_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        def __init__(self, user: str) -> None:
            self.text = json.dumps({"sessions": [{"user": "SIM-29-0000"}, {"user": user}]})

        def open(self, *_: object, **__: object) -> Any:
            import io

            return io.BytesIO(self.text.encode())

    monkeypatch.setattr(urllib.request, "build_opener", lambda *_: Answer("SIM-29-1111"))
    assert len(screenshot_live.state_of("http://x")["sessions"]) == 2
    monkeypatch.setattr(urllib.request, "build_opener", lambda *_: Answer("anna"))
    with pytest.raises(InputError, match="was not generated"):
        screenshot_live.state_of("http://x")

"""The benchmark of serving on small sizes: callers count what goes wrong, and figures are what their names say."""

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recsys.errors import RunError
from recsys.export.bundle import export
from recsys.inference import load
from recsys.serving.bundle import Answer, Bundle
from scripts.serving import faults
from scripts.serving.load import Question, Tally, Way, drive, loaded, make_questions
from scripts.serving.made_run import Size, config_of, make_run
from scripts.serving.servers import Running, below, cpu_seconds, own_share, proportional_size
from tests.tiny_server import serving, wait_for

FILE = Path(__file__).resolve().parents[2] / "scripts" / "bench_serving.py"
LENGTHS = (1, 5, 11)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench() -> Any:
    spec: Any = importlib.util.spec_from_file_location("bench_serving", FILE)
    module = sys.modules["bench_serving"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("made"), Size(items=30, length=6, width=16, layers=1))


@pytest.fixture(scope="module")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Way, list[Question]]]:
    bundle = Bundle.open(export(run, tmp_path_factory.mktemp("bundle") / "b").path)
    with serving(bundle) as running:
        questions = make_questions(run, LENGTHS, list(bundle.manifest["requests"]), seed=3)
        yield Way("local", running.url, "recommend"), questions


def test_the_run_is_of_the_kind_that_is_named(run: Path) -> None:
    model = load(run, device="cpu").model
    assert len(model.inputs.projections) == 5  # one a stream
    model_config = config_of(Size(), Path("text.npy")).model
    assert (model_config.max_length, model_config.inputs.fusion_size, model_config.backbone.hidden_size) == (
        110,
        256,
        256,
    )
    assert (model_config.backbone.name, model_config.backbone.num_layers) == ("llama", 2)


def test_callers_count_answers_wrong_ones_and_errors(served: tuple[Way, list[Question]]) -> None:
    way, questions = served
    assert [len(q.history["timestamp"]) for q in questions] == list(LENGTHS)
    tally = drive(way, 2, 0.3, questions, 1e-4)
    assert len(tally.seconds) > 2 and not tally.errors and not tally.wrong
    assert 0 < tally.milliseconds(50) <= tally.milliseconds(99) and tally.elapsed >= 0.3
    assert tally.rate == pytest.approx(len(tally.seconds) / tally.elapsed)
    other = replace(questions[1], answer=Answer(questions[1].answer.items, [9.0] * 5, [0.2] * 5))
    tally = drive(way, 1, 0.2, [questions[0], other], 1e-4)
    assert abs(len(tally.wrong) - len(tally.seconds)) <= 1 and "expected 9" in tally.wrong[0]
    tally = drive(Way("gone", "http://127.0.0.1:9", "recommend"), 1, 0.1, questions, 1e-4)
    assert tally.errors and not tally.seconds and tally.milliseconds(50) == float("inf")


def test_tritons_own_part_is_what_no_step_computed() -> None:
    before = {"ensemble": (10, 100.0, 0.0), "fused": (5, 50.0, 40.0)}
    after = {"ensemble": (14, 148.0, 0.0), "fused": (7, 70.0, 56.0)}
    for step, share in (("transform", 1.0), ("embed", 2.0), ("rank", 5.0), ("decode", 1.0)):
        before[step], after[step] = (20, 0.0, 7.0), (28, 0.0, 7.0 + 8 * share)
    assert own_share(before, after, "ensemble") == pytest.approx(1 - 9 / 12)
    assert own_share(before, after, "fused") == pytest.approx(1 - 8 / 10)


def test_processor_time_is_that_of_all_processes() -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'while True: pass']).wait()"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            wait_for(lambda: Running(process.pid, 0.0, []).cpu_seconds() > 0.3)
            assert cpu_seconds(process.pid) < 0.3
        finally:
            (child,) = below(process.pid)
            subprocess.run(["kill", str(child)], check=True)
    assert cpu_seconds(2**22 + 1) == 0


def test_memory_is_that_of_all_processes() -> None:
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            assert below(process.pid) == [child] and below(child) == []
            sizes = [proportional_size(process.pid), proportional_size(child)]
            whole = Running(process.pid, 0.0, []).memory()
            assert sizes[0] > 1e6 and sizes[1] > 1e4
            assert whole == pytest.approx(sum(sizes) / 1e6, rel=0.2)
        finally:
            process.kill()
            subprocess.run(["kill", str(child)], check=True)
    assert proportional_size(2**22 + 1) == 0  # above any number that a process has


class Counted(list[Question]):
    """Questions that count how often one was taken."""

    taken = 0

    def __getitem__(self, place: Any) -> Any:
        self.taken += 1
        return super().__getitem__(place)


def test_callers_go_on_through_errors_until_they_are_ended(served: tuple[Way, list[Question]]) -> None:
    way, (first, second, _) = served
    questions = Counted([first, replace(second, answer=Answer(second.answer.items, [9.0] * 5, [0.2] * 5))])
    with loaded(way, faults.CALLERS, questions, 1e-4, faults.PAUSE) as met:
        wait_for(lambda: questions.taken > 4 * faults.CALLERS)
    assert len(met.seconds) + len(met.wrong) >= questions.taken and not met.errors  # threads may lose a count
    assert len(met.seconds) > faults.CALLERS and "expected 9" in met.wrong[0]
    questions.taken = 0
    with loaded(Way("gone", "http://127.0.0.1:9", "recommend"), faults.CALLERS, questions, 1e-4, faults.PAUSE) as met:
        wait_for(lambda: questions.taken > 2 * faults.CALLERS)
    assert len(met.errors) >= questions.taken and not met.seconds and not met.wrong


class Nurse:
    """Stands in for a supervisor: its server is two processes that do nothing, and it tells of each that ends."""

    def __init__(self, tell: Callable[[str], None], address: str) -> None:
        self.tell, self.ended = tell, threading.Event()
        self.canary = SimpleNamespace(address=address)
        self.server = self
        self.starts = 0

    def start(self) -> None:
        self.process, self.model = (subprocess.Popen(["sleep", "600"]) for _ in range(2))
        self.starts += 1
        self.tell("ready after 0 s")

    def stubs(self) -> frozenset[int]:
        return frozenset({self.model.pid})

    def stop(self) -> None:
        for process in (self.process, self.model):
            process.kill()
            process.wait()

    def watch(self) -> None:
        while not self.ended.wait(0.01):
            states = [Path(f"/proc/{p.pid}/stat").read_text().split(") ")[1][0] for p in (self.process, self.model)]
            if set(states) & set("ZT"):
                self.tell(f"not well: {states}; starting anew")
                self.stop()
                self.start()


def test_each_fault_is_done_and_timed(
    served: tuple[Way, list[Question]], bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "STEADY", 0.1)
    monkeypatch.setattr(faults, "Way", lambda name, url, _: Way(name, url, "recommend"))
    nurses = []

    def made(tell: Callable[[str], None]) -> Any:
        nurses.append(Nurse(tell, served[0].url))
        return nurses[0]

    figures = bench.suffer(made, served[1], 1e-4, rounds=2)
    names = [f"{f.name}_{what}_seconds" for f in faults.FAULTS for what in ("noticed", "mended")]
    assert list(figures) == [*names, "right_answers", "errors_met", "wrong_answers"] and len(names) == 8
    for noticed, mended in zip(names[::2], names[1::2], strict=True):
        assert 0 <= figures[noticed] <= figures[mended]
    assert nurses[0].starts == 1 + 2 * 4
    assert figures["right_answers"] > 0 and figures["errors_met"] == figures["wrong_answers"] == 0


def test_what_is_never_told_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "PATIENCE", 0.05)
    diary = faults.Diary()
    diary.tell("not well: gone")
    at = diary.lines[0][0]
    assert diary.when("not well", at) == at
    with pytest.raises(RunError, match="nothing that begins with 'not well'"):
        diary.when("not well", at + 1)


def test_figures_stand_under_their_names(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tallies = {}
    for name, factor in (("fused", 1.0), ("ensemble", 1.2), ("local", 2.0)):
        for clients in bench.CLIENTS:
            tallies[name, clients] = Tally([0.01 * factor * n for n in range(1, 4)], elapsed=0.5)
    tallies["local", 8].errors.append("no answer")
    tallies["local", 8].wrong.append("place 1")
    figures = {**bench.headline(tallies), **bench.details(tallies)}
    assert (figures["fused_p50_ms"], figures["ensemble_p50_over_fused"]) == (20.0, 1.2)
    assert figures["requests_per_second_8_clients"] == 6.0
    assert (figures["errors"], figures["wrong_answers"], figures["answers_compared"]) == (1, 1, 28)
    assert figures["local_p99_ms_32_clients"] == pytest.approx(59.6)
    monkeypatch.setattr(bench, "prepare", lambda *_: None)
    monkeypatch.setattr(bench, "compare", lambda *_: figures)
    assert bench.main(["--quick", "--json", str(tmp_path / "figures.json")]) == 2  # so that a script sees it
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["ensemble"][:3] == ["24.0", "35.8", "6.0"] and rows["errors:"] == ["1"]

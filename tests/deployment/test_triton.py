"""Keeping a server answering: when it is started anew, and when it is given up. The server itself is a stand-in."""

from pathlib import Path
from typing import Any

import pytest

from deployment import triton, triton_server
from deployment.triton import Supervisor, main
from deployment.triton_server import Canary, Trouble, bundle_of, check_repository
from recsys.errors import ConfigError, RunError
from recsys.serving import integrity

WELL = frozenset({11, 12})
TIMES = (triton.LOOK, triton.ASK, triton.PATIENCE, triton.MISSES)


class FakeServer:
    """Is alive and has the processes that the test says; counts its starts."""

    def __init__(self) -> None:
        self.repository, self.starts, self.stops = Path("models"), 0, 0
        self.living, self.processes = True, WELL
        self.comes_up = True

    def start(self) -> None:
        self.starts += 1
        self.living, self.processes = self.comes_up, WELL

    def stop(self, seconds: float = 0) -> None:
        self.stops += 1
        self.living = False

    def alive(self) -> bool:
        return self.living

    def stubs(self) -> frozenset[int]:
        return self.processes


class FakeCanary:
    """Says what the test lists, one a call; then that all is well."""

    def __init__(self, *said: str | None) -> None:
        self.said = [Trouble(s, certain=s == "wrong") if s else None for s in said]
        self.calls = 0

    def check(self, seconds: float) -> Trouble | None:
        self.calls += 1
        return self.said.pop(0) if self.said else None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "LOOK", 0.001)
    monkeypatch.setattr(triton, "ASK", 0.0)


def run(server: FakeServer, canary: FakeCanary, rounds: int) -> list[str]:
    """What a person is told until the canary was asked `rounds` times."""
    told: list[str] = []
    supervisor = Supervisor(server, canary, told.append)  # type: ignore[arg-type]
    plain = canary.check

    def check(seconds: float) -> Trouble | None:
        if canary.calls + 1 >= rounds:
            supervisor.ended.set()
        return plain(seconds)

    canary.check = check  # type: ignore[method-assign]
    supervisor.start()
    supervisor.watch()
    return told


def test_a_server_that_is_well_is_left_alone() -> None:
    server = FakeServer()
    run(server, FakeCanary("not yet", "not yet"), 12)
    assert (server.starts, server.stops) == (1, 0)


@pytest.mark.parametrize(
    ("said", "starts"),
    [
        ((None, "slow", None, "slow", None), 1),
        ((None, "slow", "slow", None), 2),
        ((None, "wrong", None), 2),
        ((None, "wrong", None, "wrong", None), 3),
    ],
)
def test_one_wrong_answer_or_two_that_are_missing(said: tuple[Any, ...], starts: int) -> None:
    server = FakeServer()
    told = run(server, FakeCanary(*said), 12)
    assert server.starts == starts
    assert sum("starting anew" in line for line in told) == starts - 1


def test_a_server_that_hangs_is_found_within_ten_seconds() -> None:
    """The longest way there: it hangs right after it was asked, and each look comes a whole round late."""
    assert TIMES == (0.5, 1.5, 3.0, 2)
    look, ask, patience, misses = TIMES
    assert misses * (ask + look + patience) <= 10


def test_all_models_share_the_patience_of_a_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a server of which one model is slow and the other hangs would be found late."""
    clock, given = [100.0], []

    def ask(model: str, number: int, seconds: float) -> None:
        given.append(seconds)
        clock[0] += 2.9

    canary = Canary.__new__(Canary)
    canary.requests, canary._next = [{}], 0
    monkeypatch.setattr(canary, "ask", ask)
    monkeypatch.setattr(triton_server.time, "monotonic", lambda: clock[0])
    assert canary.check(3.0) is None
    assert given == pytest.approx([3.0, 0.1])


@pytest.mark.parametrize("loss", ["server", "model"])
def test_a_process_that_is_gone_is_seen_without_the_canary(loss: str) -> None:
    server, canary = FakeServer(), FakeCanary()
    plain, lost = canary.check, []

    def check(seconds: float) -> Trouble | None:
        if canary.calls == 3 and not lost:
            lost.append(loss)
            if loss == "server":
                server.living = False
            else:
                server.processes = frozenset({11})
        return plain(seconds)

    canary.check = check  # type: ignore[method-assign]
    told = run(server, canary, 12)
    assert server.starts == 2
    assert ("process is gone" if loss == "server" else "1 of 2 processes of models are gone") in told[1]


def test_a_server_that_does_not_come_up_again_is_given_up() -> None:
    server, canary = FakeServer(), FakeCanary()
    plain = canary.check

    def check(seconds: float) -> Trouble | None:
        if canary.calls == 3:
            server.living = server.comes_up = False
        return plain(seconds)

    canary.check = check  # type: ignore[method-assign]
    with pytest.raises(RunError, match="ended before it was ready"):
        run(server, canary, 50)
    assert server.starts == 1 + triton.ATTEMPTS


def test_what_gives_no_right_answer_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "READY_SECONDS", 0.25)
    with pytest.raises(RunError, match=r"no right answer in 0\.25 s: wrong"):
        run(FakeServer(), FakeCanary(*["wrong"] * 1000), 10_000)


def test_the_bundle_is_that_of_the_newest_version(tmp_path: Path) -> None:
    for version in ("2", "10", "9", "old"):
        (tmp_path / "fused" / version).mkdir(parents=True)
    assert bundle_of(tmp_path) == tmp_path / "fused" / "10" / "bundle"
    with pytest.raises(RunError, match="has no model 'fused'"):
        bundle_of(tmp_path / "fused")


@pytest.mark.parametrize("key", ["short", "with a blank in it all", "é" * 20, "two\nlines of a long key"])
def test_admin_keys_that_could_not_be_sent_are_refused(key: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(key, encoding="utf-8")
    with pytest.raises(ConfigError, match="at least 16 printable ASCII"):
        triton._admin(file)
    file.write_text("0123456789abcdef\n", encoding="utf-8")
    assert triton._admin(file) == "0123456789abcdef"
    assert triton._admin(None) != triton._admin(None)


def test_a_repository_with_one_byte_changed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = tmp_path / "fused" / "1" / "model.py"
    code.parent.mkdir(parents=True)
    code.write_text("print('ours')\n")
    facts = {"sha256": integrity.sha256_of(code), "bytes": code.stat().st_size}
    values = {"format": "recsys-bundle", "version": 2, "files": {"fused/1/model.py": facts}}
    (tmp_path / integrity.MANIFEST).write_text(integrity.seal(values))
    check_repository(tmp_path)
    code.write_text("print('evil')\n")
    assert main(["--repository", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "fused/1/model.py: was changed after the export" in told and told.count("\n") == 1


def test_no_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--repository", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err

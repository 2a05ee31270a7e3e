"""Set-up shared by all tests: offline, one thread, and the strict reading of skips that CI asks for."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before torch or transformers can be imported: they read these once.
for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "offline",
}.items():
    os.environ.setdefault(_name, _value)

# No test depends on how busy the machine is.
settings.register_profile("recsys", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("recsys")

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

# The only reason that CI accepts for a skip: the data sets lie outside the repository.
ACCEPTED_SKIP = "shared/data"


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Give a function from a name to ../shared/data/<name>; it skips the test where that is missing."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"needs ../shared/data/{name}, which is not beside this checkout")
        return path

    return find


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fail-on-skip",
        action="store_true",
        help=f"fail the run where a test is skipped for a reason that does not name {ACCEPTED_SKIP}",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fail-on-skip"):
        config.pluginmanager.register(UnacceptedSkips(), "unaccepted-skips")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)
    # Files with slow tests go first, so that no process ends alone with one of them.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


class UnacceptedSkips:
    """Collects the skips that CI does not accept (a missing package, say) and fails the run for them."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if ACCEPTED_SKIP not in reason:
            self.found.append(f"{report.nodeid}: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        if self.found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.found:
            terminalreporter.section("skips that --fail-on-skip does not accept", sep="-")
            for line in self.found:
                terminalreporter.line(line)

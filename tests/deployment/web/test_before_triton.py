"""The app as a process before the real NVIDIA Triton."""

import os
import signal

import pytest

from recsys.export import export
from tests.tiny_live import Process, shown
from tests.tiny_run import START, make_config, make_log_run, make_run, write_log
from tests.tiny_triton import stub_of, triton

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    small = make_config(backbone={"name": "sasrec", "hidden_size": 8, "num_layers": 1, "num_heads": 2})
    run = make_log_run(make_run(folder / "made", config=small)[1], folder / "run")
    with triton(folder, run, export(run, folder / "bundle").path) as found:
        yield found


@pytest.mark.parametrize(("way", "model", "step"), [("http", "fused", "fused"), ("grpc", "ensemble", "rank")])
def test_lists_are_those_of_the_run_also_after_a_step_was_killed(running, way, model, step, tmp_path):
    log = tmp_path / "log.csv"
    write_log(log, {"a": ["command 01", "command 02"]})
    addresses = ("--endpoint", running.urls[way], "--model", model)
    app = Process("--logs", log, "--bundle", running.bundle.folder, *addresses)
    with app.page() as page:
        shown(page, running.run, log, {"a": 2})
        os.kill(stub_of(running, step), signal.SIGKILL)
        with log.open("a") as file:
            file.write(f"a,{START + 20},command 05\nb,{START},command 04\n")
        shown(page, running.run, log, {"a": 3, "b": 1})
    assert app.stop() == (0, "live: stopped\n", "")

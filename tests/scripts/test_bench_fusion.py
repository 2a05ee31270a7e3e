"""The fusion benchmark on small sizes: both ways are the same model, and the figures stand under their names."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).resolve().parents[2] / "scripts" / "bench_fusion.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_fusion", FILE)
    module = sys.modules["bench_fusion"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_ways_have_the_same_values_and_gradients(bench):
    torch.manual_seed(0)
    inputs = bench.build(16, 20).double()
    columns = {name: x.double() if x.is_floating_point() else x for name, x in bench.draw(3, 30, 20).items()}
    ours, plain = (bench.fuse(inputs, columns, way) for way in bench.WAYS)
    torch.testing.assert_close(ours, plain)
    wanted = [p for name, p in inputs.named_parameters() if not name.startswith("output.")]
    found = torch.autograd.grad(ours.square().sum(), wanted)
    for mine, theirs in zip(found, torch.autograd.grad(plain.square().sum(), wanted), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_figures_stand_under_their_names(bench, tmp_path, monkeypatch, capsys):
    def run(way: str, seconds: list[float], peak: float) -> dict[str, object]:
        return {"seconds": seconds, "walls": [2 * s for s in seconds], "peak": peak, "checksum": 1.5, "way": way}

    found = [run("ours", [1.0, 9.0], 2e9), run("plain", [4.0, 4.0], 8e9)]
    found += [run("ours", [1.5], 3e9), run("plain", [5.0], 7e9)]
    answers = iter(found)
    commands = []

    def process(command, **_):
        commands.append(command[command.index("--way") + 1])
        return type("Done", (), {"stdout": json.dumps(next(answers))})

    monkeypatch.setattr(bench.subprocess, "run", process)
    arguments = ["--part", "fusion", "--turns", "2", "--json", str(tmp_path / "figures.json")]
    assert bench.main(arguments) in (None, 0)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert commands == ["ours", "plain", "ours", "plain"]
    assert figures["cpu_seconds_fusion"] == 1.5  # the median of 1, 9 and 1.5
    assert figures["speedup_vs_plain_fusion"] == pytest.approx(4.0 / 1.5, abs=0.01)
    assert figures["peak_memory_ratio_vs_plain_fusion"] == pytest.approx(3 / 8)
    assert "fusion" in capsys.readouterr().out


def test_one_process_measures_one_way(bench, capsys):
    threads = torch.get_num_threads()
    small = ["--batch=2", "--length=5", "--size=16", "--items=9", "--passes=1"]
    found = []
    for way in bench.WAYS:
        assert bench.main(["--way", way, "--part", "inputs", *small]) in (None, 0)
        found.append(json.loads(capsys.readouterr().out))
    torch.set_num_threads(threads)
    assert found[0]["checksum"] == pytest.approx(found[1]["checksum"], rel=1e-5)
    assert all(len(f["seconds"]) == 1 and f["peak"] > 1e7 for f in found)

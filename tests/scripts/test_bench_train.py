import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).resolve().parents[2] / "scripts" / "bench_train.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_train", FILE)
    module = sys.modules["bench_train"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_naive_way_trains_the_same_model(bench):
    """Loss and gradients of model and naive way agree: chunked losses, fusion savings and bucketing change nothing."""
    case = bench.build_cases(users=60)[-1]
    assert case.name == "preset"
    way = bench.Way(case, bench.naive_batches(case), naive=True)
    way.model.eval()
    batch = way.collate(next(way.batches))
    gradients = []
    for loss in (way.model(batch).loss, way.loss(batch)):
        way.model.zero_grad()
        loss.backward()
        gradients.append((float(loss.detach()), {n: p.grad.clone() for n, p in way.model.named_parameters()}))
    (ours, our_gradients), (naive, naive_gradients) = gradients
    assert ours == pytest.approx(naive, rel=1e-5)
    for name, gradient in naive_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_figures_stand_under_the_published_names(bench, tmp_path, capsys, monkeypatch):
    cases = bench.build_cases(users=60)
    assert [case.name for case in cases] == ["len50", "len200", "len50_float32", "preset"]
    monkeypatch.setattr(bench, "build_cases", lambda users: [cases[0]])
    threads = torch.get_num_threads()
    assert bench.main(["--seconds", "0.01", "--json", str(tmp_path / "figures.json")]) in (None, 0)
    torch.set_num_threads(threads)
    figures = json.loads((tmp_path / "figures.json").read_text())
    ratio = figures["positions_per_cpu_second_len50"] / figures["naive_positions_per_cpu_second_len50"]
    assert figures["speedup_vs_naive_len50"] == pytest.approx(ratio, abs=0.02)
    assert "len50" in capsys.readouterr().out

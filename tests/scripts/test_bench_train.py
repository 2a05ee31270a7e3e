import importlib.util
import json
import subprocess
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


def test_a_catalogue_is_measured_with_both_output_tables(bench, tmp_path):
    """In a process of its own, as a peak belongs to a process: an own table costs its weights, gradient and moments."""
    items, out = 200_000, tmp_path / "figures.json"
    command = [sys.executable, str(FILE), "--catalogue", str(items), "--seconds", "0.2", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert set(figures) == {
        "catalogue_items",
        *(
            f"{key}_catalogue_{name}"
            for key in ("peak_memory_gb", "positions_per_cpu_second")
            for name in ("tied", "own")
        ),
    }
    assert figures["catalogue_items"] == items and figures["positions_per_cpu_second_catalogue_own"] > 0
    table = 4 * items * 64 * 4 / 1e9
    more = figures["peak_memory_gb_catalogue_own"] - figures["peak_memory_gb_catalogue_tied"]
    assert 0.5 * table < more < 1.5 * table
    assert figures["peak_memory_gb_catalogue_tied"] > table
    assert "200,000 items" in done.stdout and "tied" in done.stdout


def test_the_catalogue_is_trained_by_sampled_softmax(bench, monkeypatch, capsys):
    ways = []

    class Noted(bench.Way):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            ways.append(self)

    monkeypatch.setattr(bench, "Way", Noted)
    threads = torch.get_num_threads()
    figures = bench.measure_catalogue(500, 0.01)
    torch.set_num_threads(threads)
    capsys.readouterr()
    assert [round(way.rate) for way in ways] == [
        figures[f"positions_per_cpu_second_catalogue_{n}"] for n in ("tied", "own")
    ]
    shapes = [[tuple(p.shape) for p in way.model.parameters()].count((503, 64)) for way in ways]
    assert shapes == [1, 2]
    assert {type(way.model.heads["item_id"].loss_function).__name__ for way in ways} == {"SampledSoftmax"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--catalogue", "0"], "give a number of items above 0"),
        (["--catalogue", "5", "--peers"], "not allowed with"),
        (["--data", "ml-100k"], "--data ml-100k goes with --peers"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(bench, capsys, flags, words):
    with pytest.raises(SystemExit):
        bench.main(flags)
    assert words in capsys.readouterr().err

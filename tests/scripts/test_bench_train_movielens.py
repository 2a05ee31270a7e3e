"""MovieLens-100K out of a wheel, held to a wheel made here: nothing is downloaded."""

import json
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.errors import InputError
from scripts import bench_train
from scripts.peers import harness, movielens

RATINGS = [  # user, item, rating, time
    (7, 900, 3, 50),
    (2, 10, 5, 30),
    (7, 10, 4, 20),
    (2, 900, 1, 30),  # as late as the one above it in the file
    (7, 55, 4, 40),
    (30, 55, 2, 10),
]


@pytest.fixture
def pip(monkeypatch):
    """Stands in for pip: writes a wheel with RATINGS; the commands that it was called with."""
    called = []

    def run(command, **_):
        called.append(command)
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "recbole.whl", "w") as wheel:
            head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            wheel.writestr(movielens.MEMBER, head + "".join("\t".join(map(str, row)) + "\n" for row in RATINGS))
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return called


def test_events_by_user_and_time(tmp_path, pip):
    offsets, ids, items = movielens.read(movielens.fetch(tmp_path))
    assert items == 3
    assert offsets.tolist() == [0, 2, 5, 6]
    assert ids.tolist() == [0, 2, 0, 1, 2, 1]  # users 2, 7, 30; items 10, 55, 900


def test_it_is_fetched_once_and_without_what_the_wheel_needs(tmp_path, pip):
    assert movielens.fetch(tmp_path) == movielens.fetch(tmp_path)
    assert len(pip) == 1 and pip[0][-1] == "recbole==1.2.1" and "--no-deps" in pip[0]


def test_no_wheel_is_one_line(tmp_path, monkeypatch):
    failed = SimpleNamespace(returncode=1, stderr="ERROR: no matching\ndistribution")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputError, match=r"recbole==1.2.1 cannot be downloaded: ERROR: no matching distribution"):
        movielens.fetch(tmp_path)
    assert not (tmp_path / "data" / "ml-100k.inter").exists()


def test_the_command_measures_them_under_names_of_their_own(tmp_path, pip, monkeypatch, capsys):
    seen = {}

    def measure(tools, data, lengths, *_):
        with np.load(data) as arrays:
            seen.update({name: arrays[name].tolist() for name in arrays})
        rates = {"recsys": 600, "peer": 200}
        return {(t.name, n): harness.Tally(rates[t.name], 1.0, rates[t.name] / 1000) for t in tools for n in lengths}

    peer = harness.Tool("peer", tmp_path / "train_peer.py", tmp_path / "python", "7")
    monkeypatch.setattr(harness, "peer_environment", lambda folder: [peer])
    monkeypatch.setattr(harness, "measure", measure)
    monkeypatch.setattr(bench_train, "measure_naive", lambda *_: pytest.fail("the naive way has no such data"))
    out = tmp_path / "figures.json"
    arguments = ["--peers", "--peers-env", str(tmp_path), "--data", "ml-100k", "--json", str(out)]
    assert bench_train.main(arguments) in (None, 0)
    assert seen == {"offsets": [0, 2, 5, 6], "ids": [0, 2, 0, 1, 2, 1], "items": 3}
    figures = json.loads(out.read_text())
    assert all(name.startswith("ml100k_") for name in figures)
    assert figures["ml100k_speedup_vs_best_peer_len50"] == 3.0
    assert "ml-100k: 3 sequences, 3 items, 6 events" in capsys.readouterr().out

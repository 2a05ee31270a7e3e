"""Measuring beside other libraries, held to made-up ones: no peer needs to be installed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recsys.errors import InputError
from scripts import bench_train
from scripts.peers import harness

FAKE = """
import json, os, sys
import numpy as np
length = int(sys.argv[2].removeprefix("--length="))
assert os.environ["OMP_NUM_THREADS"] == "1" and "PYTHONPATH" not in os.environ
print("a library that chats on standard output")
assert np.load(sys.argv[1])["offsets"][-1] == 300
if {fails!r} and length == 200:
    raise MemoryError("no room for the logits")
seconds = float(sys.argv[3].removeprefix("--seconds="))
found = dict(labels=int({rate} * seconds), seconds=seconds, steps=1, peak_memory_gb={memory} + length / 1000)
print(json.dumps(dict(found, differs=["pads"])))
"""


def fake(folder, name, rate, memory=1.0, fails=False, missing=None):
    script = folder / f"train_{name}.py"
    script.write_text(FAKE.format(rate=rate, memory=memory, fails=fails))
    return harness.Tool(name, script, Path(sys.executable), "1.2.3", missing)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "events.npz"
    np.savez(path, offsets=[0, 100, 300], ids=np.zeros(300, dtype=np.int32), items=7)
    return path


def test_ratios_are_of_the_best_peer_and_of_the_leanest(tmp_path, data, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    tools = [
        fake(tmp_path, "recsys", 900, memory=0.3),
        fake(tmp_path, "fast", 300, memory=2.0),
        fake(tmp_path, "lean", 100, memory=0.8, fails=True),
        fake(tmp_path, "absent", 5000, missing="cannot be installed: no such version"),
    ]
    tallies = harness.measure(tools, data, (50, 200), seconds=10.0, rounds=2)
    assert tallies["fast", 50].labels == 3000 and tallies["fast", 50].seconds == 10.0  # both rounds
    found = harness.figures("recsys", tools, tallies, (50, 200))
    assert found["speedup_vs_best_peer_len50"] == 3.0
    assert found["speedup_vs_best_peer_len200"] == 3.0  # `absent` is not the best, `lean` fails there
    assert found["peak_memory_ratio_vs_best_peer"] == pytest.approx(0.35 / 0.85, abs=1e-3)  # the worse of the two
    assert found["lean_positions_per_cpu_second_len50"] == 100
    assert found["lean_positions_per_cpu_second_len200"] is None and found["lean_peak_memory_gb_len200"] is None
    assert found["lean_reason"] == "failed at length 200: MemoryError: no room for the logits"
    assert found["absent_reason"] == "cannot be installed: no such version"
    assert found["fast_reason"] is None and found["fast_version"] == "1.2.3" and found["fast_differs"] == "pads"
    shown = harness.table("recsys", tools, found, (50, 200))
    assert "no room for the logits" in shown and "3.0x at length 200" in shown


def test_no_peer_gives_no_ratio(tmp_path, data):
    tools = [fake(tmp_path, "recsys", 900), fake(tmp_path, "absent", 1, missing="cannot be installed")]
    found = harness.figures("recsys", tools, harness.measure(tools, data, (50,), 1.0, 1), (50,))
    assert found["recsys_positions_per_cpu_second_len50"] == 900
    assert found["speedup_vs_best_peer_len50"] is None and found["peak_memory_ratio_vs_best_peer"] is None


def test_a_python_that_is_missing_is_a_reason(tmp_path, data):
    tool = harness.Tool("gone", tmp_path / "train_gone.py", tmp_path / "bin" / "python", "1")
    assert "No such file" in harness.run_once(tool, data, 50, 1.0)["reason"]


def test_the_environment_is_made_once_for_each_list(tmp_path, monkeypatch):
    made = []

    def install(folder, python, wanted):
        made.append(list(wanted.values()))
        folder.mkdir(exist_ok=True)
        (folder / "pyvenv.cfg").touch()
        return {"other-lib": "cannot be installed: needs another Python"}

    monkeypatch.setattr(harness, "_install", install)
    listed = tmp_path / "requirements.txt"
    listed.write_text("# why\ntorch==2.0\nrectools[torch]==0.1\nother-lib==3\n")
    first = harness.peer_environment(tmp_path / "env", listed)
    assert [(t.name, t.version, t.missing) for t in first] == [
        ("rectools", "0.1", None),
        ("other", "3", "cannot be installed: needs another Python"),
    ]
    assert first[0].script.name == "train_rectools.py" and first[0].python == tmp_path / "env" / "bin" / "python"
    assert harness.peer_environment(tmp_path / "env", listed) == first
    assert made == [["torch==2.0", "rectools[torch]==0.1", "other-lib==3"]]
    listed.write_text("torch==2.0\nrectools[torch]==0.2\n")
    assert [t.version for t in harness.peer_environment(tmp_path / "env", listed)] == ["0.2"]
    assert len(made) == 2


def test_peers_that_do_not_go_together_are_tried_one_by_one(tmp_path, monkeypatch):
    asked = []

    def pip(python, requirements):
        asked.append(requirements)
        return "cannot be installed: conflict" if "b==2" in requirements else None

    monkeypatch.setattr(harness, "_pip", pip)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: None)
    wanted = {"torch": "torch==1", "a": "a[torch]==1", "b": "b==2"}
    assert harness._install(tmp_path, tmp_path / "python", wanted) == {"b": "cannot be installed: conflict"}
    assert asked == [["torch==1", "a[torch]==1", "b==2"], ["torch==1", "a[torch]==1"], ["torch==1", "b==2"]]


def test_a_folder_in_use_or_inside_the_repository_is_refused(tmp_path):
    with pytest.raises(InputError, match="inside the repository"):
        harness.peer_environment(harness.ROOT / "peers-env")
    (tmp_path / "letters.txt").touch()
    with pytest.raises(InputError, match="holds something else"):
        harness.peer_environment(tmp_path)


def test_every_listed_peer_is_exact_and_has_its_script():
    wanted = harness.read_requirements()
    assert set(wanted) == {"torch", "rectools", "replay-rec", "sequifier"}
    assert "://" not in harness.REQUIREMENTS.read_text()
    for name, line in wanted.items():
        assert line.count("==") == 1
        assert name == "torch" or (harness.HERE / f"train_{name.split('-')[0]}.py").is_file()


def test_our_side_counts_labels_without_padding(tmp_path):
    """Every sequence has 9 events, so a window has 8 labels however wide the batch."""
    path = tmp_path / "events.npz"
    rows = 300
    ids = np.arange(rows * 9, dtype=np.int32) % 40
    np.savez(path, offsets=np.arange(rows + 1) * 9, ids=ids, items=40)
    ours = harness.Tool("recsys", harness.HERE / "train_recsys.py", Path(sys.executable), "1")
    found = harness.run_once(ours, path, length=16, seconds=0.05)
    assert "reason" not in found, found
    assert found["seconds"] >= 0.05 and 0.05 < found["peak_memory_gb"] < 8
    whole, rest = divmod(found["labels"], 8)
    assert rest == 0 and (found["steps"] - 1) * 44 <= whole <= found["steps"] * 128


def test_the_command_writes_the_published_names(tmp_path, monkeypatch, capsys):
    for name, rate in (("recsys", 500), ("peer", 200)):
        fake(tmp_path, name, rate)
        script = tmp_path / f"train_{name}.py"
        script.write_text(script.read_text().replace("== 300", "> 300"))
    peer = harness.Tool("peer", tmp_path / "train_peer.py", Path(sys.executable), "7")
    monkeypatch.setattr(harness, "peer_environment", lambda folder: [peer])
    monkeypatch.setattr(harness, "HERE", tmp_path)
    monkeypatch.setattr(
        bench_train, "measure_naive", lambda users, seconds: {"speedup_vs_naive_len50": users + seconds}
    )
    out = tmp_path / "figures.json"
    arguments = ["--peers", "--peers-env", str(tmp_path / "env"), "--users", "60", "--seconds", "1", "--json", str(out)]
    assert bench_train.main(arguments) in (None, 0)
    figures = json.loads(out.read_text())
    assert figures["speedup_vs_best_peer_len50"] == figures["speedup_vs_best_peer_len200"] == 2.5
    assert figures["peak_memory_ratio_vs_best_peer"] == 1.0 and figures["peer_version"] == "7"
    assert figures["speedup_vs_naive_len50"] == 61, "the naive way is measured in the same run"
    assert "2.5x at length 50" in capsys.readouterr().out


def test_peers_without_a_folder_are_refused(capsys):
    with pytest.raises(SystemExit):
        bench_train.main(["--peers"])
    assert "--peers-env" in capsys.readouterr().err

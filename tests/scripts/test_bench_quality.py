"""The quality benchmark on a small table: its split, its figures against ranks counted by hand, and its peer."""

import json
import lzma
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.errors import InputError
from scripts import bench_quality as bench
from scripts.peers import harness

CONFIG = """
split: {rule: leave_last, by: user_id}
etl: {categorical: {item_id: {}}, continuous: {}, text: []}
model:
  max_length: 8
  inputs: {embedding_size: 16, fusion: sum, fusion_size: 16, dropout: 0.0}
  backbone: {name: sasrec, hidden_size: 16, num_layers: 1, num_heads: 1}
  loss: {name: cross_entropy}
  auxiliary: []
training: {epochs: 2, batch_size: 16, learning_rate: 0.01}
evaluation: {bootstrap_samples: 20}
"""

PEER = """
import json, sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
assert sys.argv[2:] == ["--seed=0", "--minutes=40.0"] and (folder / "train.parquet").is_file()
np.savez(folder / "rectools-0.npz", ranks=np.array([1] * 30 + [0] * 30))
print("a library that chats")
(folder / "rectools-0.json").write_text(json.dumps({"flags": sys.argv[2:], "cpu_seconds": 60.0}))
"""


@pytest.fixture
def sequences(tmp_path):
    """Sixty users who walk round a ring of 15 items."""
    lines = [" ".join([f"u{user}", *(f"i{(user + step) % 15}" for step in range(6))]) for user in range(60)]
    path = tmp_path / "ring.txt.xz"
    path.write_bytes(lzma.compress("\n".join(lines).encode()))
    return path


def test_lines_become_events_in_their_order(sequences):
    events = bench.read_sequences(sequences)
    assert events.height == 360
    first = events.filter(pl.col("user_id") == "u3").sort("timestamp")
    assert first["item_id"].to_list() == ["i3", "i4", "i5", "i6", "i7", "i8"]
    assert first["session_id"].unique().to_list() == ["u3"]


@pytest.mark.parametrize(("text", "words"), [("", "no line"), ("a 1\na 2\n", "line 2"), ("a 1\nb\n", "no item")])
def test_a_bad_table_is_refused_by_its_line(tmp_path, text, words):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        bench.read_sequences(path)


def test_the_peer_is_given_the_same_split(sequences, tmp_path):
    users = bench.write_splits(bench.read_sequences(sequences), tmp_path / "splits")
    test, val, train = (pl.read_parquet(tmp_path / "splits" / f"{name}.parquet") for name in ("test", "val", "train"))
    assert users.tolist() == test["user_id"].to_list() == sorted(users)
    assert (len(test), len(val), len(train)) == (60, 60, 240)
    assert test.filter(pl.col("user_id") == "u3")["item_id"].to_list() == ["i8"]
    assert val.filter(pl.col("user_id") == "u3")["item_id"].to_list() == ["i7"]


def test_figures_are_means_over_users_and_seeds():
    line = bench.Line("x", [np.array([1, 0, 2, 11]), np.array([1, 1, 0, 0])], [60.0, 180.0])
    found = line.figures(np.array(["a", "b", "c", "d"]))
    assert found["recall@10_seeds"] == [0.5, 0.5]
    assert found["ndcg@10"] == pytest.approx((1 + 1 / np.log2(3) + 1 + 1) / 8)
    assert found["cpu_minutes"] == 2.0
    low, high = found["ndcg@10_interval"]
    assert 0 <= low < found["ndcg@10"] < high <= 1


def test_ours_and_the_peer_end_in_one_table(sequences, tmp_path, monkeypatch, capsys):
    config = tmp_path / "ring.yaml"
    config.write_text(CONFIG)
    peer = tmp_path / "peer.py"
    peer.write_text(PEER)
    tool = harness.Tool("rectools", peer, Path(sys.executable), "1.2.3")
    monkeypatch.setattr(bench, "peer_environment", lambda folder: [tool])
    monkeypatch.setattr(bench, "PEER", peer)
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    flags = ["--sequences", str(sequences), "--config", str(config), "--seeds", "0", "1", "--out", str(out)]
    flags += ["--peers-env", str(tmp_path / "peers"), "--json", str(figures)]
    assert bench.main(flags) in (None, 0)
    found = json.loads(figures.read_text())
    assert len(found["ring"]["recall@10_seeds"]) == 2
    own = [json.loads((out / f"ring-{seed}" / "metrics.json").read_text()) for seed in (0, 1)]
    recalls = [metrics["splits"]["test"]["positions"]["all"]["model"]["recall@10"] for metrics in own]
    assert found["ring"]["recall@10_seeds"] == pytest.approx(recalls)
    histories = [json.loads((out / f"ring-{seed}" / "history.json").read_text()) for seed in (0, 1)]
    line = bench.our_line("ring", [bench.configuration(config, [], seed) for seed in (0, 1)], out / "dataset", out)
    assert line.cpu_seconds == [h["cpu_seconds"] + h["validation_cpu_seconds"] for h in histories]
    assert all(h["validation_cpu_seconds"] > 0 for h in histories)
    assert found["RecTools 1.2.3 SASRec"]["recall@10"] == 0.5
    assert "| ring | 2 |" in capsys.readouterr().out
    peer.write_text("raise SystemExit(3)")
    capsys.readouterr()
    assert bench.main(flags) in (None, 0)  # nothing is trained again
    assert "trained" not in capsys.readouterr().err
    assert bench.main([*flags, "--minutes", "5"]) not in (None, 0)
    assert "ended with 3" in capsys.readouterr().err
    # The same settings on another table: every run is trained again, ours and the peer's.
    lines = lzma.decompress(sequences.read_bytes()).decode().replace("i14", "i0")
    sequences.write_bytes(lzma.compress(lines.encode()))
    assert bench.main(flags) not in (None, 0)
    printed = capsys.readouterr().err
    assert printed.count("trained again, since it was made from another dataset") == 2
    assert "trained again, since flags or data are others" in printed and "ended with 3" in printed
    peer.write_text(PEER)
    assert bench.main(flags) in (None, 0)
    assert json.loads(figures.read_text())["ring"]["recall@10_seeds"] != found["ring"]["recall@10_seeds"]
    peer.write_text("raise SystemExit(3)")
    assert bench.main(flags) in (None, 0)

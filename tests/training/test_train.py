import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from recsys.build import build_model
from recsys.config import RunConfig, save_config
from recsys.errors import InputError, RunError, TrainingError
from recsys.schema import Schema
from recsys.training import train
from tests.training.conftest import schema, tiny_config, write_dataset

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("run_train.py")


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """A run of two epochs."""
    return train(dataset, tiny_config(), tmp_path_factory.mktemp("finished") / "run")


def assert_same(left, right):
    ours, theirs = load_file(left), load_file(right)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def start(dataset, config, out, *flags, launcher=()):
    config_file = out.with_suffix(".yaml")
    save_config(config, config_file)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(SCRIPT), str(dataset), str(config_file), str(out), *flags]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_the_run_directory_holds_what_a_run_saves(finished, dataset):
    assert finished.load_config() == tiny_config()
    assert finished.load_schema() == schema()
    assert (finished.workflow / "items.parquet").is_file()
    environment = finished.read_json(finished.environment_file)
    assert environment["seed"] == 0 and len(environment["dataset"]["sha256"]) == 64
    assert environment["versions"]["torch"] == torch.__version__
    assert sorted(p.name for p in finished.path.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "environment.json",
        "history.json",
        "memory.json",
        "model.safetensors",
        "schema.json",
        "workflow",
    ]


def test_a_text_table_trains_as_a_frozen_stream(dataset, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(23, 6)).astype(np.float32)
    vectors[:3] = 0
    np.save(tmp_path / "text.npy", vectors)
    config = tiny_config(max_steps=3)
    config.model.inputs.text_table = str(tmp_path / "text.npy")
    run = train(dataset, config, tmp_path / "run")
    assert run.load_schema()["text"].dimension == 6
    assert (load_file(run.weights)["inputs.pretrained.table"].numpy() == vectors).all()


def test_nothing_pickled_but_what_resuming_reads(finished):
    names = {p.name for p in finished.checkpoints.rglob("*") if p.is_file()}
    assert names == {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}


def test_the_weights_load_into_the_configured_model(finished):
    items = pl.read_parquet(finished.workflow / "items.parquet")
    model = build_model(finished.load_config().model, finished.load_schema(), items)
    saved = load_file(finished.weights)
    model.load_state_dict(saved, strict=True)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_history_counts_epochs_labels_and_the_best_step(finished, dataset):
    history = finished.read_json(finished.history_file)
    frame = pl.read_parquet(dataset / "train")
    # Every event but a sequence's first is a label once an epoch, unless it is unknown.
    labels = sum(sum(item >= 3 for item in items[1:]) for items in frame["item_id"].to_list())
    assert history["label_positions"] == 2 * labels
    assert [round(v["epoch"], 6) for v in history["validation"]] == [1.0, 2.0]
    best = max(history["validation"], key=lambda v: v["ndcg@10"])
    assert history["best_step"] == best["step"]
    assert_same(finished.weights, finished.checkpoints / f"checkpoint-{best['step']}" / "model.safetensors")
    assert history["train"][-1]["step"] == history["steps"]
    assert history["label_positions_per_cpu_second"] == pytest.approx(2 * labels / history["cpu_seconds"])


def test_training_learns(finished):
    losses = [record["item_loss"] for record in finished.read_json(finished.history_file)["train"]]
    assert losses[-1] < 0.9 * losses[0]


def test_the_same_seed_gives_the_same_weights_and_another_one_others(finished, dataset, tmp_path):
    again = train(dataset, tiny_config(), tmp_path / "again")
    assert_same(finished.weights, again.weights)
    config = tiny_config()
    config.seed = 1
    other = load_file(train(dataset, config, tmp_path / "other").weights)
    ours = load_file(finished.weights)
    assert not torch.equal(ours["heads.item_id.weight"], other["heads.item_id.weight"])


def test_killed_and_resumed_ends_with_the_same_weights(dataset, tmp_path):
    config = tiny_config(epochs=25, save_steps=5, evaluate_steps=60, patience=None)
    whole = train(dataset, config, tmp_path / "whole")
    killed = tmp_path / "killed"
    process = start(dataset, config, killed)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "checkpoint-35" / "trainer_state.json").is_file():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (killed / "model.safetensors").exists()
    resumed = train(dataset, config, killed, resume=True)
    steps = whole.read_json(whole.history_file)["steps"]
    assert_same(whole.weights, resumed.weights)
    last = f"checkpoints/checkpoint-{steps}"
    assert_same(whole.path / last / "model.safetensors", resumed.path / last / "model.safetensors")
    expected, found = whole.read_json(whole.history_file), resumed.read_json(resumed.history_file)
    assert found["validation_cpu_seconds"] > 0
    timeless = ("step", "epoch", "loss", "recall@10", "ndcg@10")
    assert [[r[k] for k in timeless] for r in found["validation"]] == [
        [r[k] for k in timeless] for r in expected["validation"]
    ]
    timeless = ("step", "epoch", "loss", "item_loss", "learning_rate", "grad_norm", "label_positions")
    assert [[r[k] for k in timeless] for r in found["train"]] == [[r[k] for k in timeless] for r in expected["train"]]


def test_a_half_written_checkpoint_is_passed_over(dataset, tmp_path):
    config = tiny_config(save_steps=5)
    run = train(dataset, config, tmp_path / "run")
    expected = tmp_path / "expected.safetensors"
    run.weights.rename(expected)
    newest = max(run.checkpoints.iterdir(), key=lambda p: int(p.name.split("-")[1]))
    state = (newest / "trainer_state.json").read_text()
    (newest / "trainer_state.json").write_text(state[: len(state) // 2])
    assert_same(expected, train(dataset, config, run.path, resume=True).weights)


def test_resuming_a_finished_run_changes_nothing(finished, dataset):
    before = {p: p.stat().st_mtime_ns for p in finished.path.rglob("*")}
    train(dataset, tiny_config(), finished.path, resume=True)
    assert before == {p: p.stat().st_mtime_ns for p in finished.path.rglob("*")}


def test_an_existing_folder_is_not_touched_unasked(finished, dataset, tmp_path):
    with pytest.raises(InputError, match="holds a finished run; choose another --out or pass --overwrite"):
        train(dataset, tiny_config(), finished.path)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished.path, unfinished)
    (unfinished / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"unfinished run; pass --resume .* or pass --overwrite"):
        train(dataset, tiny_config(), unfinished)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("dear to me")
    with pytest.raises(InputError, match="is no run directory"):
        train(dataset, tiny_config(), tmp_path / "other", overwrite=True)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "dear to me"


def test_overwrite_starts_anew(finished, dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished.path, copy)
    (copy / "metrics.json").write_text("{}")
    run = train(dataset, tiny_config(epochs=1), copy, overwrite=True)
    assert not run.metrics_file.exists()
    assert run.load_config().training.epochs == 1


def test_resuming_with_another_configuration_names_the_first_key(finished, dataset):
    config = tiny_config(learning_rate=0.02)
    config.model.max_length = 13
    with pytest.raises(RunError, match=r"cannot resume: model\.max_length is 12 there and 13 now"):
        train(dataset, config, finished.path, resume=True)


def test_resuming_on_other_data_is_refused(finished, tmp_path):
    with pytest.raises(RunError, match=r"column 'item_id' has 24 classes, the run was trained with 23"):
        train(write_dataset(tmp_path / "wider", items=21), tiny_config(), finished.path, resume=True)
    with pytest.raises(RunError, match="have changed since it started"):
        train(write_dataset(tmp_path / "other", seed=1), tiny_config(), finished.path, resume=True)


def test_resuming_with_another_text_table_at_the_same_place_is_refused(dataset, tmp_path):
    config, vectors, table = tiny_config(), np.ones((schema().item().num_ids(), 4), np.float32), tmp_path / "text.npy"
    vectors[: schema().item().first_id] = 0
    np.save(table, vectors)
    config.model.inputs.text_table = str(table)
    run = train(dataset, config, tmp_path / "run")
    np.save(table, 2 * vectors)
    with pytest.raises(RunError, match=r"cannot resume: .*text.npy is not what it was when the run started"):
        train(dataset, config, run.path, resume=True)


def test_a_checkpoint_of_another_schema_is_refused_in_one_line(finished, dataset, tmp_path):
    wide = train(write_dataset(tmp_path / "wide", items=21), tiny_config(epochs=1), tmp_path / "wide_run")
    copy = tmp_path / "copy"
    shutil.copytree(finished.path, copy)
    (copy / "model.safetensors").unlink()
    shutil.rmtree(copy / "checkpoints")
    shutil.copytree(wide.checkpoints, copy / "checkpoints")
    with pytest.raises(RunError, match=r"belongs to another schema or model: .* is \[24.*needs \[23") as caught:
        train(dataset, tiny_config(), copy, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["folder", "sequences"])
def test_without_validation_it_trains_to_the_end_and_says_so(tmp_path, capsys, missing):
    data = write_dataset(tmp_path / "data", val=0)
    if missing == "folder":
        shutil.rmtree(data / "val")
    run = train(data, tiny_config(epochs=1, patience=1), tmp_path / "run")
    history = run.read_json(run.history_file)
    assert history["validation"] == [] and history["best_step"] == history["steps"]
    assert_same(run.weights, run.checkpoints / f"checkpoint-{history['steps']}" / "model.safetensors")
    assert "no validation split" in capsys.readouterr().err


def test_it_stops_once_patience_is_used_up_and_keeps_the_best(dataset, tmp_path):
    # At this rate quality cannot rise for long.
    config = tiny_config(epochs=40, learning_rate=0.5, max_grad_norm=0.0, schedule="constant", patience=2)
    run = train(dataset, config, tmp_path / "run")
    history = run.read_json(run.history_file)
    values = [v["ndcg@10"] for v in history["validation"]]
    assert len(values) < 40
    assert len(values) == values.index(max(values)) + 1 + 2
    assert history["best_step"] == history["validation"][values.index(max(values))]["step"]
    assert_same(run.weights, run.checkpoints / f"checkpoint-{history['best_step']}" / "model.safetensors")
    # Killed between the stop and the end: it must not train on.
    (run.path / "model.safetensors").rename(tmp_path / "expected.safetensors")
    resumed = train(dataset, config, run.path, resume=True)
    assert_same(tmp_path / "expected.safetensors", resumed.weights)
    assert resumed.read_json(run.history_file)["validation"] == history["validation"]


def test_no_sequence_of_two_events(tmp_path):
    data = write_dataset(tmp_path / "data", train=0)
    with pytest.raises(InputError, match="no sequence has two events"):
        train(data, tiny_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_configuration_that_does_not_build_leaves_the_old_run_alone(finished, dataset, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = sorted(finished.path.rglob("*"))
    for section, key, value in (
        ("model", "auxiliary", [{"column": "classificatio"}]),
        ("training", "precision", "float16"),
    ):
        config = tiny_config().model_dump()
        config[section][key] = value
        with pytest.raises(ValueError, match=r"did you mean 'classification'|float16 needs a GPU"):
            train(dataset, RunConfig.model_validate(config), finished.path, overwrite=True)
    assert sorted(finished.path.rglob("*")) == before


def test_a_loss_that_is_not_finite_names_step_and_checkpoint(dataset, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    frame = pl.read_parquet(data / "train" / "part-00000.parquet")
    spoilt = frame.with_columns(timestamp_interval=pl.col("timestamp_interval").list.eval(pl.element() * float("nan")))
    pl.concat([frame.head(59), spoilt.tail(1)]).write_parquet(data / "train" / "part-00000.parquet")
    with pytest.raises(TrainingError, match=r"step \d+: loss is nan on dataset rows .*(checkpoint-\d+|no checkpoint)"):
        train(data, tiny_config(save_steps=1), tmp_path / "run")


def test_tensorboard_is_written_into_the_run(dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(dataset, tiny_config(epochs=1, tensorboard=True), tmp_path / "run")
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    shown = events.Scalars("eval/ndcg@10")[-1]
    kept = run.read_json(run.history_file)["validation"][-1]
    assert shown.step == kept["step"] and shown.value == pytest.approx(kept["ndcg@10"])


@pytest.mark.slow
def test_two_processes_end_with_the_loss_and_weights_of_one(dataset, tmp_path):
    """One process that accumulates two batches a step sees the batches that two processes share."""

    def config(accumulation):
        made = tiny_config(epochs=2, accumulation=accumulation, max_grad_norm=0.5)
        made.model.inputs.dropout = made.model.backbone.residual_dropout = 0.0
        return made

    one = train(dataset, config(2), tmp_path / "one")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start(dataset, config(1), tmp_path / "two", launcher=launcher)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    expected = one.read_json(one.history_file)
    found = json.loads((tmp_path / "two" / "history.json").read_text())
    assert found["label_positions"] == expected["label_positions"]
    for kind in ("train", "validation"):
        assert [r["step"] for r in found[kind]] == [r["step"] for r in expected[kind]]
        for ours, theirs in zip(found[kind], expected[kind], strict=True):
            for name in {"loss", "item_loss", "recall@10"} & set(ours):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-5), (kind, name)
    ours, theirs = load_file(tmp_path / "two" / "model.safetensors"), load_file(one.weights)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)


def test_schema_file_is_required(tmp_path):
    with pytest.raises(ValueError, match=r"schema\.json: no such file"):
        train(tmp_path / "nowhere", tiny_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert isinstance(schema(), Schema)

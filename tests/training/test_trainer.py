from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from recsys.build import build_masking, build_model
from recsys.data.collate import Collator
from recsys.data.dataset import SequenceDataset, Windows
from recsys.data.windows import epoch_batches, training_windows
from recsys.errors import RunError, TrainingError
from recsys.run_directory import RunDirectory
from recsys.training.batches import BatchStream
from recsys.training.train import build_trainer, load_parts
from recsys.training.trainer import load_weights, save_weights
from tests.training.conftest import tiny_config


@dataclass(frozen=True)
class Halves(BatchStream):
    """The same stream with each batch cut in two parts of unequal size."""

    def epoch(self, number):
        parts = []
        for whole in super().epoch(number):
            cut = max(1, len(whole) // 3)
            parts += [whole[:cut], whole[cut:]] if len(whole) > 1 else [whole, whole[:0]]
        return parts


def without_dropout(**training):
    config = tiny_config(epochs=1, **training)
    config.model.inputs.dropout = config.model.backbone.residual_dropout = 0.0
    return config


def trained(dataset, config, folder, stream=None):
    trainer = build_trainer(load_parts(dataset, config), config, RunDirectory(folder))
    if stream is not None:
        old = trainer.stream
        trainer.stream = stream(old.dataset, old.max_length, old.config, old.seed)
    trainer.train()
    return trainer


def test_accumulated_parts_are_the_batch(dataset, tmp_path):
    """A mean of the parts' means would weigh the labels of the smaller part more."""
    whole = trained(dataset, without_dropout(max_steps=12), tmp_path / "whole")
    parts = trained(dataset, without_dropout(max_steps=12, accumulation=2), tmp_path / "parts", Halves)
    for (name, ours), theirs in zip(parts.model.named_parameters(), whole.model.parameters(), strict=True):
        if name == "inputs.fusion.qkv.bias":
            # Softmax does not feel a shift of all keys: that gradient is rounding noise, which Adam blows up.
            ours, theirs = (bias.view(3, -1)[[0, 2]] for bias in (ours, theirs))
        # Parts are padded otherwise than their batch, so sums are rounded otherwise, which Adam blows up to 2.6e-5 on
        # one weight of 256 (a mean of means differs by 6e-2).
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=5e-5, msg=lambda m, name=name: f"{name}: {m}")
    left, right = ([r["loss"] for r in t.state.log_history if "loss" in r] for t in (whole, parts))
    assert left == pytest.approx(right, rel=1e-5)
    assert whole.cost["label_positions"] == parts.cost["label_positions"]


def test_the_items_own_loss_is_logged_as_a_mean(dataset, tmp_path):
    """Of a single head it is the loss; class weights that are all alike change nothing, however large."""
    found = []
    for weight in (None, 10.0):
        config = without_dropout(max_steps=6)
        config.model.auxiliary = []
        classes = SequenceDataset.load(dataset, "train").schema.item()
        if weight is not None:
            config.model.loss.class_weights = [weight] * (classes.num_ids() - classes.first_id)
        records = [r for r in trained(dataset, config, tmp_path / f"{weight}").state.log_history if "item_loss" in r]
        assert [r["item_loss"] for r in records] == pytest.approx([r["loss"] for r in records], rel=1e-4)
        found.append([r["item_loss"] for r in records])
    assert found[0] == pytest.approx(found[1], rel=1e-3) and len(found[0]) > 0


def plain_loop(dataset, config):
    """The same training written out: a loop, AdamW, clipping, linear decay after warm-up."""
    data = SequenceDataset.load(dataset, "train")
    torch.manual_seed(config.seed)
    items = pl.read_parquet(dataset / "workflow" / "items.parquet")
    model = build_model(config.model, data.schema, items)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.training.learning_rate, fused=True)
    collate = Collator(data, list(model.heads), build_masking("causal"))
    epochs = []
    for epoch in range(2):
        rng = np.random.default_rng([config.seed, epoch])
        windows = training_windows(data, config.model.max_length, "random", rng)
        epochs += [windows[b] for b in epoch_batches(windows, rng, config.training.batch_size)]
    warmup = round(0.05 * len(epochs))
    for step, windows in enumerate(epochs):
        batch = collate(windows)
        share = (step + 1) / (warmup + 1) if step < warmup else 1 - (step - warmup) / (len(epochs) - warmup)
        for group in optimizer.param_groups:
            group["lr"] = config.training.learning_rate * share
        optimizer.zero_grad()
        model(batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def test_it_is_the_plain_loop(dataset, tmp_path):
    config = without_dropout()
    config.training.epochs = 2
    trainer = trained(dataset, config, tmp_path / "run")
    for (name, ours), theirs in zip(
        trainer.model.named_parameters(), plain_loop(dataset, config).parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)


def test_exactly_our_batches_reach_the_model(dataset, tmp_path):
    config = without_dropout()
    trainer = build_trainer(load_parts(dataset, config), config, RunDirectory(tmp_path / "run"))
    seen = [batch.row_id.tolist() for batch in trainer.get_train_dataloader()]
    assert seen == [windows.row.tolist() for windows in trainer.stream.epoch(0)]
    assert all(isinstance(windows, Windows) for windows in trainer.stream.epoch(0))


def test_bfloat16_trains_too(dataset, tmp_path):
    trainer = trained(dataset, without_dropout(precision="bfloat16", max_steps=30), tmp_path / "run")
    losses = [r["item_loss"] for r in trainer.state.log_history if "item_loss" in r]
    assert losses[-1] < losses[0]
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_weights_come_back_as_they_were(tmp_path):
    model = nn.Sequential(nn.Embedding(4, 3), nn.BatchNorm1d(3))
    save_weights(model, tmp_path / "w.safetensors")
    other = nn.Sequential(nn.Embedding(4, 3), nn.BatchNorm1d(3))
    load_weights(other, tmp_path / "w.safetensors")
    assert all(torch.equal(a, other.state_dict()[n]) for n, a in model.state_dict().items())


def test_weights_that_do_not_fit_or_read_are_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    save_weights(nn.Linear(2, 3), file)
    with pytest.raises(RunError, match=r"'weight' is \[3, 2\], the run needs \[3, 4\]"):
        load_weights(nn.Linear(4, 3), file)
    with pytest.raises(RunError, match="tensor 'bias' is in only one of the two"):
        load_weights(nn.Linear(2, 3, bias=False), file)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(RunError, match="not readable as weights"):
        load_weights(nn.Linear(2, 3), file)


def test_a_gradient_that_is_not_finite_stops_before_it_spoils_the_weights(dataset, tmp_path):
    """A finite loss may have a gradient that is not; the checkpoint that is named still is good."""
    config = without_dropout(max_steps=12, save_steps=4)
    trainer = build_trainer(load_parts(dataset, config), config, RunDirectory(tmp_path))
    weight = trainer.model.heads["item_id"].weight
    weight.register_hook(lambda grad: grad * float("nan") if trainer.state.global_step == 6 else grad)
    rows = r"\[\d+(, \d+)*\]"
    expected = rf"^step 7: gradient norm is nan on dataset rows {rows}; lower .* \(last good checkpoint: .*-4\)$"
    with pytest.raises(TrainingError, match=expected):
        trainer.train()
    assert torch.isfinite(weight).all()

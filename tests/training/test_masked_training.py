"""Training of models that hide what they predict, from a dataset to lists."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from recsys.build import build_model
from recsys.config import RunConfig
from recsys.data.dataset import SequenceDataset
from recsys.errors import ConfigError, InputError
from recsys.evaluation.ranking import rank_model
from recsys.run_directory import RunDirectory
from recsys.training.train import build_trainer, load_parts, train
from recsys.training.validation import Validator
from tests.training.conftest import ITEMS, item_table, schema, sequences, tiny_config, write_dataset

SIZES = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64}


def masked_config(masking: str, backbone: str, **training: object) -> RunConfig:
    values = tiny_config(**training).model_dump()
    values["model"] |= {"masking": masking, "backbone": {"name": backbone, **SIZES}, "max_length": 4, "auxiliary": []}
    values["model"]["masked"]["last_probability"] = 0.5
    values["model"]["loss"] = {"name": "cross_entropy"}
    values["model"]["inputs"] |= {"dropout": 0.0, "fusion": "sum", "streams": ["classification"]}
    return RunConfig.model_validate(values)


@pytest.fixture(scope="module")
def grammar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences enough to learn from: two of twenty items may follow each."""
    return write_dataset(tmp_path_factory.mktemp("grammar") / "data", train=300)


@pytest.mark.parametrize(
    ("masking", "backbone", "steps"),
    [("mlm", "bert", 500), ("span", "xlnet", 250), ("replaced", "t5", 250), ("permutation", "xlnet", 250)],
)
def test_it_learns_a_grammar_by_hiding_events(grammar, tmp_path, masking, backbone, steps):
    """The two items that may follow stand at the top of the list, where chance puts the true one once in ten times."""
    config = masked_config(
        masking, backbone, max_steps=steps, batch_size=32, learning_rate=0.005, patience=None, evaluate_steps=steps
    )
    trainer = build_trainer(load_parts(grammar, config), config, RunDirectory(tmp_path))
    trainer.train()
    held_out = SequenceDataset.from_frame(sequences(20, np.random.default_rng(9)), schema(), item_table())
    ranks = rank_model(trainer.model, held_out, config.model.max_length).ranks
    known = ranks > 0
    assert known.sum() > 100
    assert (ranks[known] <= 2).mean() > 0.6 == 6 * 2 / ITEMS


def test_the_same_seed_hides_the_same_events_also_after_a_stop(dataset, tmp_path):
    config = masked_config("mlm", "bert", max_steps=9, save_steps=4, patience=None)
    whole = train(dataset, config, tmp_path / "whole")
    stopped = build_trainer(load_parts(dataset, config), config, tmp_run(tmp_path / "stopped", whole))
    hook = stopped.model.heads["item_id"].weight.register_hook(lambda grad: stop(stopped))
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    hook.remove()
    resumed = train(dataset, config, tmp_path / "stopped", resume=True)
    ours, theirs = load_file(resumed.weights), load_file(whole.weights)
    assert "mask_vector" in ours
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def stop(trainer):
    if trainer.state.global_step == 6:
        raise KeyboardInterrupt


def tmp_run(folder, like):
    """A run directory as that of another run was before its first step."""
    run = RunDirectory(folder)
    folder.mkdir()
    for file in ("config.yaml", "schema.json", "environment.json"):
        (folder / file).write_bytes((like.path / file).read_bytes())
    return run


@torch.no_grad()
def test_validation_scores_the_last_event_of_every_sequence_from_its_own_history():
    data = SequenceDataset.from_frame(sequences(12, np.random.default_rng(0)), schema(), item_table())
    config = masked_config("mlm", "bert").model
    torch.manual_seed(0)
    model = build_model(config, schema(), item_table()).eval()
    ranked = rank_model(model, data, config.max_length)
    last = np.cumsum(data.lengths - 1) - 1
    ranks = ranked.ranks[last]
    figures = Validator(data, config.max_length, 4)(model)
    assert figures["recall@10"] == pytest.approx(np.mean((ranks > 0) & (ranks <= 10)))


@pytest.mark.parametrize(
    ("masking", "backbone", "fits"),
    [
        ("causal", "bert", "mlm, span, replaced"),
        ("final_value", "xlnet", "mlm, span, replaced, permutation"),
        ("mlm", "llama", "causal, causal_last, final_value, next_occurrence"),
        ("permutation", "bert", "mlm, span, replaced"),
    ],
)
def test_a_masking_that_does_not_fit_is_refused_with_those_that_do(dataset, tmp_path, masking, backbone, fits):
    config = masked_config(masking, backbone)
    with pytest.raises(ConfigError, match=f"^model.masking: '{masking}' does not fit .* it takes {fits}$"):
        train(dataset, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_split_of_unknown_items_only_is_refused(tmp_path):
    data = write_dataset(tmp_path / "data", train=5)
    file = data / "train" / "part-00000.parquet"
    pl.read_parquet(file).with_columns(item_id=pl.col("item_id").list.eval(pl.element() * 0 + 2)).write_parquet(file)
    with pytest.raises(InputError, match="split 'train': all items are unknown"):
        train(data, tiny_config(), tmp_path / "run")

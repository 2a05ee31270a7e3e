"""What holds for every backbone: padding, causality, gradients, positions, and a run from training to serving."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from recsys.build import build_masking
from recsys.config import RunConfig, parse
from recsys.data.collate import Collator
from recsys.data.dataset import SequenceDataset, Windows
from recsys.errors import InputError
from recsys.etl import preprocess
from recsys.evaluation import evaluate
from recsys.inference import load, recommend
from recsys.inference.scoring import hidden_states
from recsys.training import train
from recsys.training.train import load_parts
from tests.backbones.cases import BIDIRECTIONAL, CASES, LENGTH, SIZE, config_of, make, run
from tests.data.models import make_model
from tests.data.sequences import make_frame, make_items, make_schema
from tests.tiny_run import make_commands, make_config, make_events

every = pytest.mark.parametrize("case", CASES)


@every
def test_states_do_not_depend_on_padding_or_neighbours(case: str) -> None:
    model = make(case)
    vectors = torch.randn(3, LENGTH, SIZE)
    lengths = [LENGTH, 7, 1]
    together = run(model, vectors, lengths)
    spoiled = vectors.clone()
    for row, length in enumerate(lengths):
        spoiled[row, length:] = 100.0
    dirty = run(model, spoiled, lengths)
    for row, length in enumerate(lengths):
        alone = run(model, vectors[row : row + 1, :length], [length])
        torch.testing.assert_close(together[row, :length], alone[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(dirty[row, :length], alone[0], rtol=1e-4, atol=1e-5)


@every
def test_a_later_event_changes_an_earlier_state_exactly_where_the_model_says_so(case: str) -> None:
    model = make(case)
    assert model.is_causal == (case not in BIDIRECTIONAL)
    vectors = torch.randn(2, 9, SIZE)
    changed = vectors.clone()
    changed[:, 5:] += torch.randn(2, 4, SIZE)
    before, after = run(model, vectors, [9, 9]), run(model, changed, [9, 9])
    difference = (before - after).abs().amax(dim=(0, 2))  # [T]
    assert (difference[5:] > 1e-3).all()
    assert (difference[:5] < 1e-5).all() if model.is_causal else (difference[:5] > 1e-3).all()


@every
def test_order_matters(case: str) -> None:
    model = make(case)
    vectors = torch.randn(1, 6, SIZE)
    swapped = vectors[:, [1, 0, 2, 3, 4, 5]]
    assert (run(model, vectors, [6])[0, -1] - run(model, swapped, [6])[0, -1]).abs().max() > 1e-4


@every
def test_gradients_reach_every_parameter(case: str) -> None:
    model = make(case).train()
    lengths = torch.tensor([LENGTH, 5])
    hidden = run(model, torch.randn(2, LENGTH, SIZE), lengths)
    loss = (hidden * torch.randn_like(hidden))[torch.arange(LENGTH) < lengths[:, None]].sum()
    loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    still = {name for name, weight in model.named_parameters() if not weight.grad.any()}
    assert all(name.endswith(("k_proj.bias", "key.bias")) for name in still)  # softmax takes these out


RUNS = [(case, "mlm" if case in BIDIRECTIONAL else "causal") for case in CASES]


@pytest.mark.parametrize(("case", "masking"), [*RUNS, ("xlnet", "permutation")])
def test_a_step_of_training_reaches_every_parameter(case: str, masking: str) -> None:
    """Of the whole model: its inputs, the mask vector and the head too."""
    model = make_model(backbone=config_of(case).model_dump(), masking=masking, auxiliary=[]).train()
    data = SequenceDataset.from_frame(make_frame([12, 9, 14]), make_schema(), make_items(), times=True)
    windows = Windows(np.arange(len(data)), data.offsets[:-1], data.offsets[1:], draw=(0,))
    model(Collator(data, list(model.heads), build_masking(masking))(windows)).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    still = {name for name, weight in model.named_parameters() if not weight.grad.any()}
    assert all(name.endswith(("k_proj.bias", "key.bias")) for name in still)  # softmax takes these out


DROPOUTS = [(c, d) for c in CASES for d in ("residual_dropout", "attention_dropout") if config_of(c).knows(d)]


@pytest.mark.parametrize(("case", "dropout"), DROPOUTS)
def test_dropout_acts_in_training_only(case: str, dropout: str) -> None:
    model = make(case, **{dropout: 0.5})
    vectors = torch.randn(1, 6, SIZE)
    torch.testing.assert_close(run(model, vectors, [6]), run(make(case), vectors, [6]))
    model.train()
    assert (run(model, vectors, [6]) - run(model, vectors, [6])).abs().max() > 1e-3


@every
@torch.no_grad()
def test_half_precision_changes_little(case: str) -> None:
    model, vectors, lengths = make(case), torch.randn(2, LENGTH, SIZE), torch.tensor([LENGTH, 5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = run(model, vectors, lengths).float()
    kept = torch.arange(LENGTH) < lengths[:, None]
    full = run(model, vectors, lengths)[kept]
    assert (half[kept] - full).abs().mean() < 0.03 * full.abs().mean()


@every
def test_a_sequence_longer_than_the_positions_is_refused_in_a_line(case: str) -> None:
    with pytest.raises(InputError, match=rf"^a sequence of {LENGTH + 1} events, .* {LENGTH} positions; .*$"):
        run(make(case), torch.randn(1, LENGTH + 1, SIZE), [LENGTH + 1])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones") / "dataset"
    preprocess(make_events(sessions=30, longest=12), make_config(), folder, commands=make_commands())
    return folder


def configured(case: str, masking: str) -> RunConfig:
    config = make_config(max_length=6).model_dump(mode="json")
    config["model"] |= {"backbone": config_of(case).model_dump(mode="json"), "masking": masking}
    config["training"] |= {"max_steps": 2, "batch_size": 8, "learning_rate": 0.05}
    config["evaluation"] |= {"bootstrap_samples": 0}
    return parse(RunConfig, config, case)


@pytest.mark.parametrize(("case", "masking"), [*RUNS, ("xlnet", "permutation")])
def test_a_trained_run_loads_and_serves_what_evaluation_ranked(
    case: str, masking: str, dataset: Path, tmp_path: Path
) -> None:
    made = train(dataset, configured(case, masking), tmp_path / "run")
    loaded = load(made.path, device="cpu")
    saved = load_file(made.weights)
    state = loaded.model.state_dict()
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.items())
    trained = load_parts(dataset, configured(case, masking)).model.eval()
    trained.load_state_dict(saved)
    data = SequenceDataset.load(dataset, "test", times=True)
    newest = (data.offsets[:-1], np.minimum(data.lengths, loaded.max_length))
    assert torch.equal(hidden_states(loaded.model, data, *newest), hidden_states(trained, data, *newest))

    ranked = evaluate(loaded, dataset, baselines=False).predictions.filter(pl.col("rank_model") > 0)
    chosen = ranked.sort("position", "row")[:: max(1, len(ranked) // 12)]
    assert chosen["position"].max() > loaded.max_length  # the newest events alone are read
    events = make_events(sessions=30, longest=12)
    histories = [
        events.filter(pl.col("session_id") == session)[:before].with_columns(session_id=pl.lit(f"{session}-{before}"))
        for session, before in chosen.select("session_id", "position").iter_rows()
    ]
    lists = recommend(loaded, pl.concat(histories), k=50)
    names = loaded.item_names
    for session, before, target, top, rank in chosen.select(
        "session_id", "position", "target", "top1", "rank_model"
    ).iter_rows():
        served = lists.filter(pl.col("session_id") == f"{session}-{before}").sort("rank")["item_id"].to_list()
        assert served[0] == names[top]
        assert served.index(names[target]) + 1 == rank

"""Runs that look both ways: evaluation and recommendation give the same lists, those of one history at a time."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.data.dataset import SequenceDataset
from recsys.errors import ConfigError, RunError
from recsys.evaluation import Positions, evaluate, rank_model
from recsys.inference import LoadedRun, load, recommend
from tests.tiny_run import make_config, make_events, make_run, slow_rank

SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 32}
CASES = {
    "mlm": {"masking": "mlm", "backbone": {"name": "bert", **SIZES}},
    "permutation": {"masking": "permutation", "backbone": {"name": "xlnet", **SIZES}},
    "replaced": {"masking": "replaced", "backbone": {"name": "t5", **SIZES}},
}


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedRun, Path]:
    """A run with fresh weights, loaded from its directory, and its dataset."""
    folder = tmp_path_factory.mktemp(request.param)
    data, run = make_run(folder, make_events(sessions=30), make_config(**CASES[request.param]))
    return load(run, device="cpu"), data


@torch.no_grad()
def alone(run: LoadedRun, dataset: SequenceDataset, row: int, before: int) -> np.ndarray:
    """Scores ``[V]`` after a history: it alone, its vectors and what hides the next one put together by hand."""
    stop = int(dataset.offsets[row]) + before
    start = max(int(dataset.offsets[row]), stop - run.max_length)
    inputs = {n: torch.tensor(v[start:stop])[None] for n, v in dataset.columns.items()}
    inputs = {n: v.long() if v.dtype == torch.int32 else v for n, v in inputs.items()}
    vectors, length = run.model.inputs(inputs), torch.tensor([stop - start + 1])
    if run.model.mask_vector is not None:
        states = run.model.backbone(torch.cat([vectors, run.model.mask_vector[None, None]], dim=1), length)
    else:
        seen = torch.ones(1, int(length), int(length), dtype=torch.bool)
        seen[..., -1] = False
        padded = torch.cat([vectors, torch.randn(1, 1, vectors.shape[2])], dim=1)
        states = run.model.backbone(padded, length, attention_mask=seen)
    scores: np.ndarray = run.model.item_scores(states[:, -1])[0].numpy()
    return scores


def test_ranks_are_those_of_each_history_alone(made: tuple[LoadedRun, Path]) -> None:
    run, data = made
    dataset = SequenceDataset.load(data, "test")
    positions = Positions.of(dataset)
    ranked = rank_model(run.model, dataset, run.max_length, batch_size=7)
    assert (positions.before > run.max_length).any()
    chosen = np.random.default_rng(0).permutation(len(positions))[:60]
    for p in chosen.tolist():
        scores = alone(run, dataset, int(positions.row[p]), int(positions.before[p]))
        assert ranked.ranks[p] == slow_rank(scores, int(positions.target[p]), set())


def test_recommend_gives_the_list_that_evaluate_scored(made: tuple[LoadedRun, Path], tmp_path: Path) -> None:
    run, data = made
    table = evaluate(run, data, baselines=False, out=tmp_path).predictions
    events = make_events(sessions=30)
    chosen = table.sample(30, seed=0)
    histories = [
        events.filter(pl.col("session_id") == session).head(before).with_columns(session_id=pl.lit(f"p{n:03d}"))
        for n, (session, before) in enumerate(chosen.select("session_id", "position").iter_rows())
    ]
    lists = recommend(run, pl.concat(histories), k=10, batch_size=7)
    names = run.item_names
    for n, (target, top, rank) in enumerate(chosen.select("target", "top1", "rank_model").iter_rows()):
        mine = lists.filter(pl.col("session_id") == f"p{n:03d}")["item_id"].to_list()
        assert mine[0] == names[top]
        assert (mine[rank - 1] == names[target]) if 1 <= rank <= 10 else names[target] not in mine


def test_a_run_whose_backbone_would_see_its_labels_does_not_load(tmp_path: Path) -> None:
    _, run = make_run(tmp_path, make_events(sessions=12), make_config(**CASES["mlm"]))
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("masking: mlm", "masking: causal"))
    with pytest.raises((RunError, ConfigError), match="'causal' does not fit backbone 'bert'"):
        load(run)

"""A small sequence dataset and a run with fresh weights, for tests of what comes after training."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from recsys.build import build_model
from recsys.cleaning.rules import Rules
from recsys.config import RunConfig
from recsys.data.batch import Batch
from recsys.data.dataset import SequenceDataset
from recsys.etl import preprocess
from recsys.inference import LoadedRun, load
from recsys.recommender import Recommender
from recsys.run_directory import RunDirectory

MAX_LENGTH = 6


def make_events(sessions: int = 60, items: int = 14, seed: int = 0, longest: int = 25) -> pl.DataFrame:
    """Random sessions, three a user, of 1 to `longest` events over equally likely items."""
    rng = np.random.default_rng(seed)
    rows = []
    for session in range(sessions):
        time = 1_600_000_000_000_000 + session * 10**10
        for _ in range(int(rng.integers(1, longest + 1))):
            time += int(rng.integers(1, 90)) * 10**6
            item = f"command {rng.integers(items):02d}"
            rows.append((f"s{session:03d}", f"u{session // 3:02d}", item, time, int(rng.integers(1, 4))))
    columns = ["session_id", "user_id", "item_id", "timestamp", "merge_count"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def make_commands(items: int = 14) -> pl.DataFrame:
    """Attributes of the items of `make_events`."""
    names = [f"command {n:02d}" for n in range(items)]
    classes = [f"class {n % 3}" for n in range(items)]
    targets = [f"target {n % 2}" for n in range(items)]
    return pl.DataFrame({"item_id": names, "classification": classes, "target": targets})


def make_config(**model: object) -> RunConfig:
    """A model of a few thousand parameters that reads 6 events."""
    inputs = {"embedding_size": 8, "fusion_size": 16, "fusion_heads": 2}
    backbone = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 32}
    values = {"max_length": MAX_LENGTH, "inputs": inputs, "backbone": backbone, **model}
    return RunConfig.model_validate(
        {
            "split": {"rule": "every_nth", "every": 3, "by": "user_id"},
            "model": values,
            "evaluation": {"bootstrap_samples": 50, "batch_size": 7},
        }
    )


def make_run(folder: Path, events: pl.DataFrame | None = None, config: RunConfig | None = None) -> tuple[Path, Path]:
    """Write a dataset and a run with fresh, large weights (so that scores differ); returns their folders."""
    config, data = config or make_config(), folder / "dataset"
    preprocess(make_events() if events is None else events, config, data, commands=make_commands())
    run = RunDirectory(folder / "run")
    dataset = SequenceDataset.load(data, "train")
    run.create(config, dataset.schema, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config.model, dataset.schema, pl.read_parquet(data / "workflow" / "items.parquet"))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4.0)
    save_file(model.state_dict(), run.weights)
    return data, run.path


PROFILE = """
name: plain
grammar: plain
columns: {time: when, message: what, session: session}
times: [{format: epoch_s, example: '1600000000'}]
undo: {mode: keep}
"""
START = 1_600_000_000


def make_log_run(run: Path, copy: Path, dropped: Sequence[str] = (), profile: str = PROFILE) -> Path:
    """A copy of a run that holds a cleaning for raw logs (columns session, when, what); `dropped`: rare commands."""
    shutil.copytree(run, copy)
    (copy / "cleaning").mkdir()
    (copy / "cleaning" / "profile.yaml").write_text(profile)
    Rules(dropped_commands=list(dropped)).save(copy / "cleaning")
    return copy


def write_log(path: Path, sessions: Mapping[str, Sequence[str]]) -> None:
    """A raw log for `make_log_run`: the commands of each session, ten seconds apart."""
    lines = [f"{s},{START + 10 * i},{name}" for s, names in sessions.items() for i, name in enumerate(names)]
    path.write_text("\n".join(["session,when,what", *lines]) + "\n")


# Fixtures; the conftest.py of a folder that wants them imports them.


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a dataset and of a run."""
    return make_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def run(folders: tuple[Path, Path]) -> LoadedRun:
    """The run in memory, on the CPU."""
    return load(folders[1], device="cpu")


@pytest.fixture(scope="session")
def dataset(folders: tuple[Path, Path]) -> SequenceDataset:
    """The dataset's test split."""
    return SequenceDataset.load(folders[0], "test")


# Slow references.


@torch.no_grad()
def slow_scores(model: Recommender, dataset: SequenceDataset, row: int, before: int, max_length: int) -> np.ndarray:
    """Scores ``[V]`` after the first `before` events of a sequence: one unpadded history through the plain model."""
    stop = int(dataset.offsets[row]) + before
    start = max(int(dataset.offsets[row]), stop - max_length)
    inputs = {f"inputs.{name}": torch.tensor(v[start:stop])[None] for name, v in dataset.columns.items()}
    inputs = {k: v.long() if v.dtype == torch.int32 else v for k, v in inputs.items()}
    batch = Batch({**inputs, "lengths": torch.tensor([stop - start]), "row_id": torch.tensor([row])})
    scores: np.ndarray = model.item_scores(model.hidden(batch)[:, -1])[0].numpy()
    return scores


def slow_rank(scores: np.ndarray, target: int, gone: set[int], reserved: int = 3) -> int:
    """Rank by counting: 1 + other candidates at least as high; 0 where the target is no candidate."""
    if target < reserved or target in gone:
        return 0
    others = [i for i in range(reserved, len(scores)) if i != target and i not in gone]
    return 1 + sum(bool(scores[i] >= scores[target]) for i in others)


def constant_model(model: Recommender) -> Recommender:
    """The model with an output table of zeros: every item has the same score."""
    with torch.no_grad():
        head = model.heads[model.item]
        head.weight.zero_()
    return model

"""Measure a run on a split of its data, or on other people's events."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.baselines import Baseline, CountBaseline, LastItem, Markov1, Markov2, Popularity
from recsys.cleaning.streams import DEFAULT_MAX_BYTES
from recsys.config import EvaluationConfig
from recsys.data.dataset import SequenceDataset
from recsys.errors import InputError
from recsys.evaluation import protocol
from recsys.evaluation.ranking import LIST, Positions, Ranked, rank_baseline, rank_model
from recsys.evaluation.result import Evaluation
from recsys.inference.run import LoadedRun, load
from recsys.inference.sequences import read_sequences
from recsys.metrics import bootstrap_intervals, coverage, mean_reciprocal_popularity, position_metrics
from recsys.runtime import atomic_file
from recsys.schema import SESSION_ID

MODEL = "model"
FROM_COUNTS: dict[str, Callable[[int], CountBaseline]] = {"popularity": Popularity, "last_item": LastItem}
BASELINES: dict[str, Callable[[int], Baseline]] = {
    "popularity": Popularity,
    "markov1": Markov1,
    "markov2": Markov2,
    "last_item": LastItem,
}


def evaluate(
    run: LoadedRun | Path | str,
    data: Path | str,
    *,
    split: str = "test",
    config: EvaluationConfig | None = None,
    baselines: bool = True,
    out: Path | str | None = None,
) -> Evaluation:
    """Measure a run on a split of a sequence dataset, beside baselines fitted on its train split.

    Writes metrics.json and predictions.parquet into the run directory (for another split than test
    metrics.<split>.json and predictions.<split>.parquet), each whole or not at all.

    Args:
        run: a loaded run or its directory.
        data: the sequence dataset's folder.
        split: which split.
        config: the protocol; None: the run's own `evaluation` section.
        baselines: whether to measure popularity, Markov-1, Markov-2 and last item too; without a train split the
            first and the last, from the run's counts.
        out: another folder for the two files; without it `data` must be the dataset of the run's training.

    Raises:
        SchemaError: the data were not transformed with the run's workflow.
        RunError: the data are not those of the run's training, and no `out` is given.
        InputError: no such split, or no position in it.
    """
    loaded, data = run if isinstance(run, LoadedRun) else load(run), Path(data)
    dataset = SequenceDataset.load(data, split, loaded.config.model.backbone.needs_times)
    loaded.require_data(dataset.schema, data)
    if out is None:
        loaded.directory.require_own_data(data)
    rankers: dict[str, Baseline] = {}
    if baselines:
        train = SequenceDataset.load(data, "train")
        rankers = _fitted(train) if train.lengths.sum() else _fitted_on_counts(loaded)  # empty: new days alone
    source = protocol.dataset_source(data, split)
    evaluation = _measure(loaded, dataset, split, config or loaded.config.evaluation, rankers, source, str(data))
    suffix = "" if split == "test" else f".{split}"
    _write(evaluation, loaded, loaded.path if out is None else Path(out), suffix)
    return evaluation


def evaluate_events(
    run: LoadedRun | Path | str,
    events: Path | str | pl.DataFrame,
    *,
    config: EvaluationConfig | None = None,
    baselines: bool = True,
    train: Path | str | None = None,
    out: Path | str | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Evaluation:
    """Measure a run on other events than its own: every event of every session that has one before it.

    Items that the run does not know are unknown context, and misses as targets. Figures stand under the split
    `events`; files are written only where `out` says. Sessions of a raw log that cleaning leaves without an event are
    counted in the protocol and said on standard error.

    Args:
        run: a loaded run or its directory.
        events: as in `recommend`: cleaned events (folder, table, frame) or a raw log.
        config: the protocol; None: the run's own `evaluation` section.
        baselines: whether to measure baselines too. Without `train` these are popularity and last item, which need
            the training counts only.
        train: the sequence dataset that the run was trained on, to fit all baselines.
        out: a folder for metrics.json and predictions.parquet.
        max_bytes: cap on the decompressed size of a raw log.
    """
    loaded = run if isinstance(run, LoadedRun) else load(run)
    given = read_sequences(loaded, events, max_bytes)
    dataset = given.dataset
    rankers: dict[str, Baseline] = {}
    if baselines and train is not None:
        training = SequenceDataset.load(Path(train), "train")
        loaded.require_data(training.schema, train)
        rankers = _fitted(training)
    elif baselines:
        rankers = _fitted_on_counts(loaded)
    source = {**protocol.events_source(dataset), "emptied": given.emptied}
    name = "events" if isinstance(events, pl.DataFrame) else str(events)
    evaluation = _measure(loaded, dataset, "events", config or loaded.config.evaluation, rankers, source, name)
    if out is not None:
        _write(evaluation, loaded, Path(out), "")
    return evaluation


def _fitted(train: SequenceDataset) -> dict[str, Baseline]:
    """All baselines, fitted on the train split."""
    item = train.schema.item()
    size = item.first_id + item.num_values()
    return {name: make(item.first_id).fit(train.items, train.offsets, size) for name, make in BASELINES.items()}


def _fitted_on_counts(run: LoadedRun) -> dict[str, Baseline]:
    """The baselines that can be had from the run alone: its item table holds how often training saw each item."""
    item = run.schema.item()
    counts = run.workflow.items["count"].to_numpy()
    return {name: make(item.first_id).fit_counts(counts) for name, make in FROM_COUNTS.items()}


def _measure(
    run: LoadedRun,
    dataset: SequenceDataset,
    split: str,
    config: EvaluationConfig,
    rankers: dict[str, Baseline],
    source: dict[str, Any],
    name: str,
) -> Evaluation:
    positions = Positions.of(dataset)
    if not len(positions):
        raise InputError(f"{name}: split '{split}' has no event with another before it; there is nothing to score")
    model = rank_model(run.model, dataset, run.max_length, seen=config.seen, batch_size=config.batch_size)
    ranked = {MODEL: model}
    ranked |= {n: rank_baseline(b, dataset, seen=config.seen) for n, b in rankers.items()}
    # As numbers in the order of the names: the resamples are those of the names, in far less memory.
    groups = protocol.groups(dataset).rank("dense").to_numpy()
    figures = {
        "all": _figures(run, config, ranked, groups[positions.row], np.ones(len(positions), dtype=bool)),
        "last": _figures(run, config, ranked, groups[positions.row], positions.is_last),
    }
    described = protocol.describe(run, dataset, split, config, positions, model, list(rankers), source)
    metrics = {"protocol": described, "splits": {split: {"positions": figures}}}
    return Evaluation(metrics, _predictions(dataset, positions, ranked), split)


def _figures(
    run: LoadedRun, config: EvaluationConfig, ranked: dict[str, Ranked], groups: np.ndarray, chosen: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Every ranker's figures over the chosen positions; intervals of all of them from the same resamples."""
    item, counts = run.schema.item(), run.workflow.items["count"].to_numpy()
    values = {name: position_metrics(r.ranks[chosen], config.ks) for name, r in ranked.items()}
    columns = {f"{name}/{metric}": v for name, metrics in values.items() for metric, v in metrics.items()}
    intervals = {}
    if config.bootstrap_samples:
        intervals = bootstrap_intervals(columns, groups[chosen], config.bootstrap_samples, seed=run.config.seed)
    figures: dict[str, dict[str, Any]] = {}
    for name, metrics in values.items():
        top = ranked[name].top[chosen]
        figures[name] = {metric: float(v.mean()) for metric, v in metrics.items()}
        figures[name][f"coverage@{LIST}"] = coverage(top, item.num_values())
        if (top >= 0).any():
            popularity = mean_reciprocal_popularity(top, counts)
            figures[name][f"mean_reciprocal_popularity@{LIST}"] = popularity
        for metric in metrics:
            if intervals:
                figures[name][f"{metric}_interval"] = list(intervals[f"{name}/{metric}"])
    return figures


def _predictions(dataset: SequenceDataset, positions: Positions, ranked: dict[str, Ranked]) -> pl.DataFrame:
    groups = protocol.groups(dataset)
    columns = {
        "row": pl.Series(positions.row, dtype=pl.Int32),
        SESSION_ID: dataset.keys.take(positions.row),
        "group": groups.gather(positions.row),
        "position": pl.Series(positions.before, dtype=pl.Int32),
        "is_last": pl.Series(positions.is_last, dtype=pl.Boolean),
        "target": pl.Series(positions.target, dtype=pl.Int32),
        "top1": pl.Series(ranked[MODEL].top[:, 0], dtype=pl.Int32),
    }
    columns |= {f"rank_{name}": pl.Series(r.ranks, dtype=pl.Int32) for name, r in ranked.items()}
    return pl.DataFrame(columns)


def _write(evaluation: Evaluation, run: LoadedRun, folder: Path, suffix: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / f"predictions{suffix}.parquet") as work:
        evaluation.predictions.write_parquet(work)
    run.directory.write_json(folder / f"metrics{suffix}.json", evaluation.metrics)

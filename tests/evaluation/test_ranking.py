"""Ranks at every position against a slow reference that scores one history at a time and counts."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recsys.baselines import LastItem, Markov1, Markov2, Popularity
from recsys.data.dataset import SequenceDataset
from recsys.errors import InputError
from recsys.evaluation import Positions, rank_baseline, rank_model
from recsys.inference import LoadedRun, load
from recsys.metrics import ranking_metrics
from tests.data.sequences import select
from tests.tiny_run import constant_model, slow_rank, slow_scores


def history(dataset: SequenceDataset, row: int, before: int) -> list[int]:
    begin = int(dataset.offsets[row])
    items: list[int] = dataset.items[begin : begin + before].tolist()
    return items


def test_positions_are_every_event_but_the_first(dataset: SequenceDataset) -> None:
    positions = Positions.of(dataset)
    expected = [
        (row, before, before == n - 1, int(dataset.items[dataset.offsets[row] + before]))
        for row, n in enumerate(dataset.lengths.tolist())
        for before in range(1, n)
    ]
    found = zip(positions.row, positions.before, positions.is_last, positions.target, strict=True)
    assert [(int(a), int(b), bool(c), int(d)) for a, b, c, d in found] == expected
    assert 1 in dataset.lengths and max(dataset.lengths) > 12


def test_only_events_from_scored_from_on_are_positions_and_their_ranks_stay(
    run: LoadedRun, dataset: SequenceDataset
) -> None:
    scored = np.random.default_rng(0).integers(0, dataset.lengths + 3).astype(np.int32)
    told = replace(dataset, scored_from=scored)
    every, some = Positions.of(dataset), Positions.of(told)
    kept = every.before >= scored[every.row]
    assert 0 < kept.sum() < len(every)
    for name in ("event", "row", "before", "is_last", "target"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[kept])
    whole = rank_model(run.model, dataset, run.max_length, seen="remove")
    part = rank_model(run.model, told, run.max_length, seen="remove", batch_size=5)
    np.testing.assert_array_equal(part.ranks, whole.ranks[kept])
    np.testing.assert_array_equal(part.top, whole.top[kept])
    markov = Markov2().fit(dataset.items, dataset.offsets, len(run.item_names))
    np.testing.assert_array_equal(rank_baseline(markov, told).ranks, rank_baseline(markov, dataset).ranks[kept])


@pytest.mark.parametrize(("seen", "batch_size"), [("keep", 1), ("keep", 64), ("remove", 5)])
def test_model_ranks_equal_the_slow_reference(
    run: LoadedRun, dataset: SequenceDataset, seen: str, batch_size: int
) -> None:
    positions = Positions.of(dataset)
    ranked = rank_model(run.model, dataset, run.max_length, seen=seen, batch_size=batch_size)
    expected, tops = [], []
    for row, before, target in zip(positions.row, positions.before, positions.target, strict=True):
        scores = slow_scores(run.model, dataset, row, before, run.max_length)
        gone = set(history(dataset, row, before)) if seen == "remove" else set()
        expected.append(slow_rank(scores, int(target), gone))
        candidates = [i for i in range(3, len(scores)) if i not in gone]
        best = sorted(candidates, key=lambda i, s=scores: (-s[i], i))[:10]
        tops.append(best + [-1] * (10 - len(best)))
    assert ranked.ranks.tolist() == expected
    assert ranked.top.tolist() == tops
    assert len(set(expected)) > 8  # the reference is no constant


def test_result_does_not_depend_on_the_size_of_blocks(
    run: LoadedRun, dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rank_model(run.model, dataset, run.max_length, seen="remove")
    markov = Markov1().fit(dataset.items, dataset.offsets, len(run.item_names))
    baseline = rank_baseline(markov, dataset, seen="remove")
    monkeypatch.setattr("recsys.inference.scoring.BLOCK", 50)
    monkeypatch.setattr("recsys.evaluation.ranking.BLOCK", 50)
    np.testing.assert_array_equal(rank_model(run.model, dataset, run.max_length, seen="remove").ranks, whole.ranks)
    np.testing.assert_array_equal(rank_baseline(markov, dataset, seen="remove").ranks, baseline.ranks)


def test_ties_count_against_the_model(run: LoadedRun, dataset: SequenceDataset) -> None:
    model = constant_model(load(run.path, device="cpu").model)
    ranked = rank_model(model, dataset, run.max_length)
    items = len(run.item_names) - 3
    known = Positions.of(dataset).target >= 3
    assert set(ranked.ranks[known].tolist()) == {items}
    assert ranking_metrics(ranked.ranks, [items - 1])[f"recall@{items - 1}"] == 0.0


def test_unknown_targets_are_misses(run: LoadedRun, dataset: SequenceDataset) -> None:
    items = dataset.items.copy()
    items[::3], items[1::9] = 2, 1
    columns = {**dataset.columns, "item_id": items}
    spoiled = SequenceDataset(
        dataset.schema, dataset.offsets, columns, dataset.item_columns, dataset.keys, dataset.groups
    )
    target = Positions.of(spoiled).target
    popularity = Popularity().fit(dataset.items, dataset.offsets, len(run.item_names))
    for ranked in (rank_model(run.model, spoiled, run.max_length), rank_baseline(popularity, spoiled)):
        assert ((ranked.ranks == 0) == (target < 3)).all()
        assert (ranked.top[:, 0] >= 3).all()
    assert (target == 2).any() and (target == 1).any() and (target >= 3).any()


def test_model_keeps_its_mode_and_training_mode_does_not_matter(run: LoadedRun, dataset: SequenceDataset) -> None:
    expected = rank_model(run.model, dataset, run.max_length).ranks
    model = load(run.path, device="cpu").model.train()
    found = rank_model(model, dataset, run.max_length).ranks
    assert model.training
    np.testing.assert_array_equal(found, expected)


def test_broken_weights_are_an_error(run: LoadedRun, dataset: SequenceDataset) -> None:
    model = load(run.path, device="cpu").model
    with torch.no_grad():
        model.inputs.output.bias[0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        rank_model(model, dataset, run.max_length)


@pytest.mark.parametrize("kind", [Popularity, Markov1, Markov2, LastItem])
@pytest.mark.parametrize("seen", ["keep", "remove"])
def test_baseline_ranks_equal_the_slow_reference(
    kind: type[Popularity], seen: str, dataset: SequenceDataset, run: LoadedRun
) -> None:
    train = select(dataset, range(0, len(dataset), 2))
    baseline = kind().fit(train.items, train.offsets, len(run.item_names))
    ranked = rank_baseline(baseline, dataset, seen=seen)
    positions = Positions.of(dataset)
    unseen = set(range(len(run.item_names))) - set(train.items.tolist())
    for i in range(len(positions)):
        before = history(dataset, positions.row[i], positions.before[i])
        scores = baseline.scores([before[-2] if len(before) > 1 else 0], before[-1:])[0]
        gone = unseen | (set(before) if seen == "remove" else set())
        assert ranked.ranks[i] == slow_rank(scores, int(positions.target[i]), gone)


def test_frame_of_one_long_sequence_has_a_window_for_every_late_position(run: LoadedRun) -> None:
    names = (run.item_names[3:] * 10)[:100]
    events = pl.DataFrame({"session_id": "s", "item_id": names, "timestamp": range(100), "merge_count": 1})
    dataset = SequenceDataset.from_frame(run.workflow.transform(events), run.schema, run.workflow.items)
    ranked = rank_model(run.model, dataset, run.max_length, batch_size=16)
    assert len(ranked.ranks) == 99 and (ranked.ranks >= 1).all()

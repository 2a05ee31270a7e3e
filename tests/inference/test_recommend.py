"""Recommendations: the same list as evaluation, for every session, whatever else is asked at the same time."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import SequenceDataset
from recsys.errors import ConfigError
from recsys.evaluation import Positions, rank_model
from recsys.inference import LoadedRun, load, recommend
from tests.tiny_run import constant_model, make_events, slow_scores


def cut(events: pl.DataFrame, session: str, before: int, name: str) -> pl.DataFrame:
    """The first `before` events of a session, as a session of its own."""
    return events.filter(pl.col("session_id") == session).head(before).with_columns(session_id=pl.lit(name))


@pytest.mark.parametrize("seen", ["keep", "remove"])
def test_list_is_the_one_that_evaluation_scored(run: LoadedRun, dataset: SequenceDataset, seen: str) -> None:
    positions = Positions.of(dataset)
    ranked = rank_model(run.model, dataset, run.max_length, seen=seen, batch_size=5)
    chosen = np.random.default_rng(0).permutation(len(positions))[:40]
    events = make_events()
    histories = [
        cut(events, dataset.keys[positions.row[p]], int(positions.before[p]), f"p{p:05d}") for p in chosen.tolist()
    ]
    table = recommend(run, pl.concat(histories), k=10, seen=seen, batch_size=7)
    names = run.item_names
    for p in chosen.tolist():
        mine = table.filter(pl.col("session_id") == f"p{p:05d}")
        expected = [names[i] for i in ranked.top[p] if i >= 0]
        assert mine["item_id"].to_list() == expected
        assert mine["rank"].to_list() == list(range(1, len(expected) + 1))
        target, rank = names[positions.target[p]], int(ranked.ranks[p])
        if 1 <= rank <= len(expected):
            assert mine["item_id"][rank - 1] == target
        else:
            assert target not in expected


def test_scores_and_probabilities_are_those_of_the_plain_model(run: LoadedRun, dataset: SequenceDataset) -> None:
    events = make_events()
    table = recommend(run, events.filter(pl.col("session_id").is_in(dataset.keys)), k=100)
    assert table["session_id"].unique(maintain_order=True).to_list() == dataset.keys
    items = len(run.item_names) - 3
    for row, key in enumerate(dataset.keys):
        scores = slow_scores(run.model, dataset, row, int(dataset.lengths[row]), run.max_length)[3:].astype(np.float64)
        weights = np.exp(scores - scores.max())
        mine = table.filter(pl.col("session_id") == key)
        assert mine.height == items
        ids = [run.item_names.index(name) - 3 for name in mine["item_id"]]
        np.testing.assert_allclose(mine["score"], scores[ids], atol=1e-5)
        np.testing.assert_allclose(mine["probability"], (weights / weights.sum())[ids], atol=1e-6)
        assert mine["probability"].sum() == pytest.approx(1.0, abs=1e-5)


def test_answer_does_not_depend_on_other_sessions(run: LoadedRun) -> None:
    events = make_events(sessions=9, seed=3)
    together = recommend(run, events, k=4, batch_size=4)
    alone = [recommend(run, part, k=4) for part in events.partition_by("session_id", maintain_order=True)]
    apart = pl.concat(alone)
    columns = ["session_id", "rank", "item_id"]
    assert together.select(columns).equals(apart.select(columns))
    np.testing.assert_allclose(together["score"], apart["score"], atol=1e-5)


def test_only_the_newest_events_count(run: LoadedRun) -> None:
    events = cut(make_events(), "s000", 12, "long")
    other = events.with_columns(
        item_id=pl.when(pl.int_range(pl.len()) < 6).then(pl.lit("command 01")).otherwise("item_id")
    )
    lists = [recommend(run, e, k=5)["item_id"].to_list() for e in (events, other)]
    assert events.height == 12 and lists[0] == lists[1]
    newest = events.with_columns(
        item_id=pl.when(pl.int_range(pl.len()) == 11).then(pl.lit("command 01")).otherwise("item_id")
    )
    scores = [recommend(run, e, k=5)["score"].to_list() for e in (events, newest)]
    assert scores[0] != scores[1]


def test_session_of_unknown_items_gets_a_list(run: LoadedRun) -> None:
    events = pl.DataFrame(
        {
            "session_id": ['new, "quoted"\n🙂'] * 2,
            "item_id": ["never seen", "nor this"],
            "timestamp": [10**15, 10**15 + 5],
            "merge_count": [1, 1],
        }
    )
    table = recommend(run, events, k=3)
    assert table["session_id"].to_list() == ['new, "quoted"\n🙂'] * 3
    assert set(table["item_id"]) <= set(run.item_names[3:])


def test_equal_scores_are_listed_by_lowest_id(folders: tuple[Path, Path]) -> None:
    loaded = load(folders[1], device="cpu")
    constant_model(loaded.model)
    table = recommend(loaded, make_events(sessions=2), k=5)
    assert table["item_id"].to_list() == loaded.item_names[3:8] * 2
    np.testing.assert_allclose(table["probability"], 1 / (len(loaded.item_names) - 3), rtol=1e-6)


def test_list_is_shorter_where_the_catalogue_is(run: LoadedRun) -> None:
    names = run.item_names[3:]
    rows = [{"session_id": "s", "item_id": n, "timestamp": i, "merge_count": 1} for i, n in enumerate(names[2:])]
    table = recommend(run, pl.DataFrame(rows), k=50, seen="remove")
    assert sorted(table["item_id"]) == sorted(names[:2])
    assert recommend(run, pl.DataFrame(rows), k=50).height == len(names)
    with pytest.raises(ConfigError, match=r"k \(0\)"):
        recommend(run, pl.DataFrame(rows), k=0)


def test_run_may_be_given_as_a_path(folders: tuple[Path, Path], run: LoadedRun, tmp_path: Path) -> None:
    moved = shutil.copytree(folders[1], tmp_path / "run")
    events = make_events(sessions=3)
    assert recommend(moved, events).equals(recommend(run, events))

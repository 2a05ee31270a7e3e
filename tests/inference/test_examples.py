"""Examples show what stands in the data and what the model says, the same ones for the same seed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import SequenceDataset
from recsys.errors import InputError
from recsys.inference import LoadedRun, examples, recommend
from tests.data.sequences import select
from tests.tiny_run import make_events


def test_examples_are_true_to_data_and_model(run: LoadedRun, dataset: SequenceDataset) -> None:
    found = examples(run, dataset, n=6, k=4, seed=1)
    assert len(found) == 6 and len({e.session_id for e in found}) == 6
    events = make_events()
    for example in found:
        session = events.filter(pl.col("session_id") == example.session_id)
        names = session["item_id"].to_list()
        assert example.history == names[: example.position][-8:]
        assert example.truth == names[example.position]
        table = recommend(run, session.head(example.position), k=4)
        assert [name for name, _ in example.top] == table["item_id"].to_list()
        assert [p for _, p in example.top] == pytest.approx(table["probability"].to_list(), abs=1e-6)


def test_what_is_not_scored_is_not_shown_as_the_truth(run: LoadedRun, dataset: SequenceDataset) -> None:
    scored = np.random.default_rng(0).integers(1, dataset.lengths + 2).astype(np.int32)
    places = dict(zip(dataset.keys, scored.tolist(), strict=True))
    found = examples(run, replace(dataset, scored_from=scored), n=100)
    assert all(e.position >= places[e.session_id] for e in found)
    lengths = dict(zip(dataset.keys, dataset.lengths.tolist(), strict=True))
    assert {e.session_id for e in found} == {k for k in places if max(1, places[k]) < lengths[k]}


def test_same_seed_same_examples(folders: tuple[Path, Path], run: LoadedRun, dataset: SequenceDataset) -> None:
    first, again = examples(run, dataset, seed=3), examples(run, folders[0], seed=3)
    assert str(first) == str(again)
    assert str(first) != str(examples(run, dataset, seed=4))


def test_examples_show_themselves(run: LoadedRun, dataset: SequenceDataset) -> None:
    found = examples(run, dataset, n=2, k=3)
    text, page, frame = str(found), found._repr_html_(), found.frame()
    for example in found:
        assert example.truth in text and f"{example.top[0][1]:6.1%}" in text
        assert example.truth in page
    assert frame.height == 2 and frame["top"].list.len().to_list() == [3, 3]


def test_dataset_without_a_pair_of_events_is_refused(run: LoadedRun, dataset: SequenceDataset) -> None:
    with pytest.raises(InputError, match="no sequence of at least two events"):
        examples(run, select(dataset, []))

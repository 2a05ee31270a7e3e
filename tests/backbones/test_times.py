"""The times of events reach the backbone that asks for them, the same in training and in scoring."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.collate import Collator
from recsys.data.dataset import SequenceDataset, Windows
from recsys.errors import InputError
from recsys.inference.scoring import hidden_states
from recsys.nn.masking import causal
from recsys.recommender import Recommender
from tests.data.models import make_model
from tests.data.sequences import make_dataset, make_frame, make_items, make_schema, write_dataset

LENGTHS = [9, 5, 12]
HSTU = {"name": "hstu", "hidden_size": 16}


def timed_frame() -> pl.DataFrame:
    """Sequences whose events are at random times of some thirty years."""
    rng = np.random.default_rng(3)
    times = [np.sort(rng.integers(0, 10**15, n)).tolist() for n in LENGTHS]
    return make_frame(LENGTHS).with_columns(timestamp=pl.Series(times, dtype=pl.List(pl.Int64)))


@pytest.fixture(params=["frame", "folder"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> SequenceDataset:
    if request.param == "frame":
        return SequenceDataset.from_frame(timed_frame(), make_schema(), make_items(), times=True)
    return SequenceDataset.load(write_dataset(tmp_path, timed_frame()), "train", times=True)


def watch(model: Recommender, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The times that the backbone is given from now on."""
    seen: list[Tensor] = []
    plain = model.backbone.forward

    def forward(vectors: Tensor, lengths: Tensor, times: Tensor) -> Tensor:
        seen.append(times)
        return plain(vectors, lengths, times)

    monkeypatch.setattr(model.backbone, "forward", forward)
    return seen


def windows() -> Windows:
    """Events 2 .. 8 of the first sequence, the whole second, 1 .. 11 of the third."""
    return Windows(row=np.array([0, 1, 2]), start=np.array([2, 9, 15]), stop=np.array([9, 14, 26]))


def test_training_gives_each_input_its_own_time(dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(backbone=HSTU)
    seen = watch(model, monkeypatch)
    batch = Collator(dataset, ["item_id", "classification"], causal)(windows())
    model(batch)
    times = timed_frame()["timestamp"]
    for row, (begin, end) in enumerate([(2, 9), (0, 5), (1, 12)]):
        length = int(batch.lengths[row])
        assert length == end - begin - 1  # the last event is label only
        assert seen[0][row, :length].tolist() == times[row].to_list()[begin : end - 1]
    assert seen[0].dtype == torch.int64


def test_scoring_gives_each_event_its_own_time(dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(backbone=HSTU).eval()
    seen = watch(model, monkeypatch)
    chosen = windows()
    states = hidden_states(model, dataset, chosen.start, chosen.lengths)
    times = timed_frame()["timestamp"]
    for row, (begin, end) in enumerate([(2, 9), (0, 5), (1, 12)]):
        assert seen[0][row, : end - begin].tolist() == times[row].to_list()[begin:end]
    batch = Collator(dataset, ["item_id", "classification"], causal)(chosen)
    plain = model.hidden(batch)
    for row, length in enumerate(batch.lengths.tolist()):
        torch.testing.assert_close(states[row, :length], plain[row, :length], rtol=1e-4, atol=1e-5)


def test_times_are_loaded_where_they_are_asked_for_only(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, timed_frame())
    without = SequenceDataset.load(folder, "train")
    assert without.times is None and "times" not in Collator(without, ["item_id"], causal)(windows())
    both = [SequenceDataset.load(folder, "train", times=flag) for flag in (True, False, True)]
    assert both[0].times is not None and both[1].times is None
    assert both[2].times.tolist() == timed_frame()["timestamp"].explode().to_list()


def test_missing_times_are_said_in_a_line() -> None:
    model = make_model(backbone=HSTU).eval()
    data = make_dataset(LENGTHS)
    with pytest.raises(InputError, match="^the model reads the times of events; load .* times=True$"):
        hidden_states(model, data, windows().start, windows().lengths)
    batch = Collator(data, ["item_id", "classification"], causal)(windows())
    with pytest.raises(InputError, match="times=True"):
        model(Batch(batch))

"""What scripts/bench_data.py compares: both ways make the same batches of the dataset that it writes."""

from itertools import islice
from pathlib import Path

import polars as pl
import pytest
import torch

from recsys.build import build_masking
from recsys.data.collate import Collator
from recsys.data.dataset import SequenceDataset
from scripts import bench_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of the benchmark's kind."""
    return bench_data.write_dataset(tmp_path_factory.mktemp("bench") / "data", 30_000)


def test_the_dataset_is_as_large_as_asked_for(folder: Path) -> None:
    written = pl.read_parquet(folder / "train" / "*.parquet")
    events = int(written["item_id"].list.len().sum())
    assert 29_000 < events < 31_000
    assert len(SequenceDataset.load(folder, "train").items) == events


def test_both_ways_make_the_same_batches(folder: Path) -> None:
    data = SequenceDataset.load(folder, "train")
    collate = Collator(data, ["item_id", "classification"], build_masking("causal"))
    windows = list(islice(bench_data.stream_of(data, 50).from_batch(0), 4))
    for ours, naive in zip(map(collate, windows), bench_data.naive_batches(data, iter(windows)), strict=True):
        assert torch.equal(ours.lengths, naive["lengths"])
        real = torch.arange(int(ours.lengths.max())) < ours.lengths[:, None]
        for name in data.columns:
            assert torch.equal(ours[f"inputs.{name}"][real], naive[name][real])
        assert torch.equal(ours["labels.item_id.positions"], naive["positions"])
        assert torch.equal(ours["labels.item_id.targets"], naive["targets"])
        assert torch.equal(ours["labels.classification.targets"], naive["classes"])


def test_figures_are_named_and_positive(folder: Path) -> None:
    figures = bench_data.measure_batches(SequenceDataset.load(folder, "train"), 50, 0.05)
    assert list(figures) == [
        "events_per_cpu_second_len50",
        "naive_events_per_cpu_second_len50",
        "speedup_vs_naive_len50",
    ]
    assert min(figures.values()) > 0
    data, rate = bench_data.first_use(folder)
    assert rate > 0 and len(data.items) == len(SequenceDataset.load(folder, "train").items)

"""The benchmark's three jobs make the same sequences, and it prints the figures that it promises."""

import json

import polars as pl
import pytest

from scripts.bench_etl import ITEMS, generate, main, nvtabular, ours, plain_polars


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "events.parquet"
    generate(6000, path)
    return path


def sequences(frame, names):
    renamed = frame.select(pl.col(old).alias(new) for new, old in names.items())
    return renamed.sort("session_id").with_columns(pl.col(pl.List(pl.Float64)).cast(pl.List(pl.Float32)))


def test_all_jobs_make_the_same_sequences(source, tmp_path):
    columns = ["session_id", "timestamp", "item_id", "cat", "timestamp_interval", "value"]
    assert ours(source, tmp_path / "ours") == plain_polars(source, tmp_path / "plain") == 6000
    same = dict(zip(columns, columns, strict=True))
    one = sequences(pl.read_parquet(tmp_path / "ours" / "train" / "*.parquet"), same)
    two = sequences(pl.read_parquet(tmp_path / "plain" / "sequences.parquet"), same)
    for name in ("session_id", "timestamp", "item_id", "cat"):
        assert one[name].to_list() == two[name].to_list()
    for name in ("timestamp_interval", "value"):
        gap = one[name].explode() - two[name].explode()
        assert gap.abs().max() < 1e-5
    pytest.importorskip("dask", reason="scripts/setup.sh nvtabular installs it")
    assert nvtabular(source, tmp_path / "theirs") == 6000
    lag = "timestamp_difference_lag_1_list"
    names = {name: lag if name == "timestamp_interval" else f"{name}_list" for name in columns} | {
        "session_id": "session_id"
    }
    three = sequences(pl.read_parquet(tmp_path / "theirs" / "sequences" / "*.parquet"), names)
    assert three["timestamp"].to_list() == one["timestamp"].to_list()
    assert (three["timestamp_interval"].explode() - one["timestamp_interval"].explode()).abs().max() < 1e-4
    # Its ids of equally frequent values differ; as many values there are.
    assert three["item_id"].explode().n_unique() == one["item_id"].explode().n_unique() <= ITEMS


def test_the_figures_asked_for(tmp_path, capsys):
    assert main(["--rows", "20000", "--no-nvtabular", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    wanted = {"wall_ratio_vs_plain_polars", "peak_memory_gb", "memory_growth", "split_wall_ratio_vs_plain_polars"}
    assert wanted <= figures.keys() and all(figures[name] > 0 for name in wanted)
    assert "memory_growth" in capsys.readouterr().out

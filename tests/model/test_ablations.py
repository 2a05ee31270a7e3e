"""The table of variants: what it trains, keeps and says, against figures counted from the predictions."""

import json

import numpy as np
import polars as pl
import pytest
import yaml

from model import ablations as module
from model.ablations import Grid, ablations, configurations, main
from recsys.config import parse
from recsys.errors import ConfigError
from recsys.etl import preprocess
from tests.model.test_recipe import SETTINGS
from tests.tiny_run import make_commands, make_config, make_events

GRID = {
    "base": "run.yaml",
    "set": {"training.epochs": 1},
    "seeds": [0, 1],
    "runs": {"full": {}, "cross entropy": {"model.loss.name": "cross_entropy"}},
}


def write(folder, grid):
    (folder / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablations")
    preprocess(make_events(), make_config(), folder / "data", commands=make_commands())
    return folder, ablations(write(folder, GRID), folder / "data", folder / "out")


def reciprocal_log(ranks):
    return np.where((ranks > 0) & (ranks <= 10), 1 / np.log2(ranks + 1.0), 0.0)


def test_figures_are_means_over_positions_and_seeds_and_differences_are_paired(made):
    folder, rows = made
    assert [row.name for row in rows] == ["full", "cross entropy"]
    ranks = {}
    for row in rows:
        tables = [pl.read_parquet(path / "predictions.parquet") for path in row.runs]
        ranks[row.name] = [table["rank_model"].to_numpy() for table in tables]
        hits = np.mean([(r > 0) & (r <= 10) for r in ranks[row.name]])
        gains = np.mean([reciprocal_log(r) for r in ranks[row.name]])
        assert row.figures["recall@10"] == pytest.approx(hits)
        assert row.figures["ndcg@10"] == pytest.approx(gains)
        low, high = row.figures["recall@10_interval"]
        assert low <= hits <= high
        assert row.cpu_seconds > 0 and row.parameters > 0 and len(row.runs) == 2
    difference = rows[1].figures["ndcg@10_difference"]
    assert difference == pytest.approx(rows[1].figures["ndcg@10"] - rows[0].figures["ndcg@10"])
    assert "ndcg@10_difference" not in rows[0].figures
    written = json.loads((folder / "out" / "ablations.json").read_text())
    assert written[1]["figures"]["ndcg@10_difference"] == pytest.approx(difference)
    table = (folder / "out" / "ablations.md").read_text().splitlines()
    assert len(table) == 4 and table[0].startswith("| run | parameters | CPU s | recall@10 | against full |")
    assert f"{rows[1].figures['recall@10']:.4f}" in table[3] and f"{difference:+.4f}" in table[3]


def test_what_is_there_is_kept_and_what_changed_is_made_anew(made, monkeypatch, capsys):
    folder, rows = made
    asked = []
    real = module.run

    def noted(data, config, out, **more):
        asked.append(out.name)
        return real(data, config, out, **more)

    monkeypatch.setattr(module, "run", noted)
    before = (folder / "out" / "ablations.md").read_bytes()
    assert (
        main(["--grid", str(folder / "grid.yaml"), "--data", str(folder / "data"), "--out", str(folder / "out")]) == 0
    )
    assert asked == [] and (folder / "out" / "ablations.md").read_bytes() == before
    assert capsys.readouterr().out == before.decode()
    (rows[0].runs[1] / "metrics.json").unlink()
    changed = GRID | {"seeds": [0, 1], "runs": {"full": {}, "cross entropy": {"model.loss.name": "cross_entropy"}}}
    ablations(write(folder, changed), folder / "data", folder / "out")
    assert asked == ["00-full-seed1"]


def test_a_grid_is_every_combination(tmp_path):
    grid = {"base": "run.yaml", "grid": {"model.backbone.name": ["llama", "gru"], "model.inputs.fusion": ["sum"]}}
    found = configurations(write(tmp_path, grid))
    assert list(found) == ["backbone: llama, inputs: sum", "backbone: gru, inputs: sum"]
    assert [c[0].model.backbone.name for c in found.values()] == ["llama", "gru"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"base": "run.yaml"}, "give runs, a grid, or both"),
        ({"base": "run.yaml", "run": {}}, r"unknown key 'run' \(did you mean 'runs'\?\)"),
        (
            {"base": "run.yaml", "runs": {"a": {"model.backbone.name": "x"}}},
            "grid.yaml: a: model.backbone.name: no 'x'",
        ),
        ({"base": "none.yaml", "runs": {"a": {}}}, "none.yaml: no such file"),
        ({"base": "run.yaml", "runs": {"a": {"model.hidden": 3}}}, "grid.yaml: a: unknown key 'model.hidden'"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(tmp_path, grid, message):
    with pytest.raises(ConfigError, match=message):
        configurations(write(tmp_path, grid))


def test_shipped_grids_fit_their_runs():
    for path in sorted((module.Path(__file__).parents[2] / "configs" / "ablations").glob("*.yaml")):
        assert parse(Grid, yaml.safe_load(path.read_text()), path).variants()
        assert len(configurations(path)) >= 2

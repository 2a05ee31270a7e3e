"""The table of variants: what it trains, keeps and says, against figures counted from the predictions."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import yaml

from model import ablations as module
from model import recipe
from model.ablations import Grid, ablations, configurations, main
from recsys.config import parse
from recsys.errors import ConfigError
from recsys.etl import preprocess
from recsys.inference import load
from tests.model.test_recipe import SETTINGS
from tests.peft_ext.cases import save_model
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
        assert row.cpu_seconds > 0 and len(row.runs) == 2
        trained = sum(p.numel() for p in load(row.runs[0]).model.parameters())
        assert row.trained_parameters == trained
    difference = rows[1].figures["ndcg@10_difference"]
    assert difference == pytest.approx(rows[1].figures["ndcg@10"] - rows[0].figures["ndcg@10"])
    assert "ndcg@10_difference" not in rows[0].figures
    written = json.loads((folder / "out" / "ablations.json").read_text())
    assert written[1]["figures"]["ndcg@10_difference"] == pytest.approx(difference)
    table = (folder / "out" / "ablations.md").read_text().splitlines()
    assert len(table) == 4 and table[0].startswith("| run | trained parameters | CPU s | recall@10 | against full |")
    assert f"{rows[1].figures['recall@10']:.4f}" in table[3] and f"{difference:+.4f}" in table[3]


@pytest.fixture
def asked(monkeypatch):
    """Names of the runs that are trained from here on."""
    names = []
    real = recipe.run

    def noted(data, config, out, **more):
        names.append(out.name)
        return real(data, config, out, **more)

    monkeypatch.setattr(recipe, "run", noted)
    return names


def test_what_is_there_is_kept_and_what_changed_is_made_anew(made, asked, capsys):
    folder, rows = made
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


def test_another_dataset_gives_its_own_table(made, asked, tmp_path, capsys):
    folder, rows = made
    preprocess(make_events(seed=1), make_config(), tmp_path / "other", commands=make_commands())
    shutil.copytree(folder / "out", tmp_path / "out")
    arguments = ["--grid", str(folder / "grid.yaml"), "--data", str(tmp_path / "other"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert asked == [path.name for row in rows for path in row.runs]
    printed = capsys.readouterr()
    assert printed.out != (folder / "out" / "ablations.md").read_text()
    assert printed.err.count("trained again, since it was made from another dataset") == 4
    asked.clear()
    assert main(arguments) == 0
    assert asked == [] and capsys.readouterr().out == printed.out


def test_a_finished_run_of_a_named_architecture_is_kept(made, asked, tmp_path):
    folder, _ = made
    save_model("gpt2", tmp_path / "base")
    base = {"model.backbone": {"name": "gpt2", "architecture": str(tmp_path / "base")}, "model.auxiliary": []}
    grid = write(tmp_path, {"base": "run.yaml", "set": base, "runs": {"by name": {}}})
    first = ablations(grid, folder / "data", tmp_path / "out")
    assert asked == ["00-by-name-seed0"]
    assert ablations(grid, folder / "data", tmp_path / "out") == first
    assert asked == ["00-by-name-seed0"]


def test_the_seed_can_be_varied_as_any_setting(tmp_path):
    found = configurations(write(tmp_path, {"base": "run.yaml", "grid": {"seed": [4, 7]}}))
    assert {name: [config.seed for config in configs] for name, configs in found.items()} == {
        "seed: 4": [4],
        "seed: 7": [7],
    }
    found = configurations(
        write(tmp_path, {"base": "run.yaml", "set": {"seed": 5}, "runs": {"a": {}, "b": {"seed": 6}}})
    )
    assert [configs[0].seed for configs in found.values()] == [5, 6]


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
        ({"base": "run.yaml", "seeds": [0], "grid": {"seed": [1]}}, "seed is set and seeds are given; leave one of"),
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

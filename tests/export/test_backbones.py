"""Whole bundles of all backbones: transform, graphs, tables and names together answer as the run does offline."""

from pathlib import Path

import pytest

from recsys.export import export
from recsys.export.bundle import LEAST_LENGTH
from recsys.serving.integrity import read_manifest
from tests.tiny_backbones import BACKBONES, make_backbone_run
from tests.tiny_bundle import expect_offline_answers
from tests.tiny_run import make_events

SLOW = ("mixtral", "bert", "t5", "ligr")
NAMES = [name for name in BACKBONES if name != "llama"]  # whose bundle test_export.py has


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES])
def test_a_bundle_answers_as_recommend_does(name: str, tmp_path: Path) -> None:
    run = make_backbone_run(tmp_path, {**BACKBONES[name], "max_length": LEAST_LENGTH if name == "sasrec" else 6})
    export(run, tmp_path / "bundle")
    expect_offline_answers(run, tmp_path / "bundle", make_events(sessions=18))
    graphs = read_manifest(tmp_path / "bundle")["graphs"]
    read = {n for n in ("inputs.item_id", "times") if all(n in graphs[g]["inputs"] for g in ("rank", "fused"))}
    assert read == {"repeats": {"inputs.item_id"}, "hstu": {"times"}}.get(name, set())

"""A run whose pretrained model stands outside of it is exported by way of `peft_ext.merge`."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from peft_ext.merge import main
from recsys import cli
from recsys.export.bundle import require_exportable
from recsys.run_directory import RunDirectory
from recsys.training import train
from tests.peft_ext.cases import config_of
from tests.tiny_bundle import expect_offline_answers
from tests.tiny_run import make_events

LINE = r"error: (.*): '.*' leaves a pretrained model outside of the run; first python -m peft_ext.merge (.*), then"


def refused(run: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Export, which must be refused in one line and leave nothing; returns the arguments of `merge` that it names."""
    capsys.readouterr()
    assert cli.main(["export", "--run", str(run), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    found = re.match(LINE, told)
    assert found and told.count("\n") == 1 and found[1] == str(run) and not out.exists()
    return shlex.split(found[2])


def merge_as_told(command: list[str], base: Path, merged: Path) -> bool:
    """Run the command that the refusal names; whether the base's first query matrix is now another."""
    assert command[-1] == "MERGED" and main([*command[:-1], str(merged)]) == 0
    before, after = load_file(base / "model.safetensors"), load_file(merged / "model.safetensors")
    query = next(name for name in before if name.endswith("q_proj.weight"))
    held = before[query].bfloat16().float()  # as `compute_dtype` has it
    return not torch.equal(held, after[f"backbone.model.{query}"])


def test_a_run_is_merged_then_exported_and_needs_no_base(
    bases: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, merged = shutil.copytree(bases("llama"), tmp_path / "base"), tmp_path / "merged"
    run = train(data, config_of("llama", base, {"method": "lora"}, max_steps=2), tmp_path / "run")
    assert merge_as_told(refused(run.path, tmp_path / "bundle", capsys), base, merged)
    shutil.rmtree(base)
    assert cli.main(["export", "--run", str(merged), "--out", str(tmp_path / "bundle")]) == 0
    expect_offline_answers(merged, tmp_path / "bundle", make_events(sessions=18))


def test_a_frozen_base_is_taken_into_the_run_first(
    bases: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights stand outside of the run, in another precision; a bundle would be of what no run holds."""
    run = train(data, config_of("llama", bases("llama"), {"method": "frozen"}, max_steps=1), tmp_path / "run")
    assert not any(name.startswith("backbone.model.") for name in load_file(run.weights))
    assert not merge_as_told(refused(run.path, tmp_path / "bundle", capsys), bases("llama"), tmp_path / "merged")
    require_exportable(RunDirectory(tmp_path / "merged"))


@pytest.mark.parametrize("method", ["dora", "qlora"])
def test_every_method_is_refused_before_it_is_merged(
    method: str, bases: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(data, config_of("llama", bases("llama"), {"method": method}, max_steps=1), tmp_path / "run")
    assert refused(run.path, tmp_path / "bundle", capsys) == ["--run", str(run.path), "--out", "MERGED"]

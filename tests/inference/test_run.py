"""Loading a run: what was saved comes back, and what does not fit is refused with one line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import recsys
from recsys.build import attach_text, build_model
from recsys.config import save_config
from recsys.errors import RecsysError, RunError
from recsys.evaluation import evaluate
from recsys.inference import LoadedRun, load, recommend
from recsys.run_directory import RunDirectory
from tests.tiny_run import make_config, make_events, make_run


@pytest.fixture
def copy(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the run that a test may spoil."""
    return Path(shutil.copytree(folders[1], tmp_path / "run"))


def test_saved_weights_come_back_in_evaluation_mode(folders: tuple[Path, Path], run: LoadedRun) -> None:
    saved = load_file(folders[1] / "model.safetensors")
    state = run.model.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved)
    assert not any(module.training for module in run.model.modules())
    assert run.max_length == 6 and run.item_names[:3] == [None, None, None]
    assert str(folders[1]) in repr(run)


def test_public_name_loads_and_leaves_the_random_generator_alone(folders: tuple[Path, Path]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    loaded = recsys.load(folders[1])
    assert torch.equal(torch.rand(3), expected)
    assert isinstance(loaded, LoadedRun)


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", "workflow"])
def test_missing_part_is_named(copy: Path, name: str) -> None:
    part = copy / name
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    with pytest.raises(RunError, match=name):
        load(copy)


def test_missing_schema_and_missing_run_are_named(copy: Path, tmp_path: Path) -> None:
    (copy / "schema.json").unlink()
    with pytest.raises(RecsysError, match=r"schema\.json"):
        load(copy)
    with pytest.raises(RunError, match="no such run directory"):
        load(tmp_path / "nowhere")


def test_cut_off_weights_are_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(RunError, match="not a readable safetensors file"):
        load(copy)


def test_weights_of_another_catalogue_are_refused(copy: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", make_events(items=9))[1]
    shutil.copy(other / "model.safetensors", copy)
    with pytest.raises(RunError, match="are of another schema or configuration") as caught:
        load(copy)
    assert "\n" not in str(caught.value)


def test_workflow_of_another_catalogue_is_refused(copy: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", make_events(items=9))[1]
    shutil.rmtree(copy / "workflow")
    shutil.copytree(other / "workflow", copy / "workflow")
    with pytest.raises(RunError, match=r"workflow/ does not belong to schema\.json: column 'item_id' has 12"):
        load(copy)


def test_missing_and_surplus_tensors_are_named(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    taken = weights.pop("inputs.output.bias")
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(RunError, match=r"has no 'inputs\.output\.bias'"):
        load(copy)
    save_file({**weights, "inputs.output.bias": taken, "extra": torch.zeros(1)}, copy / "model.safetensors")
    with pytest.raises(RunError, match="holds 'extra'"):
        load(copy)


def test_configuration_that_asks_for_an_absent_column_is_refused(copy: Path) -> None:
    save_config(make_config(auxiliary=[{"column": "colour"}]), copy / "config.yaml")
    with pytest.raises(RunError, match=r"config\.yaml does not fit schema\.json.*colour"):
        load(copy)


def test_text_vectors_come_from_the_weights_not_from_the_data(folders: tuple[Path, Path], tmp_path: Path) -> None:
    data, path = make_run(tmp_path / "text")
    run, plain = RunDirectory(path), load(path, device="cpu")
    table = torch.randn(len(plain.item_names), 5)
    table[:3] = 0
    np.save(tmp_path / "text.npy", table.numpy())
    config = make_config(inputs={**plain.config.model.inputs.model_dump(), "text_table": str(tmp_path / "text.npy")})
    schema, vectors = attach_text(config.model.inputs, plain.schema)
    model = build_model(config.model, schema, plain.workflow.items, vectors)
    save_config(config, run.config_file)
    schema.save(run.schema_file)
    save_file(model.state_dict(), run.weights)
    (tmp_path / "text.npy").unlink()
    loaded = load(path, device="cpu")
    assert loaded.model.inputs.pretrained is not None
    assert torch.equal(loaded.model.inputs.pretrained.table, table)
    evaluation = evaluate(loaded, data, baselines=False)
    assert evaluation.predictions.height > 0
    assert recommend(loaded, make_events(sessions=2), k=3).height == 6

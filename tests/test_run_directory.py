"""A run directory holds what a run needs, and says what is missing."""

import pytest

from recsys.config import RunConfig
from recsys.errors import RunError
from recsys.run_directory import RunDirectory, dataset_fingerprint
from tests.data.sequences import make_schema


def test_it_keeps_config_schema_workflow_and_cleaning(tmp_path):
    dataset = tmp_path / "dataset"
    (dataset / "workflow").mkdir(parents=True)
    (dataset / "workflow" / "workflow.json").write_text("{}")
    run = RunDirectory(tmp_path / "run")
    run.create(RunConfig(seed=5), make_schema(), dataset)
    assert run.load_config().seed == 5
    assert run.load_schema() == make_schema()
    assert (run.workflow / "workflow.json").exists()
    assert not run.cleaning.exists()


def test_what_is_missing_is_said(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(RunError, match="no such run directory; `recsys train"):
        run.load_config()
    run.path.mkdir()
    with pytest.raises(RunError, match=r"config.yaml is missing, so this is no finished run"):
        run.load_config()


def test_json_is_written_whole_and_without_nan(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_json(run.metrics_file, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        run.write_json(run.metrics_file, {"a": float("nan")})
    assert run.read_json(run.metrics_file) == {"a": 1}
    assert list(tmp_path.iterdir()) == [run.metrics_file]


def test_another_dataset_than_the_runs_own_is_told(tmp_path):
    for name in ("own", "other"):
        (tmp_path / name / "test").mkdir(parents=True)
        make_schema().save(tmp_path / name / "schema.json")
        (tmp_path / name / "test" / "part-00000.parquet").write_text(name)
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.require_own_data(tmp_path / "other")  # nothing is known of a run without environment.json
    run.write_json(run.environment_file, {"dataset": {"sha256": dataset_fingerprint(tmp_path / "own")}})
    run.require_own_data(tmp_path / "own")
    with pytest.raises(RunError, match="is not the dataset that .* was trained on"):
        run.require_own_data(tmp_path / "other")

"""A run directory holds what a run needs, and says what is missing."""

import pytest

from recsys.config import RunConfig
from recsys.errors import RunError
from recsys.run_directory import RunDirectory
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

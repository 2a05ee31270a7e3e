"""`python -m model.preprocess`: one dataset by either engine, nothing of Merlin on the screen, mistakes in a line."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from model.preprocess import main
from recsys.etl import preprocess
from tests.conftest import ROOT
from tests.etl.test_nvtabular_engine import same_datasets
from tests.tiny_run import make_events

CONFIG = {
    "seed": 1,
    "split": {"rule": "every_nth", "every": 4, "by": "user_id"},
    "etl": {"categorical": {"item_id": {"min_count": 3}}, "continuous": {"timestamp_interval": {}}, "newest": 6},
}


@pytest.fixture
def work(tmp_path):
    """A folder with events.csv and config.yaml."""
    make_events().write_csv(tmp_path / "events.csv")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def command(work, engine, *more):
    given = ["--events", work / "events.csv", "--config", work / "config.yaml", "--out", work / engine]
    return [str(a) for a in ("--engine", engine, *given, *more)]


def test_both_engines_write_and_print_the_same(work, capfd):
    printed = {}
    for engine in ("polars", "nvtabular"):
        assert main(command(work, engine)) == 0
        printed[engine] = capfd.readouterr()
        assert printed[engine].err == ""
    same_datasets(work / "nvtabular", work / "polars")
    assert printed["polars"].out == printed["nvtabular"].out
    report = json.loads((work / "polars" / "report.json").read_text())
    for name, counts in report["splits"].items():
        line = next(line for line in printed["polars"].out.splitlines() if re.search(rf"\b{name}\b", line))
        numbers = [int(n) for n in re.findall(r"\d+", line)]
        assert numbers == [counts[key] for key in ("groups", "events_in", "events_out", "sequences")]


def test_nothing_of_merlin_reaches_the_screen(work):
    run = [sys.executable, "-m", "model.preprocess", *command(work, "nvtabular")]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not re.search("warn|merlin|nvtabular", done.stdout, re.IGNORECASE)


def test_settings_a_given_workflow_and_overwriting(work, capsys):
    assert main(command(work, "nvtabular")) == 0
    capsys.readouterr()
    assert main(command(work, "nvtabular")) == 2
    assert "error: " in capsys.readouterr().err
    more = ["--set", "etl.newest=2", "--set", "etl.categorical.item_id.min_count=1"]
    assert main(command(work, "nvtabular", "--overwrite", *more)) == 0
    assert json.loads((work / "nvtabular" / "report.json").read_text())["newest"] == 2
    given = ["--workflow", str(work / "nvtabular" / "workflow")]
    assert main(command(work, "polars", *given)) == 0
    report = json.loads((work / "polars" / "report.json").read_text())
    assert (report["workflow"], report["newest"]) == ("given", 2)
    assert main(command(work, "nvtabular", *given, "--out", work / "again")) == 0
    same_datasets(work / "again", work / "polars")


def test_warnings_are_printed(work, capsys):
    make_events().with_columns(merge_count=1).write_csv(work / "events.csv")
    assert main(command(work, "nvtabular", "--set", "etl.continuous.merge_count.transforms=[zscore]")) == 0
    assert "warning: column 'merge_count' has one value in train; its z-score is 0" in capsys.readouterr().out


def refused(capsys, work, arguments, status=2):
    """The one line that is printed; nothing is left behind."""
    before = sorted(work.rglob("*"))
    assert main(arguments) == status
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed
    assert sorted(work.rglob("*")) == before
    return printed.err


def test_without_nvtabular_the_fix_is_named(work, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvtabular", None)
    line = refused(capsys, work, command(work, "nvtabular"))
    assert "bash scripts/setup.sh nvtabular" in line and "--engine polars" in line
    assert main(command(work, "polars")) == 0


def test_workers_of_the_wrong_engine_or_number(work, capsys):
    line = refused(capsys, work, command(work, "nvtabular", "--on", "ray"))
    assert line == "error: --on ray is for the engines polars and gpu; nvtabular has Dask: --workers N\n"
    assert "engine 'gpu' needs cuDF" in refused(capsys, work, command(work, "gpu"))
    assert "workers (0) must be at least 1" in refused(capsys, work, command(work, "nvtabular", "--workers", "0"))
    with pytest.raises(SystemExit):
        main(command(work, "nvtabular", "--workers", "two"))


@pytest.mark.parametrize("engine", ["polars", "nvtabular"])
@pytest.mark.parametrize(
    "more, said",
    [
        (["--set", "etl.newst=3"], "newest"),
        (["--set", "etl.continuous.weight={}"], "column 'weight'"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--events", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--workflow", "nowhere"], "nowhere"),
    ],
    ids=["key", "column", "config", "events", "workflow"],
)
def test_mistakes_take_one_line(work, capsys, engine, more, said):
    assert said in refused(capsys, work, command(work, engine, *more))


def test_help_shows_an_example_and_is_quick():
    code = (
        "import sys\nfrom model.preprocess import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n"
        "    print([m for m in ('polars', 'dask', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "python -m model.preprocess --events out/events --out out/dataset --engine nvtabular" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_a_dataset_of_a_frame_is_the_command_lines(work):
    from recsys.config import RunConfig

    assert main(command(work, "nvtabular")) == 0
    same_datasets(work / "nvtabular", preprocess(make_events(), RunConfig.model_validate(CONFIG), work / "frame").path)


@pytest.mark.slow
def test_two_workers_print_and_write_the_same(work):
    assert main(command(work, "polars")) == 0
    run = [sys.executable, "-m", "model.preprocess", *command(work, "nvtabular", "--workers", "2")]
    quiet = os.environ | {"TQDM_DISABLE": "1"}  # a slow machine shows progress
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False, env=quiet)
    assert (done.returncode, done.stderr) == (0, "")
    same_datasets(work / "nvtabular", work / "polars")


def test_processes_write_what_threads_write(work):
    def contents():
        found = sorted(p for p in (work / "polars").rglob("*") if p.is_file())
        return {p.relative_to(work): p.read_bytes() for p in found}

    assert main(command(work, "polars", "--on", "processes", "--workers", "2")) == 0
    first = contents()
    assert main([*command(work, "polars"), "--overwrite"]) == 0
    assert first and contents() == first

"""The commands' help and usage; tests/test_cli_bad_input.py has what they refuse."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from data_processing import filter as filter_stage
from data_processing import reconstruct, simulate
from recsys.cli import build_parser, main

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("preprocess", "train", "evaluate", "recommend", "report")
STAGES = {"simulate": simulate.main, "reconstruct": reconstruct.main, "filter": filter_stage.main}
HEAVY = ("torch", "transformers", "polars", "numpy", "pyarrow", "accelerate", "jinja2")


def shown_help(entry: Callable[[list[str]], int], arguments: list[str]) -> str:
    text = StringIO()
    with redirect_stdout(text), pytest.raises(SystemExit) as stop:
        entry(arguments)
    assert stop.value.code == 0
    return text.getvalue()


# Help.


def test_help_lists_the_commands() -> None:
    text = shown_help(main, ["--help"])
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("    ") and line.split()]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_ends_with_an_example_that_parses(command: str) -> None:
    _, _, example = shown_help(main, [command, "--help"]).partition("example:")
    program, *arguments = shlex.split(example)
    assert program == "recsys"
    assert arguments[0] == command
    assert callable(build_parser().parse_args(arguments).handler)


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_processing_stage_has_an_example(stage: str) -> None:
    text = " ".join(shown_help(STAGES[stage], ["--help"]).split())
    assert f"example: python -m data_processing.{stage} --" in text


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["recommend", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from recsys.cli import main
try:
    main({arguments!r})
except SystemExit as stop:
    print("status", stop.code)
print("heavy", [name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["status 0", "heavy []"]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, recsys; dir(recsys); print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_processing_stages_never_import_torch() -> None:
    code = """
import sys
from data_processing import clean, filter, reconstruct, simulate
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    import recsys

    for name in recsys.__all__:
        assert callable(getattr(recsys, name)), name
    with pytest.raises(AttributeError, match="no attribute 'recomend'"):
        _ = recsys.recomend


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["trian"],
        ["train", "--data", "d", "--out", "o", "--epochs", "3"],
        ["train", "--data", "d"],
        ["evaluate", "--data", "d"],
        ["evaluate", "--run", "r", "--data", "d", "--split", "all"],
        ["recommend", "--run", "r", "--input", "i", "--k", "five"],
        ["recommend", "--run", "r", "--input", "i", "--max-gigabytes", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_leaves_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]

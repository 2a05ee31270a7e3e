"""docs/etl.md: its tables are what the code gives, and what it shows runs."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
import yaml

from recsys.config import CategoricalConfig, EtlConfig, SplitConfig, parse
from recsys.etl.nvtabular_engine import preprocess_nvtabular
from scripts import update_etl_docs
from tests.readme import ROOT, blocks, command_lines
from tests.test_docs import parse_alone

PAGE = (ROOT / "docs" / "etl.md").read_text(encoding="utf-8")
CLUSTER = "tcp://scheduler"  # marks what needs a machine that is not here
PYTHON = [text for text in blocks(PAGE, "python") if CLUSTER not in text]
NO_ENTRY = (["source", ".venv/bin/activate"], ["bash", "scripts/setup.sh", "nvtabular"])
SHOWN = [words for words in command_lines(PAGE) if words not in NO_ENTRY]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the page's commands ran, and the page as they make it."""
    folder = tmp_path_factory.mktemp("docs")
    page = update_etl_docs.update(PAGE, folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder, page


def test_tables_are_what_the_code_gives(made: tuple[Path, str]) -> None:
    assert made[1] == PAGE, "run python -m scripts.update_etl_docs"


def run(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that a Python block of the page leaves."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(PYTHON[number], "page", "exec"), names)
    return names


def test_the_python_blocks_are_those_that_are_run_below() -> None:
    marks = ("recsys.preprocess(", ".config()", "Workflow(", ".context(", "data.gather(")
    assert all(mark in text for mark, text in zip(marks, PYTHON, strict=True))


def test_a_frame_gives_a_dataset(made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = run(0, made[0], monkeypatch)
    groups = names["made"].report["split"]["groups"]
    assert sum(groups.values()) == names["events"]["user_id"].n_unique() == 40


def test_yaml_and_builder_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = [text for text in blocks(PAGE, "yaml") if text.startswith("etl:")]
    built = run(1, tmp_path, monkeypatch)["etl"]
    assert parse(EtlConfig, yaml.safe_load(text)["etl"], "page") == built


def test_the_small_workflow_prints_what_its_comments_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    run(2, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "[[4, 2]]" in printed and printed.endswith("['Wall', 'Door']\n")


def test_lists_and_context_print_what_the_comments_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(3, tmp_path, monkeypatch)
    said = [line.removeprefix("# ") for line in PYTHON[3].splitlines() if line.startswith("# ")]
    assert len(said) == 3 and capsys.readouterr().out.splitlines() == said


def test_a_dataset_is_read_as_shown(made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = run(4, made[0], monkeypatch)
    frame = pl.read_parquet(made[0] / "out" / "dataset" / "train" / "part-*.parquet")
    assert names["padded"]["item_id"].shape == (3, 20) and len(names["data"]) == frame.height
    for place, row in enumerate(names["rows"]):
        expected = frame["item_id"][int(row)].to_list()[-20:]
        assert names["padded"]["item_id"][place, : names["lengths"][place]].tolist() == expected
    assert np.array_equal(names["lengths"], np.minimum(frame["item_id"].list.len().gather(names["rows"]), 20))


@pytest.mark.parametrize("words", [w for w in SHOWN if w[:2] != ["python", "scripts/bench_data.py"]], ids=" ".join)
def test_command_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse_alone(words, monkeypatch)


def first_cells(heading: str) -> list[str]:
    """The names in the first column of the first table under a heading."""
    lines = re.search(r"(?:^\|.*\n)+", PAGE.split(f"{heading}\n", 1)[1], flags=re.MULTILINE)
    assert lines is not None
    return [line.split("|")[1].strip() for line in lines.group().splitlines()[2:]]


def test_every_rule_is_in_the_table() -> None:
    rules = [cell.split("`")[1] for cell in first_cells("## Splits")]
    assert rules == list(get_args(SplitConfig.model_fields["rule"].annotation))


def test_every_key_of_the_configuration_is_named() -> None:
    for name in [*EtlConfig.model_fields, *CategoricalConfig.model_fields, *SplitConfig.model_fields]:
        assert re.search(rf"[`.]{name}\b", PAGE), name


def test_the_layout_is_that_of_the_dataset(made: tuple[Path, str]) -> None:
    (text,) = [t for t in blocks(PAGE, "text") if t.startswith("out/dataset/\n")]
    shown = [name for line in text.splitlines()[1:] for name in re.split(r"\s{2,}", line.strip())[0].split()]
    dataset = made[0] / "out" / "dataset"
    assert {name.rstrip("/") for name in shown} == {path.name for path in dataset.iterdir() if path.name[0] != "."}
    columns = pl.read_parquet_schema(dataset / "test" / "part-00000.parquet").names()
    assert columns[:4] == ["session_id", "user_id", "chunk", "timestamp"]
    files = {path.name for path in (dataset / "workflow").iterdir()}
    assert files >= {"workflow.json", "items.parquet", "schema.pbtxt", "unique.item_id.parquet"}


def test_the_call_for_a_cluster_is_one_that_there_is() -> None:
    (text,) = [text for text in blocks(PAGE, "python") if CLUSTER in text]
    (call,) = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and ast.unparse(n.func) != "Client"]
    assert ast.unparse(call.func) == "preprocess_nvtabular"
    signature = inspect.signature(preprocess_nvtabular)
    assert list(signature.bind(*call.args).arguments) == ["events", "config", "out"]


def test_links_lead_somewhere() -> None:
    linked = re.findall(r"\]\(([\w./]+)\)", PAGE)
    assert linked and [name for name in linked if not (ROOT / "docs" / name).exists()] == []


def test_the_split_section_is_valid() -> None:
    (text,) = [text for text in blocks(PAGE, "yaml") if text.startswith("split:")]
    assert parse(SplitConfig, yaml.safe_load(text)["split"], "page") == SplitConfig(test_share=0.15)

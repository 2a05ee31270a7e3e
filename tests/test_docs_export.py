"""docs/export.md: its tables, commands and figures agree with the code."""

import re
import shlex
from pathlib import Path

import recsys.export
from recsys.cli import build_parser
from recsys.config.backbone import BackboneName
from recsys.export import bundle, precision
from recsys.serving import transform
from recsys.serving.graphs import TABLE

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


def first_cells(header: str) -> list[str]:
    """First cells of the table under a header line."""
    lines = PAGE[PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [line.split("|")[1].strip(" `") for line in lines]


def test_files_are_those_of_the_module() -> None:
    listed = re.findall(r"(?:BUNDLE/|, )([\w*/]+\.\w+)", recsys.export.__doc__ or "")
    assert sorted(first_cells("| file | holds |")) == sorted(listed)


def test_inputs_are_those_of_the_graphs() -> None:
    names = first_cells("| input | type and shape |")
    own = {transform.LENGTHS, transform.EXCLUDED, transform.K, transform.TIMES, "vectors"}
    assert {n for n in names if not n.startswith((TABLE, transform.EVENT_INPUT))} == own
    assert {n for n in names if n.startswith(TABLE)} == {"table.streams", "table.output", "table.bias"}


def test_commands_parse_and_figures_hold() -> None:
    block = PAGE.split("```bash\n")[1].split("```")[0]
    for line in block.splitlines():
        command = shlex.split(line.partition("#")[0])
        assert command[0] == "recsys" and build_parser().parse_args(command[1:])
    assert f"makes up {bundle.GOLDEN_REQUESTS} sessions" in PAGE
    assert bundle.TOLERANCE == 1e-4 and "agree to 1e-4" in PAGE
    assert f"of {precision.REQUESTS} made-up sessions" in PAGE


def test_every_backbone_is_named() -> None:
    names = set(BackboneName.__args__) - {"auto"}
    sentence = PAGE[PAGE.index("Every backbone is exported") :].split("and every fusion")[0]
    assert {word.strip(",") for word in re.findall(r"\w+", sentence)} >= names


def test_files_that_are_named_are_there() -> None:
    named = re.findall(r"`((?:recsys|configs)/[\w./]+\.\w+)`", PAGE)
    assert len(named) == 3 and all((ROOT / name).is_file() for name in named)

"""docs/serving.md: its tables, commands and examples agree with the code."""

import ast
import re
import shlex
from dataclasses import asdict
from pathlib import Path

from recsys.cli import build_parser
from recsys.client import Client
from recsys.server import MODEL_NAME, PORT
from recsys.server.limits import Limits
from recsys.serving import kserve, wire

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
FIELDS = [wire.Field("item_id", "text"), wire.Field("timestamp", "time"), wire.Field("merge_count", "number")]


def rows_of(header: str) -> list[list[str]]:
    """Cells of the table under a header line."""
    lines = PAGE[PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def test_limits_are_those_of_the_server() -> None:
    assert {name: float(value) for name, value, _ in rows_of("| limit | default |")} == asdict(Limits())


def test_command_parses_with_the_address_it_names() -> None:
    line = next(line for line in PAGE.splitlines() if line.startswith("recsys serve"))
    command, _, address = line.partition("#")
    options = build_parser().parse_args(shlex.split(command)[1:])
    assert (options.port, options.name) == (PORT, MODEL_NAME)
    assert address.strip() == f"http://{options.host}:{PORT}/v2/models/{MODEL_NAME}"


def test_curl_and_python_send_the_same_session() -> None:
    body = re.findall(r"-d '(.*?)'", PAGE, flags=re.DOTALL)[0]
    sessions, wanted, _ = wire.from_tensors(FIELDS, kserve.load("inputs", body.encode()).tensors)
    code = PAGE.split("```python\n")[1].split("```")[0]
    literal = re.findall(r"history = (\{.*\})", code)[0]
    again = wire.to_tensors(FIELDS, [ast.literal_eval(literal)], 5)
    same, _, _ = wire.from_tensors(FIELDS, again)
    assert wanted == [5]
    for name in sessions[0]:
        assert list(sessions[0][name]) == list(same[0][name])
    ast.parse(code)


def test_tensors_are_those_of_the_wire() -> None:
    types = [re.match(r"(\w+)", kind).group(1) for _, kind, _ in rows_of("| tensor | type")]  # type: ignore[union-attr]
    assert types == ["BYTES", "BYTES", "FP64", "INT64", "INT32", "INT32", "BOOL"]
    assert set(wire.OUTPUTS) <= set(re.findall(r"`(\w+)`", PAGE)) and kserve.HEADER in PAGE
    assert Client.recommend.__kwdefaults__ == {"remove_seen": False}

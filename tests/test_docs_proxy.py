"""docs/proxy.md: its command, tables and limits agree with the code."""

import ast
import re
import shlex
from pathlib import Path

from deployment.nginx_config import GRPC_METHODS, LIVE, Proxy, _parser
from deployment.nginx_tokens import LONGEST, SHORTEST
from deployment.web.__main__ import _parser as live_parser
from recsys.server import MODEL_NAME
from tests.readme import ROOT, blocks

PAGE = (ROOT / "docs" / "proxy.md").read_text(encoding="utf-8")
PROXY = Proxy(Path("/o"), Path("/s"), ("a",), "443", Path("/c"), Path("/k"), ("MODEL",), "a:1", "a:2", "a:3")


def rows_of(header: str) -> list[list[str]]:
    """Cells of the table under a header line."""
    lines = PAGE[PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_command_parses() -> None:
    text = blocks(PAGE, "bash")[0].replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("python -m deployment.nginx_config"))
    given = _parser().parse_args(shlex.split(line)[3:])
    assert (given.model, given.listen, given.live_upstream) == (["fused", "ensemble"], "8443", "127.0.0.1:8800")
    ast.parse(blocks(PAGE, "python")[0])
    allowed = re.search(r"`(--allow-host) (\S+)`", PAGE)
    assert allowed and live_parser().parse_args(["--logs", "x", *allowed.groups()]).allow_host == given.server_name


def test_routes_are_those_of_the_configuration() -> None:
    told = {}
    for addresses, methods, _ in rows_of("| address | methods |"):
        told |= dict.fromkeys(re.findall(r"`(.*?)`", addresses), methods.replace(", ", "|"))
    live = {re.sub(r"^= |^~ \^", "", place): "GET|HEAD" for place in LIVE}
    live["/static/..."] = live.pop("/static/")
    assert told == PROXY.routes() | dict.fromkeys(GRPC_METHODS, "gRPC") | live
    assert f"(default: `{MODEL_NAME}`)" in PAGE


def test_limits_are_the_defaults() -> None:
    defaults = _parser().parse_args(
        shlex.split("--out o --server-name a --certificate c --key k --tokens t"),
    )
    told = {option.strip("`"): int(value) for option, value, _ in rows_of("| option | default |")}
    assert told == {f"--{name.replace('_', '-')}": getattr(defaults, name) for name in told_names(told)}
    numbers = {name for name, value in vars(defaults).items() if isinstance(value, int)}
    assert numbers == set(told_names(told))
    assert f"A token has {SHORTEST} to {LONGEST} letters" in PAGE


def told_names(told: dict[str, int]) -> list[str]:
    return [option.removeprefix("--").replace("-", "_") for option in told]


def test_configuration_says_what_the_page_says_of_it() -> None:
    files = PROXY.files()
    assert set(files) == set(re.findall(r"`(nginx\.conf|site\.conf)`", PAGE))
    assert "worker_shutdown_timeout 30s;" in files["nginx.conf"] and "30 seconds later at most" in PAGE
    assert files["site.conf"].count("ssl_protocols TLSv1.2 TLSv1.3;") == 2
    assert not re.search(r"listen (?!443 ssl)", files["site.conf"])

"""Every command that README shows parses, and every file that it names is there; test_end_to_end runs the commands."""

import argparse
import re
from typing import Any

import pytest

from tests.readme import README, ROOT, SHOWN, STEPS, command_lines, entry_of


class Parsed(Exception):
    """A parser accepted its arguments."""


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_command_of_readme_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        parse(self, *given, **named)
        raise Parsed

    _, entry, arguments = entry_of(words)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed):
        entry(arguments)


def test_readme_shows_the_whole_job_in_order() -> None:
    assert [entry_of(words)[0] for words in STEPS] == [
        *("simulate", "run", "preprocess", "train", "evaluate", "recommend", "report")
    ]
    first = [["bash", f"scripts/{name}.sh"] for name in ("demo", "demo_live", "test")]
    assert command_lines(README)[:3] == first


def test_files_and_folders_that_readme_names_are_there() -> None:
    named = re.findall(r"(?<![\w/])((?:scripts|configs|notebooks)/[\w./]+\w)", README)
    assert {"scripts/demo.sh", "scripts/test.sh", "configs/vectorworks.yaml"} <= set(named)
    assert [name for name in named if not (ROOT / name).exists()] == []

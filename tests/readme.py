"""README's blocks and commands, for the tests that run them."""

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from recsys.cli import main as recsys_main
from scripts import demo, demo_live

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def command_lines(text: str) -> list[list[str]]:
    """The commands of all bash blocks, in order."""
    lines = [line for block in blocks(text, "bash") for line in block.replace("\\\n", " ").splitlines()]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words]


def entry_of(words: list[str]) -> tuple[str, Callable[[list[str]], int], list[str]]:
    """Name, entry point and arguments of a command line."""
    match words:
        case ["recsys", command, *_]:
            return command, recsys_main, words[1:]
        case ["python", "-m", module, *arguments]:
            return module.rpartition(".")[2], importlib.import_module(module).main, arguments
        case ["bash", "scripts/demo.sh", *arguments]:
            return "demo", demo.main, arguments
        case ["bash", "scripts/demo_live.sh", *arguments]:
            return "demo_live", demo_live.main, arguments
    raise AssertionError(f"README shows a command that no test knows: {shlex.join(words)}")


NO_ENTRY = (["bash", "scripts/test.sh"], ["source", ".venv/bin/activate"])
SHOWN = [words for words in command_lines(README) if words not in NO_ENTRY]
STEPS = [words for words in SHOWN if words[0] != "bash"]

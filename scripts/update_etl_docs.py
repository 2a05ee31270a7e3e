"""Writes the tables of docs/etl.md from real runs: its first commands, and one run a split rule over the same events.

    python -m scripts.update_etl_docs

tests/test_docs_etl.py fails where the page is not what this would write.
"""

import argparse
import importlib
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from recsys.cli import main as recsys_main
from recsys.config import ChunkConfig, RunConfig, SplitConfig, load_config
from recsys.errors import InputError
from recsys.etl import preprocess
from recsys.runtime import command_line

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "etl.md"
CONFIG = ROOT / "configs" / "vectorworks.yaml"
EVENTS = Path("out") / "cleaned" / "filter" / "events"  # not split yet
RULES = {
    "share": SplitConfig(rule="share"),
    "share, by session_id": SplitConfig(rule="share", by="session_id"),
    "every_nth": SplitConfig(rule="every_nth"),
    "leave_last": SplitConfig(rule="leave_last"),
    "time": SplitConfig(rule="time"),
    "position": SplitConfig(rule="position"),
    "document": SplitConfig(rule="document"),
}


def run_commands(page: str, folder: Path) -> str:
    """Run the commands of the page's first bash block with `folder`/out for out/; returns what the last one printed."""
    found = re.search(r"^```bash\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in found.group(1).splitlines()] if found else []
    printed = ""
    for words in lines:
        given = [_placed(word, folder) for word in words]
        match given:
            case ["source", _]:
                continue
            case ["python", "-m", module, *arguments]:
                entry = importlib.import_module(module).main
            case ["recsys", *arguments]:
                entry = recsys_main
            case _:
                raise InputError(f"{PAGE.name}: cannot run '{shlex.join(words)}'")
        with redirect_stdout(StringIO()) as output:
            if entry(arguments):
                raise InputError(f"{PAGE.name}: '{shlex.join(words)}' failed")
        printed = output.getvalue()
    return printed


def _placed(word: str, folder: Path) -> str:
    if word.startswith("out/"):
        return str(folder / word)
    return str(ROOT / word) if word.startswith("configs/") else word


def update(page: str, folder: Path) -> str:
    """The page with its generated parts written anew; runs its commands in `folder`."""
    printed = run_commands(page, folder)
    report = json.loads((folder / "out" / "dataset" / "report.json").read_text(encoding="utf-8"))
    parts = {
        "summary": f"```text\n{printed.rstrip()}\n```\n",
        "splits": splits_table(folder),
        "leakage": f"```json\n{_folded(report['leakage'])}\n```\n",
    }
    for name, text in parts.items():
        block = re.compile(rf"(?<=<!-- generated: {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        if len(block.findall(page)) != 1:
            raise InputError(f"{PAGE.name}: expected one place '<!-- generated: {name} -->'")
        page = block.sub(text.replace("\\", r"\\"), page)
    return page


def splits_table(folder: Path) -> str:
    """What each rule leaks on the cleaned events in `folder`, as a table."""
    head = ["rule", "train, val, test events", "users in both", "sessions in both", "own future", "others' future"]
    rows = [[*head, "new items"], ["---"] * (len(head) + 1)]
    for name, split in RULES.items():
        made = preprocess(folder / EVENTS, _config(split), folder / "rules" / re.sub(r"\W+", "_", name))
        rows.append([f"`{name}`", *_leaks(made.report)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _config(split: SplitConfig) -> RunConfig:
    config = load_config(CONFIG)
    etl = config.etl.model_copy(update={"chunk": ChunkConfig() if split.rule == "document" else None})
    return config.model_copy(update={"split": split, "etl": etl})


def _leaks(report: dict[str, Any]) -> list[str]:
    leakage = report["leakage"]
    target = "val" if report.get("test_is_val") else "test"
    shared, future = leakage["groups"][f"train_{target}"], leakage["future"][target]
    names = ("train", "val") if target == "val" else ("train", "val", "test")
    unseen = leakage["unseen_items"][target]["items"]
    return [
        ", ".join(f"{report['splits'][name]['events_in']:,}" for name in names),
        f"{shared['users']} of {leakage['groups'][target]['users']}",
        f"{shared['sessions']} of {leakage['groups'][target]['sessions']}",
        f"{future['own']['share']:.1%}",
        f"{future['overall']['share']:.1%}",
        f"{unseen['count']} of {unseen['of']}",
    ]


def _folded(report: dict[str, Any]) -> str:
    """JSON with a line for each thing counted."""
    lines = []
    for key, part in report.items():
        inner = ",\n".join(f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in part.items())
        lines.append(f"  {json.dumps(key)}: {{\n{inner}\n  }}")
    return "{\n" + ",\n".join(lines) + "\n}"


@command_line
def main(arguments: Sequence[str]) -> None:
    """Write the page."""
    argparse.ArgumentParser(prog="python -m scripts.update_etl_docs", description=__doc__).parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        page = update(PAGE.read_text(encoding="utf-8"), Path(folder))
    PAGE.write_text(page, encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    sys.exit(main())

"""docs/peft.md: its tables are what the configuration takes, and its commands are ones that there are."""

import re
from typing import get_args

from recsys.config import PeftConfig
from recsys.config.peft import PeftMethod, Quantization
from tests.readme import ROOT

PAGE = (ROOT / "docs" / "peft.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]


def test_every_method_has_its_row() -> None:
    named = [re.findall(r"`(\w+)`", row[0])[0] for row in ROWS[: len(get_args(PeftMethod))]]
    assert sorted(named) == sorted(get_args(PeftMethod))


def test_every_field_has_its_row_and_default() -> None:
    stated = {}
    for names, default, _ in ROWS[len(get_args(PeftMethod)) :][:7]:
        fields, values = re.findall(r"`(\w+)`", names), [v.strip(" `") for v in default.split(";")[0].split(",")]
        stated |= dict(zip(fields, values, strict=True))
    fields = {name: field.default for name, field in PeftConfig.model_fields.items() if name != "method"}
    assert stated.keys() == fields.keys()
    for name, default in fields.items():
        shown = str(default).lower() if isinstance(default, bool) else default
        assert stated[name] == str(shown).removesuffix(".0"), name
    assert all(f"`{kind}`" in PAGE for kind in get_args(Quantization))
